import json

import pytest

import cf_cxr
from cf_cxr.black_box import (
    AttributeImageClassifier,
    BlackBoxError,
    CallableImageClassifier,
    ModuleImageClassifier,
    TransformersImageClassifier,
    as_image_classifier,
    load_image_classifier,
)
from tests.black_box.helpers import Linear, attribute_model, images
from tests.black_box.test_transformers_adapter import PROCESSOR, vit
from tests.pipelines.tiny import random_explainer


def test_every_kind_finds_its_adapter():
    kinds = [
        (attribute_model(), "finding", {}, AttributeImageClassifier),
        (vit(), "cardiomegaly", {"processor": PROCESSOR}, TransformersImageClassifier),
        (vit(), "mine", {"processor": PROCESSOR, "label": 2}, TransformersImageClassifier),
        (Linear(), "effusion", {}, ModuleImageClassifier),
        (lambda x: x.mean((1, 2, 3)) / 2 + 0.5, "effusion", {}, CallableImageClassifier),
    ]
    for given, name, options, kind in kinds:
        classifier = as_image_classifier(given, name, threshold=0.4, **options)
        assert type(classifier) is kind and classifier.threshold == 0.4
        assert classifier(images()).shape == (6,)
        assert as_image_classifier(classifier) is classifier
        assert as_image_classifier(classifier, classifier.class_name) is classifier


def test_loading_an_attribute_classifier(tmp_path):
    model = attribute_model()
    model.save_pretrained(tmp_path)
    loaded = load_image_classifier(tmp_path, "effusion")
    assert loaded.fingerprint() == as_image_classifier(model, "effusion").fingerprint()
    assert as_image_classifier(tmp_path, "effusion").fingerprint() == loaded.fingerprint()
    assert as_image_classifier(loaded, "FINDING=Effusion ") is loaded
    with pytest.raises(FileNotFoundError, match="no model folder.*nothing"):
        load_image_classifier(tmp_path / "nothing", "effusion")
    with pytest.raises(BlackBoxError, match="config.json' is a file"):
        load_image_classifier(tmp_path / "config.json", "effusion")


def without_head(folder):
    """What many hubs offer: a backbone, whose classification head would be random."""
    model = vit()
    weights = {n: w for n, w in model.state_dict().items() if not n.startswith("classifier")}
    model.save_pretrained(folder, state_dict=weights)
    PROCESSOR.save_pretrained(folder)


def damaged(folder):
    attribute_model().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"123")


def of_another_size(folder):
    attribute_model().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["backbone_config"]["embedding_size"] = 16
    (folder / "config.json").write_text(json.dumps(config))


def no_classifier(folder):
    random_explainer().save_pretrained(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_head, "2 weights of the ViTForImageClassification are not in .*classifier.bias.*random"),
        (damaged, "damaged or incomplete"),
        (of_another_size, "other shapes than its config.json says"),
        (no_classifier, "holds a progressive_explainer model, which classifies no images"),
    ],
)
def test_folders_without_a_whole_classifier(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(BlackBoxError, match=message):
        load_image_classifier(tmp_path, "Cardiomegaly" if make is without_head else "effusion")


def test_the_package_offers_what_a_black_box_needs():
    names = ("BlackBoxError", "ImageClassifier", "StudentClassifier", "as_image_classifier", "distil")
    for name in names:
        assert name in dir(cf_cxr) and getattr(cf_cxr, name) is getattr(cf_cxr.black_box, name)
