"""Paired tests: directions, p-values of scipy, patients, what is not defined."""

import numpy as np
import pytest
from scipy import stats

from cf_cxr.metrics.paired_tests import change_by_decision

FEW = {"n_resamples": 50}


def paired_change(before, after, **options):
    """Of images with a negative decision."""
    return change_by_decision(before, after, np.full(len(before), 0.1), **options)["negative"]


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    before = rng.normal(size=30)
    return before, before + rng.normal(0.3, 1, 30)


@pytest.mark.parametrize("rises, alternative", [(None, "two-sided"), (True, "greater"), (False, "less")])
def test_p_values_are_those_of_scipy(pairs, rises, alternative):
    before, after = pairs
    out = paired_change(before, after, rises_with_posterior=rises, **FEW)
    assert out.t_p == pytest.approx(stats.ttest_rel(after, before, alternative=alternative).pvalue)
    assert out.wilcoxon_p == pytest.approx(stats.wilcoxon(after, before, alternative=alternative).pvalue)
    assert out.change[0] == pytest.approx((after - before).mean()) and out.direction == "rises"
    assert (out.pairs, out.undefined, out.patients) == (30, 0, 30)


def test_the_groups_move_in_opposite_directions():
    before = np.linspace(0.4, 0.5, 20)
    posterior = np.where(np.arange(20) < 10, 0.1, 0.9)
    after = before + np.where(posterior < 0.5, 0.05, -0.04) + 0.01 * np.sin(np.arange(20))
    out = change_by_decision(before, after, posterior, rises_with_posterior=True, **FEW)
    assert out["negative"].direction == "rises" and out["positive"].direction == "falls"
    assert out["negative"].alternative == "greater" and out["positive"].alternative == "less"
    assert max(g.t_p for g in out.values()) < 1e-6 and max(g.wilcoxon_p for g in out.values()) < 0.002
    assert out["negative"].change[1] > 0 > out["positive"].change[2]
    assert out["positive"].before == pytest.approx(before[10:].mean())
    wrong = change_by_decision(before, after, posterior, rises_with_posterior=False, **FEW)
    assert min(min(g.t_p, g.wilcoxon_p) for g in wrong.values()) > 0.99
    both = change_by_decision(before, after, posterior, **FEW)
    assert both["positive"].t_p == pytest.approx(2 * out["positive"].t_p)


def test_missing_measurements_are_left_out_in_pairs():
    out = paired_change([1, 2, np.nan, 4], [2, np.nan, 3, 7.0], **FEW)
    assert (out.pairs, out.undefined) == (2, 2)
    assert (out.before, out.after, out.change[0]) == (2.5, 4.5, 2)


def test_images_of_one_patient_are_one_observation(pairs):
    before, after = pairs
    again = paired_change(np.tile(before, 5), np.tile(after, 5), patients=np.tile(np.arange(30), 5), **FEW)
    once = paired_change(before, after, patients=np.arange(30), **FEW)
    assert again.t_p == pytest.approx(once.t_p) and again.wilcoxon_p == pytest.approx(once.wilcoxon_p)
    assert again.patients == 30 and again.pairs == 150
    np.testing.assert_allclose(again.change, once.change)
    assert paired_change(np.tile(before, 5), np.tile(after, 5), **FEW).t_p < once.t_p  # would be too sure


def test_nothing_changed_is_no_evidence():
    out = paired_change([1, 2, 3], [1, 2, 3], **FEW)
    assert out.direction == "none" and out.change[0] == 0 and np.isnan([out.t_p, out.wilcoxon_p]).all()


def test_undefined_is_missing():
    same = paired_change([1, 2, 3], [1.5, 2.5, 3.5], **FEW)
    assert np.isnan(same.t_p) and same.wilcoxon_p == pytest.approx(0.25)
    one = paired_change([1], [2], **FEW)
    assert np.isnan(one.t_p) and one.wilcoxon_p == 1
    out = change_by_decision([1, 2], [2, 4], [0.1, 0.2], **FEW)["positive"]
    assert out.pairs == 0 and out.direction == "undefined"
    assert np.isnan([out.before, out.after, *out.change, out.t_p, out.wilcoxon_p]).all()
