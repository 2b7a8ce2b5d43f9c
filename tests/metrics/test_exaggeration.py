"""Exaggeration curve: known slopes and errors, groups, empty bins, intervals."""

import numpy as np
import pytest
import torch

from cf_cxr.metrics.exaggeration import exaggeration_curve, posterior_bin
from cf_cxr.models.progressive_explainer.posterior_bins import PosteriorBins

CENTRES = (np.arange(10) + 0.5) / 10
FEW = {"n_resamples": 50, "seed": 1}


def everything(source):
    """Every image asked for every bin."""
    return np.tile(CENTRES, (len(source), 1))


@pytest.fixture
def source():
    return np.random.default_rng(0).random(40)


def test_an_ideal_explainer_has_slope_one_and_no_error(source):
    out = exaggeration_curve(source, everything(source), everything(source), by_source_bin=True, **FEW)
    assert list(out)[:3] == ["all", "negative", "positive"] and len(out) == 13
    for curve in out.values():
        if curve.images:
            np.testing.assert_allclose(curve.slope, 1)
            np.testing.assert_allclose([curve.mae, curve.image_mae, curve.intercept], 0, atol=1e-12)
            np.testing.assert_allclose([m[0] for m in curve.means], CENTRES)
            assert curve.empty_bins == [] and (curve.counts == curve.images).all()


def test_doing_nothing_has_slope_zero(source):
    target = everything(source)
    out = exaggeration_curve(source, target, np.repeat(source[:, None], 10, 1), **FEW)
    for name, rows in {"all": source < 2, "negative": source < 0.5, "positive": source >= 0.5}.items():
        mean = source[rows].mean()
        np.testing.assert_allclose(out[name].slope, 0, atol=1e-12)
        assert out[name].intercept[0] == pytest.approx(mean)
        assert out[name].mae[0] == pytest.approx(np.abs(mean - CENTRES).mean())
        assert out[name].images == rows.sum()


def test_a_reversed_and_a_shrunken_explainer(source):
    target = everything(source)
    assert exaggeration_curve(source, target, 1 - target, **FEW)["all"].slope[0] == pytest.approx(-1)
    shrunken = exaggeration_curve(source, target, 0.5 + 0.6 * (target - 0.5), **FEW)["all"]
    assert shrunken.slope[0] == pytest.approx(0.6) and shrunken.intercept[0] == pytest.approx(0.2)
    assert shrunken.mae[0] == pytest.approx(0.4 * np.abs(CENTRES - 0.5).mean()) == pytest.approx(0.1)


def test_errors_are_measured_from_centres_not_edges():
    """An explainer that hits the left edge of every bin is off by half a bin."""
    target = CENTRES[None] + [[0.0], [0.04], [-0.05]]  # in the bin, at its right and its left end
    out = exaggeration_curve([0.2, 0.3, 0.4], target, np.tile(CENTRES - 0.05, (3, 1)), **FEW)["all"]
    assert out.mae[0] == pytest.approx(0.05) and out.image_mae[0] == pytest.approx(0.05)
    np.testing.assert_array_equal(out.counts, 3)


def test_opposite_errors_cancel_in_the_bin_mean_only():
    target = np.full((2, 1), 0.55)
    out = exaggeration_curve([0.1, 0.2], target, [[0.45], [0.65]], **FEW)["negative"]
    assert out.mae[0] == pytest.approx(0) and out.image_mae[0] == pytest.approx(0.1)


def test_empty_bins_are_listed_and_left_out_of_slope_and_error():
    target = np.array([[0.05, 0.15, 0.95]] * 3)
    out = exaggeration_curve([0.1, 0.2, 0.3], target, target * 0.5, **FEW)["negative"]
    assert out.empty_bins == [2, 3, 4, 5, 6, 7, 8]
    assert np.isnan([out.means[k] for k in out.empty_bins]).all()
    assert out.slope[0] == pytest.approx(0.5)
    assert out.mae[0] == pytest.approx(np.mean([0.025, 0.075, 0.475]))


def test_least_squares_equals_polyfit_over_unequal_counts():
    rng = np.random.default_rng(3)
    source, target, reached = rng.random(30), rng.random((30, 4)), rng.random((30, 4))
    out = exaggeration_curve(source, target, reached, **FEW)["all"]
    means = [reached[posterior_bin(target) == k].mean() for k in range(10)]
    np.testing.assert_allclose([m[0] for m in out.means], means)
    np.testing.assert_allclose([out.slope[0], out.intercept[0]], np.polyfit(CENTRES, means, 1))
    assert out.mae[0] == pytest.approx(np.abs(means - CENTRES).mean())


def test_undefined_is_missing():
    out = exaggeration_curve([0.1, 0.2], [[0.55], [0.57]], [[0.5], [0.6]], by_source_bin=True, **FEW)
    assert np.isnan(out["all"].slope[0]) and out["all"].mae[0] == pytest.approx(0)  # one bin has no slope
    assert out["positive"].images == 0 and len(out["positive"].empty_bins) == 10
    empty = out["positive"]
    assert np.isnan([*empty.slope, *empty.mae, *empty.image_mae, *np.ravel(empty.means)]).all()
    assert out["source 0.1-0.2"].images == out["source 0.2-0.3"].images == 1


def test_the_threshold_splits_the_groups():
    target = np.tile(CENTRES, (3, 1))
    out = exaggeration_curve([0.2, 0.3, 0.4], target, target, threshold=0.3, **FEW)
    assert out["negative"].images == 1 and out["positive"].images == 2  # equal to it is positive


def test_intervals_resample_patients():
    """Two patients, one ideal and one inert, with many images: a resample has both, or only one of them."""
    target = np.tile(CENTRES, (40, 1))
    ideal = np.arange(40) < 20
    reached = np.where(ideal[:, None], target, 0.3)
    out = exaggeration_curve([0.3] * 40, target, reached, 10, ideal, n_resamples=200, seed=0)["negative"]
    assert out.slope[0] == pytest.approx(0.5)
    np.testing.assert_allclose(out.slope[1:], [0, 1], atol=1e-12)
    np.testing.assert_allclose(out.means[9], [0.625, 0.3, 0.95])
    apart = exaggeration_curve([0.3] * 40, target, reached, n_resamples=200, seed=0)["negative"]
    assert apart.slope[0] == pytest.approx(0.5) and 0.2 < apart.slope[1] < apart.slope[2] < 0.8


def test_bins_of_the_contract():
    posterior = np.array([0, 0.05, 0.1, 0.0999, 0.5, 0.95, 1])
    np.testing.assert_array_equal(posterior_bin(posterior), [0, 0, 1, 0, 5, 9, 9])
    np.testing.assert_array_equal(posterior_bin(np.arange(10) / 10), np.arange(10))
    for n in (2, 7, 10):
        edges = torch.arange(n + 1) / n
        posterior = torch.cat([edges, torch.rand(500), PosteriorBins(n).centres])
        np.testing.assert_array_equal(posterior_bin(posterior.numpy(), n), PosteriorBins(n).index(posterior))
