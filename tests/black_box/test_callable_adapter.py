import numpy as np
import pytest
import torch

from cf_cxr.black_box import from_callable, from_module
from tests.black_box.helpers import SIZE, Linear, images


def numpy_twin(module):
    """The same linear classifier in numpy, as a service would compute it."""
    weight = module.layer.weight.detach().numpy().astype(np.float64)
    bias = module.layer.bias.detach().numpy()

    def classify(pixels):
        assert pixels.dtype == np.float32 and pixels.flags["C_CONTIGUOUS"]
        return 1 / (1 + np.exp(-(pixels.reshape(len(pixels), -1) @ weight.T + bias)))

    return classify


def test_a_callable_equal_to_a_module_gives_the_same_posteriors():
    module, x = Linear(), images(7)
    classifier = from_callable(numpy_twin(module), "effusion")
    torch.testing.assert_close(
        classifier.posterior(x), from_module(module, class_name="effusion").posterior(x), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(classifier.posterior(x, 3), classifier.posterior(x), atol=1e-6, rtol=0)


def test_keras_conventions():
    """Channels last, three of them, in [0, 255], at the model's size, several classes, as floats of any kind."""
    seen = []

    def predict(pixels):
        seen.append(pixels)
        return (pixels.mean((1, 2, 3))[:, None] / 255 * np.array([0.1, 0.9])).astype(np.float64)

    settings = {"size": (8, 12), "value_range": (0, 255)}
    classifier = from_callable(predict, "effusion", preprocess=settings, channels_last=True, index=1)
    x = images(3, 24)
    expected = (x.mean((1, 2, 3)) + 1) / 2 * 0.9
    torch.testing.assert_close(classifier.posterior(x), expected, atol=2e-3, rtol=0)
    assert seen[0].shape == (3, 8, 12, 3) and seen[0].min() >= 0 and 1 < seen[0].max() <= 255


def test_answers_of_every_form():
    mean = from_callable(lambda x: (x.mean((1, 2, 3)) + 1) / 2, "x")(images())
    forms = {
        "a column": lambda x: (x.mean((1, 2, 3)) + 1)[:, None] / 2,
        "a list": lambda x: [float((image.mean() + 1) / 2) for image in x],
        "a tensor": lambda x: torch.from_numpy((x.mean((1, 2, 3)) + 1) / 2),
        "whole numbers": lambda x: np.ones(len(x), int),
    }
    for name, form in forms.items():
        answer = from_callable(form, "x")(images())
        torch.testing.assert_close(answer, torch.ones(6) if name == "whole numbers" else mean)
    logits = from_callable(lambda x: x.mean((1, 2, 3)) * 9, "x", activation="sigmoid")(images())
    torch.testing.assert_close(logits, (9 * images().mean((1, 2, 3))).sigmoid())


def test_a_torch_module_as_a_callable_is_not_adopted():
    module = Linear()
    classifier = from_callable(lambda x: module(torch.from_numpy(x)).sigmoid(), "x")
    assert list(classifier.parameters()) == [] and classifier.device is None


def test_the_functions_own_errors_are_not_hidden():
    def offline(pixels):
        raise ConnectionError("service is down")

    with pytest.raises(ConnectionError, match="service is down"):
        from_callable(offline, "x")(images())


def test_fingerprint_by_identity_asks_nothing():
    def never(pixels):
        raise AssertionError("asked")

    first = from_callable(never, "x", identity="https://example.org/v1").fingerprint()
    assert from_callable(numpy_twin(Linear()), "x", identity="https://example.org/v1").fingerprint() == first
    for options in ({"identity": "https://example.org/v2"}, {"threshold": 0.4}, {"preprocess": {"std": 2.0}}):
        options = {"identity": "https://example.org/v1", **options}
        assert from_callable(never, "x", **options).fingerprint() != first
    assert from_callable(never, "y", identity="https://example.org/v1").fingerprint() != first


def test_fingerprint_by_behaviour():
    calls = []

    def counted(pixels):
        calls.append(len(pixels))
        return numpy_twin(Linear())(pixels)

    classifier = from_callable(counted, "x", probe_size=SIZE)
    first = classifier.fingerprint()
    assert classifier.fingerprint() == first and sum(calls) == 8
    assert from_callable(numpy_twin(Linear()), "x", probe_size=SIZE).fingerprint() == first
    assert from_callable(numpy_twin(Linear(seed=1)), "x", probe_size=SIZE).fingerprint() != first
