import numpy as np
import pytest
import torch

from cf_cxr.metrics.bootstrap import patient_weights
from cf_cxr.metrics.calibration import calibration_samples, expected_calibration_error
from cf_cxr.training.attribute_classifier.calibration import expected_calibration_error as re_exported


def test_constructed_binary_case():
    """Ten rows at 0.9 of which six are positive, thirty at 0.25 of which nine are."""
    probability = np.repeat([0.9, 0.25], [10, 30])
    value = np.r_[np.repeat([1, 0], [6, 4]), np.repeat([1, 0], [9, 21])]
    assert expected_calibration_error(probability, value) == pytest.approx(0.25 * 0.3 + 0.75 * 0.05)


def test_constructed_categorical_case():
    probability = np.tile([0.7, 0.2, 0.1], (10, 1))
    value = np.repeat([0, 1, 2], [5, 3, 2])  # confidence 0.7, accuracy 0.5
    assert expected_calibration_error(probability, value) == pytest.approx(0.2)


def test_errors_cancel_within_a_bin_only():
    probability, value = [0.25, 0.75], [1, 0]  # +0.75 and -0.75
    assert expected_calibration_error(probability, value, n_bins=2) == pytest.approx(0.75)
    assert expected_calibration_error(probability, value, n_bins=1) == pytest.approx(0)


def test_bins_are_closed_below_and_the_last_one_above():
    assert expected_calibration_error([0.5, 0.75], [0, 1], n_bins=2) == pytest.approx(abs(0.5 - 0.25) / 2)
    assert expected_calibration_error([0.95, 1.0], [1, 1], n_bins=10) == pytest.approx(0.025)


def test_unknown_is_left_out_and_torch_accepted():
    p = torch.tensor([1.0, 0.0, 0.5], dtype=torch.bfloat16)
    assert re_exported(p, torch.tensor([1, 0, float("nan")])) == 0


def test_samples_are_those_of_every_resample():
    rng = np.random.default_rng(0)
    value, probability = rng.integers(0, 3, 40).astype(float), rng.dirichlet(np.ones(3), 40)
    weights = patient_weights(np.arange(40) // 2, 5, 0)
    for w, found in zip([np.ones(40, int), *weights], calibration_samples(probability, value, weights)):
        rows = np.repeat(np.arange(40), w)
        assert found == pytest.approx(expected_calibration_error(probability[rows], value[rows]))
