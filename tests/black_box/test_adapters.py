import pytest

from cf_cxr.black_box import (
    AttributeImageClassifier,
    BlackBoxError,
    CallableImageClassifier,
    ModuleImageClassifier,
    TransformersImageClassifier,
    as_image_classifier,
    load_image_classifier,
)

from .helpers import Linear, attribute_model, images
from .test_transformers_adapter import PROCESSOR, vit


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


def test_an_image_classifier_of_another_class_or_with_options_is_refused():
    classifier = as_image_classifier(Linear(), "effusion")
    with pytest.raises(BlackBoxError, match="posterior of 'effusion', not of 'oedema'"):
        as_image_classifier(classifier, "oedema")
    with pytest.raises(BlackBoxError, match="no further options, got threshold"):
        as_image_classifier(classifier, threshold=0.4)


@pytest.mark.parametrize(
    ("given", "name", "options", "message"),
    [
        (3, "x", {}, "int cannot be asked about images"),
        (None, None, {}, "NoneType cannot be asked"),
        (Linear(), "x", {"processor": PROCESSOR}, "adapter of Linear has no such option.*'processor'"),
        (vit(), None, {"processor": PROCESSOR}, "class_name= one of 'No Finding', 'Pleural Effusion'"),
        (vit(), "oedema", {"processor": PROCESSOR}, "Unknown label 'oedema'"),
    ],
)
def test_bad_input(given, name, options, message):
    with pytest.raises(BlackBoxError, match=message):
        as_image_classifier(given, name, **options)


def test_loading_an_attribute_classifier(tmp_path):
    model = attribute_model()
    model.save_pretrained(tmp_path)
    loaded = load_image_classifier(tmp_path, "effusion")
    assert loaded.fingerprint() == as_image_classifier(model, "effusion").fingerprint()
    assert as_image_classifier(tmp_path, "effusion").fingerprint() == loaded.fingerprint()
    with pytest.raises(OSError):
        load_image_classifier(tmp_path / "nothing", "effusion")
