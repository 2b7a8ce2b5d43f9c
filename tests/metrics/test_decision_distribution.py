"""Fréchet distance per decision group."""

import numpy as np
import pytest

from cf_cxr.metrics.decision_distribution import decision_frechet_distance
from cf_cxr.metrics.distribution import frechet_distance

RNG = np.random.default_rng(0)
REAL, MADE = RNG.normal(size=(60, 3)), RNG.normal(0.5, size=(50, 3))
REAL_P = np.where(np.arange(60) < 20, 0.1, 0.9)
MADE_P = np.where(np.arange(50) < 30, 0.2, 0.8)


def test_groups_are_compared_with_their_own():
    out = decision_frechet_distance(REAL, MADE, REAL_P, MADE_P, equal_numbers=False)
    assert out["negative"].distance == pytest.approx(frechet_distance(REAL[:20], MADE[:30]))
    assert out["positive"].distance == pytest.approx(frechet_distance(REAL[20:], MADE[30:]))
    assert (out["negative"].real, out["negative"].explanations) == (20, 30)


def test_equal_numbers_are_drawn():
    out = decision_frechet_distance(REAL, MADE, REAL_P, MADE_P)
    assert (out["negative"].real, out["negative"].explanations) == (20, 20)
    assert (out["positive"].real, out["positive"].explanations) == (20, 20)
    again = decision_frechet_distance(REAL, MADE, REAL_P, MADE_P)
    other = decision_frechet_distance(REAL, MADE, REAL_P, MADE_P, seed=1)
    assert out == again and out["negative"].distance != other["negative"].distance


def test_explanations_that_only_changed_sides_are_not_close():
    """Groups hide nothing: features that stay on the old side are far from the new side's real images."""
    real = np.concatenate([RNG.normal(0, 1, (100, 2)), RNG.normal(5, 1, (100, 2))])
    posterior = np.repeat([0.1, 0.9], 100)
    inert = decision_frechet_distance(real, real, posterior, 1 - posterior)
    assert min(g.distance for g in inert.values()) > 40 and frechet_distance(real, real) < 1e-9
    same = decision_frechet_distance(real, real, posterior, posterior)
    assert max(g.distance for g in same.values()) < 1e-9


def test_too_few_are_missing():
    out = decision_frechet_distance(REAL, MADE[:1], REAL_P, [0.1])
    assert np.isnan(out["negative"].distance) and np.isnan(out["positive"].distance)
    assert out["positive"].explanations == 0
