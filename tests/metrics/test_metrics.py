import math

import numpy as np
import pytest
import torch

from cf_cxr.metrics.bootstrap import attribute_score, bootstrap_interval, patient_weights
from cf_cxr.metrics.exposure import affine_component, exposure_share
from cf_cxr.metrics.soundness import image_distance


def test_scores_by_hand():
    value = np.array([0, 0, 1, 1])
    assert attribute_score("binary", [0.1, 0.4, 0.35, 0.8], value) == pytest.approx(75)
    assert attribute_score("continuous", [10, 22, 31, 40], [12, 20, 30, 40]) == pytest.approx(1.25)
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.9, 0.05, 0.05]])
    perfect = attribute_score("categorical", probabilities[:3], [0, 1, 2])
    assert perfect == pytest.approx(100)
    macro = 100 * (2 / 3 + 1 + 1 / 2) / 3  # class 0: 2 of 3 pairs, class 1: all, class 2: 2 of 4
    assert attribute_score("categorical", probabilities, [0, 1, 2, 2]) == pytest.approx(macro)


def test_undefined_scores_are_missing_not_fifty():
    assert math.isnan(attribute_score("binary", [0.2, 0.3], [1, 1]))
    assert math.isnan(attribute_score("categorical", np.eye(3)[:2], [0, 1]))
    assert math.isnan(attribute_score("continuous", [], []))
    with pytest.raises(ValueError, match="NaN"):
        attribute_score("binary", [0.2, math.nan], [0, 1])


def test_weights_count_rows_as_often():
    prediction, value = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    repeated = np.array([0, 1, 1, 2, 2, 2])
    expected = attribute_score("binary", prediction[repeated], value[repeated])
    assert attribute_score("binary", prediction, value, np.array([1, 2, 3, 0])) == pytest.approx(expected)


def test_resamples_keep_patients_together():
    patients = ["a", "a", "b", "c", "c", "c"]
    weights = patient_weights(patients, 200, seed=0)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, 0] + weights[:, 2] + weights[:, 3] == 3).all()


def test_interval_of_a_mean_has_the_width_of_the_closed_form():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    weights = patient_weights(np.arange(400), 2000, seed=1)
    estimate, low, high = bootstrap_interval(lambda w: np.average(values, weights=w), weights)
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
