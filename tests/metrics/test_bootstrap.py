import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cf_cxr.metrics.bootstrap import interval, mean_samples, paired_difference, patient_weights, score_samples


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    value = rng.integers(0, 2, 300)
    return rng, value, rng.normal(value), patient_weights(rng.integers(0, 150, 300), 60, seed=1)


@pytest.mark.parametrize("digits", [8, 1, 0], ids=["no ties", "some ties", "many ties"])
def test_binary_samples_equal_sklearn(data, digits):
    _, value, score, weights = data
    score = np.round(score, digits)
    samples = score_samples("binary", score, value, weights)
    assert samples[0] == pytest.approx(100 * roc_auc_score(value, score), abs=1e-10)
    expected = [100 * roc_auc_score(value, score, sample_weight=w) for w in weights]
    np.testing.assert_allclose(samples[1:], expected, atol=1e-10)


def test_macro_one_vs_rest_by_hand():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.9, 0.05, 0.05]])
    macro = 100 * (2 / 3 + 1 + 1 / 2) / 3  # class 0: 2 of 3 pairs, class 1: all, class 2: 2 of 4
    assert score_samples("categorical", probabilities, [0, 1, 2, 2], np.empty((0, 4)))[0] == pytest.approx(
        macro
    )


def test_undefined_resamples_are_missing_never_fifty():
    weights = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    samples = score_samples("binary", [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], weights)
    assert samples[:1] == 100 and np.isnan(samples[1]) and samples[2] == 100 and np.isnan(samples[3])
    assert np.isnan(score_samples("binary", [0.1, 0.2], [1, 1], np.ones((2, 2)))).all()
    two_of_three = score_samples("categorical", np.eye(3)[:2], [0, 1], np.ones((1, 2)))
    assert np.isnan(two_of_three).all()
    assert np.isnan(score_samples("continuous", [1, 2], [1, 2], np.zeros((1, 2)))[1])


def test_blocks_do_not_change_the_result(monkeypatch, data):
    _, value, score, weights = data
    whole = score_samples("binary", score, value, weights)
    monkeypatch.setattr("cf_cxr.metrics.bootstrap._BLOCK", 700)
    np.testing.assert_array_equal(score_samples("binary", score, value, weights), whole)


def test_interval_percentiles_and_missing():
    assert interval([7, *range(101)], confidence=0.9) == pytest.approx((7, 5, 95))
    assert interval([7, np.nan, 1, 3], confidence=0.5) == (7, 1.5, 2.5)
    estimate, low, high = interval([7.0])
    assert estimate == 7 and math.isnan(low) and math.isnan(high)


def test_patients_are_resampled_as_a_whole():
    """20 copies of 30 patients are no more information than the 30: the interval stays as wide."""
    rng = np.random.default_rng(2)
    values = rng.normal(size=30)
    many, patients = np.repeat(values, 20), np.repeat(np.arange(30), 20)

    def width(v, p):
        _, low, high = interval(mean_samples(v, patient_weights(p, 2000, seed=0)))
        return high - low

    assert width(many, patients) == pytest.approx(width(values, np.arange(30)))
    assert width(many, np.arange(600)) < width(many, patients) / 3


def test_mean_leaves_out_missing_rows():
    samples = mean_samples([1, np.nan, 4], np.array([[1, 5, 0], [0, 9, 0], [1, 0, 3]]))
    np.testing.assert_allclose(samples, [2.5, 1, np.nan, 13 / 4])


def test_paired_difference_cancels_what_is_shared(data):
    _, value, score, weights = data
    samples = score_samples("binary", score, value, weights)
    assert paired_difference(samples + 2, samples) == pytest.approx((2, 2, 2))


def test_interval_of_a_mean_has_the_width_of_the_closed_form():
    values = np.random.default_rng(0).normal(3, 2, size=400)
    weights = patient_weights(np.arange(400), 2000, seed=1)
    estimate, low, high = interval(mean_samples(values, weights))
    assert estimate == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(estimate - half, abs=0.03) and high == pytest.approx(
        estimate + half, abs=0.03
    )
