import pytest
import torch

from cf_cxr.black_box import as_image_classifier, from_attribute_classifier
from tests.black_box.helpers import attribute_model, images


@pytest.fixture(scope="module")
def model():
    return attribute_model()


def test_posteriors_are_the_models_calibrated_ones(model):
    x = images()
    expected = model.predict(x)
    finding = from_attribute_classifier(model, "finding")
    assert torch.equal(finding(x), expected["finding"]) and finding.class_name == "finding=effusion"
    healthy = from_attribute_classifier(model, "finding", "Healthy")
    torch.testing.assert_close(healthy(x), 1 - expected["finding"])
    for i, site in enumerate("ABC"):
        assert torch.equal(from_attribute_classifier(model, "site", site)(x), expected["site"][:, i])
    assert finding.posterior(x).std() > 0.01


def test_images_of_another_size_are_resized_to_the_models(model):
    x = images(size=32)
    expected = model.predict(
        torch.nn.functional.interpolate(x, size=(16, 16), mode="bilinear", antialias=True)
    )
    torch.testing.assert_close(from_attribute_classifier(model, "finding")(x), expected["finding"])


def test_a_model_of_several_channels_gets_them():
    model = attribute_model(num_channels=3)
    x = images()
    expected = model.predict(x.expand(-1, 3, -1, -1))["finding"]
    torch.testing.assert_close(from_attribute_classifier(model, "finding")(x), expected)


def test_fingerprint_sees_the_temperature_and_survives_saving(model, tmp_path):
    first = from_attribute_classifier(model, "finding").fingerprint()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert from_attribute_classifier(again, "finding").fingerprint() == first
    again.config.temperature = {"finding": 1.8}
    assert from_attribute_classifier(again, "finding").fingerprint() != first
    assert from_attribute_classifier(model, "finding", "healthy", "finding=effusion").fingerprint() != first


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("finding", "finding=effusion"),
        ("Effusion", "finding=effusion"),
        ("finding=healthy", "finding=healthy"),
        ("site=b", "site=B"),
        ("c", "site=C"),
    ],
)
def test_classes_by_name(model, name, expected):
    assert as_image_classifier(model, name).class_name == expected
