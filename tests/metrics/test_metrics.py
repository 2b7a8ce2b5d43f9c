import numpy as np
import pytest
import torch

from cf_cxr.metrics.bootstrap import interval, mean_samples, patient_weights
from cf_cxr.metrics.exposure import affine_component, exposure_share
from cf_cxr.metrics.soundness import image_distance


def test_resamples_keep_patients_together():
    patients = ["a", "a", "b", "c", "c", "c"]
    weights = patient_weights(patients, 200, seed=0)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, 0] + weights[:, 2] + weights[:, 3] == 3).all()


def test_interval_of_a_mean_has_the_width_of_the_closed_form():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    weights = patient_weights(np.arange(400), 2000, seed=1)
    estimate, low, high = interval(mean_samples(values, weights))
    assert estimate == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(estimate - half, abs=0.03) and high == pytest.approx(
        estimate + half, abs=0.03
    )


def test_exposure_share_is_one_for_exposure_and_small_for_anatomy():
    torch.manual_seed(0)
    x = torch.rand(4, 1, 16, 16) * 1.4 - 0.7
    torch.testing.assert_close(exposure_share(x, 0.8 * x + 0.1), torch.ones(4))
    local = x.clone()
    local[:, :, 4:6, 4:6] += 0.2 * torch.randn(4, 1, 2, 2)
    assert exposure_share(x, local).max() < 0.1
    assert exposure_share(x, x).isnan().all()


def test_affine_component_is_the_least_squares_fit():
    torch.manual_seed(0)
    x, change = torch.randn(1, 1, 8, 8), torch.randn(1, 1, 8, 8)
    design = np.stack([x.numpy().ravel(), np.ones(64)], axis=1)
    fit = design @ np.linalg.lstsq(design, change.numpy().ravel(), rcond=None)[0]
    np.testing.assert_allclose(affine_component(x, change).numpy().ravel(), fit, atol=1e-5)


def test_image_distance_is_in_grey_levels():
    x = torch.zeros(2, 1, 4, 4)
    y = x.clone()
    y[1] = 2 / 255
    torch.testing.assert_close(image_distance(x, y), torch.tensor([0.0, 1.0]))
