"""What every black box keeps, whatever is behind it."""

import math

import numpy as np
import pytest
import torch

from cf_cxr.black_box import (
    BlackBoxError,
    FidelityReport,
    ImageClassifier,
    StudentClassifier,
    as_image_classifier,
    from_attribute_classifier,
    from_callable,
    from_module,
    from_torchxrayvision,
    from_transformers,
)
from tests.black_box.helpers import Linear, MeanBrightness, assert_gradient, attribute_model, images
from tests.black_box.test_torchxrayvision_adapter import LikeTorchXRayVision
from tests.black_box.test_transformers_adapter import PROCESSOR, resnet, vit


def student(threshold=0.5):
    model = attribute_model(
        attributes=[{"name": "black_box", "kind": "binary", "categories": ["no", "yes"]}], temperature={}
    )
    fidelity = FidelityReport(0.01, 0.1, 0.99, 0.98, 0.97, 80, 20, "sha256:0", True, 0)
    model.config.distillation = {"class_name": "x", "threshold": threshold, "fidelity": fidelity.to_dict()}
    return StudentClassifier(model)


def function(pixels):
    return 1 / (1 + np.exp(-pixels.mean((1, 2, 3)) * 3))


MAKERS = {
    "subclass": lambda **o: MeanBrightness(**o),
    "attribute": lambda **o: from_attribute_classifier(attribute_model(), "finding", **o),
    "attribute, one of three": lambda **o: from_attribute_classifier(attribute_model(), "site", "B", **o),
    "vit": lambda **o: from_transformers(vit(), 1, PROCESSOR, **o),
    "resnet": lambda **o: from_transformers(resnet(), "cardiomegaly", PROCESSOR, **o),
    "module": lambda **o: from_module(Linear(classes=3), index=1, activation="softmax", class_name="x", **o),
    "module in float64": lambda **o: from_module(Linear().double(), class_name="x", **o),
    "torchxrayvision": lambda **o: from_torchxrayvision(LikeTorchXRayVision(), "effusion", **o),
    "student": student,
    "function": lambda **o: from_callable(function, "x", probe_size=16, **o),
}  # fmt: skip


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_answers_are_posteriors_of_single_images(make):
    classifier, x = make(), images(7)
    answer = classifier.posterior(x)
    assert answer.dtype == torch.float32 and answer.shape == (7,) and answer.std() > 1e-3
    assert answer.min() >= 0 and answer.max() <= 1 and not answer.requires_grad
    for batch_size in (1, 2, 100):
        torch.testing.assert_close(classifier.posterior(x, batch_size), answer, atol=1e-5, rtol=0)
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.bfloat16, 0.02)):
        torch.testing.assert_close(classifier(x.to(dtype)).detach(), answer, atol=tolerance, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(classifier(x).detach(), answer, atol=1e-5, rtol=0)
    torch.testing.assert_close(classifier.validate(x), answer)
    assert classifier.decision(torch.tensor([0.49, 0.5, 0.7])).tolist() == [False, True, True]
    assert as_image_classifier(classifier, classifier.class_name) is classifier


def test_gradients_reach_the_images_only(make):
    classifier, x = make(), images(2)
    if not classifier.differentiable:
        assert not classifier(x.clone().requires_grad_()).requires_grad
        return
    assert_gradient(classifier, x)
    assert all(p.grad is None and p.requires_grad for p in classifier.parameters())


def test_training_mode_is_ignored_and_put_back(make):
    classifier, x = make(), images()
    expected, before = classifier.posterior(x), classifier.fingerprint()
    wrapped = list(classifier.children())
    for module in wrapped:
        module.train()
    modes = [m.training for m in classifier.modules()]
    assert torch.equal(classifier.posterior(x), expected) and classifier.fingerprint() == before
    assert classifier.train() is classifier and not classifier.training
    assert [m.training for m in classifier.modules()] == modes


def test_a_fingerprint_names_what_is_explained(make):
    first = make().fingerprint()
    assert first.startswith("sha256:") and len(first) == 7 + 64 and make().fingerprint() == first
    assert make(threshold=0.51).fingerprint() != first
    moved = make().at_operating_point(0.1)
    assert moved.fingerprint() != first == moved.at_operating_point(None).fingerprint()


def test_an_operating_point_shifts_the_log_odds(make):
    original = make()
    moved, x = original.at_operating_point(0.1), images()
    assert moved.operating_point == 0.1 and original.operating_point is None
    shift = moved.posterior(x).logit() - original.posterior(x).logit()
    torch.testing.assert_close(shift, torch.full((6,), math.log(9)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("point", [0, 1, -0.2, float("nan"), "0.3"])
def test_an_impossible_operating_point_is_refused(point):
    with pytest.raises(BlackBoxError, match="operating_point=.*between 0 and 1"):
        MeanBrightness().at_operating_point(point)


def test_the_operating_point_becomes_one_half_with_its_gradient():
    classifier = MeanBrightness().at_operating_point(0.1)
    flat = torch.tensor([0.0, 0.1, 1.0, 0.3])[:, None, None, None].expand(-1, 1, 8, 8) * 2 - 1
    got = classifier.posterior(flat).tolist()
    assert got[:3] == pytest.approx([0, 0.5, 1], abs=1e-6)
    x = flat[3:].clone().requires_grad_()
    classifier(x).sum().backward()
    slope = 0.1 * 0.9 / (0.3 * 0.9 + 0.7 * 0.1) ** 2  # of f' with respect to f, by the quotient rule
    assert x.grad.sum().item() == pytest.approx(slope / 2, rel=1e-4)


@pytest.mark.parametrize("threshold", [0, 1, -0.1, float("nan"), None, "half"])
def test_thresholds_that_cannot_be(threshold):
    with pytest.raises(BlackBoxError, match="threshold"):
        MeanBrightness(threshold=threshold)


def test_a_class_needs_a_name_and_a_subclass_an_answer():
    with pytest.raises(BlackBoxError, match="name of the class"):
        from_module(Linear(), class_name=3)
    with pytest.raises(TypeError, match="compute_posterior"):
        ImageClassifier("x")
    with pytest.raises(BlackBoxError, match="batch_size"):
        MeanBrightness().posterior(images(), 0)
