"""A black box by its name: of a command's argument."""

import pytest
import torch

from cf_cxr.black_box import BlackBoxError, ImageClassifier, as_image_classifier
from cf_cxr.black_box.adapters import import_object, load_black_box
from tests.pipelines.tiny import tiny_model
from tests.training.progressive_explainer.tiny_explainer import PatchClassifier

HERE = "tests.training.progressive_explainer.tiny_explainer"


def test_classifiers_by_name(tmp_path, monkeypatch):
    black_box = load_black_box(f"{HERE}:predict", "lower left", '{"identity": "v1", "threshold": 0.4}')
    assert isinstance(black_box, ImageClassifier) and not black_box.differentiable
    assert black_box.threshold == 0.4 and black_box.class_name == "lower left"
    for name in ("make_classifier", "PatchClassifier"):
        assert isinstance(load_black_box(f"{HERE}:{name}"), PatchClassifier)
    (tmp_path / "own_module.py").write_text(
        "def answer(images):\n    return images.mean((1, 2, 3)) / 2 + 0.5\n"
    )
    monkeypatch.chdir(tmp_path)
    own = load_black_box("own_module:answer", "brightness")
    assert own.posterior(torch.zeros(2, 1, 8, 8)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "message"), [("no_such_module:f", "no_such_module"), (f"{HERE}:nothing", "has no 'nothing'")]
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        import_object(name)


@pytest.mark.parametrize(("options", "message"), [("index=3", "no JSON"), ("[3]", "JSON object")])
def test_options_that_are_no_json_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_black_box(f"{HERE}:predict", "x", options)
    with pytest.raises(BlackBoxError, match="class_name"):
        load_black_box(f"{HERE}:predict")


def test_the_classifier_of_a_causal_model_is_meant(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    expected = as_image_classifier(model.classifier.eval(), "finding")
    assert load_black_box(str(tmp_path), "finding").fingerprint() == expected.fingerprint()
