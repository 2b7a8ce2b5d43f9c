"""Counterfactual validity by hand."""

import numpy as np
import pytest

from cf_cxr.metrics.validity import counterfactual_validity, decision_flipped


def test_by_hand():
    source, reached = [0.1, 0.2, 0.3, 0.8, 0.9], [0.9, 0.5, 0.49, 0.7, 0.1]
    np.testing.assert_array_equal(decision_flipped(source, reached), [True, True, False, False, True])
    out = counterfactual_validity(source, reached, n_resamples=100)
    assert [out[g][0] for g in ("all", "negative", "positive")] == pytest.approx([0.6, 2 / 3, 0.5])
    assert out["all"][1] < 0.6 < out["all"][2]


def test_the_boundary_is_positive():
    np.testing.assert_array_equal(decision_flipped([0.5, 0.4], [0.5, 0.5]), [False, True])
    np.testing.assert_array_equal(decision_flipped([0.5, 0.2], [0.6, 0.3], threshold=0.3), [False, True])


def test_only_the_last_step_counts():
    """A series that crosses the boundary and comes back is not valid."""
    np.testing.assert_array_equal(
        decision_flipped([0.1, 0.1], [[0.1, 0.7, 0.4], [0.2, 0.4, 0.6]]), [False, True]
    )


def test_ideal_and_inert():
    source = np.random.default_rng(0).random(50)
    assert all(v == (1, 1, 1) for v in counterfactual_validity(source, 1 - source, n_resamples=20).values())
    assert all(v == (0, 0, 0) for v in counterfactual_validity(source, source, n_resamples=20).values())


def test_a_flip_by_a_hair_can_be_refused():
    np.testing.assert_array_equal(
        decision_flipped([0.49, 0.05], [0.51, 0.95], minimum_change=0.8), [False, True]
    )


def test_an_empty_group_is_missing():
    out = counterfactual_validity([0.1, 0.2], [0.9, 0.9], n_resamples=10)
    assert np.isnan(out["positive"]).all() and out["negative"][0] == 1


def test_patients_are_resampled_together():
    out = counterfactual_validity([0.1] * 4, [0.9, 0.9, 0.1, 0.1], patients=list("aabb"), n_resamples=300)
    assert out["all"] == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([0.1], [np.nan]), "reached: row 0 is nan"),
        (([0.1], [4.0]), "reached: row 0 is 4"),
        (([0.1, 0.2], [0.3]), "reached has 1 rows"),
        (([], []), "source_posterior is empty"),
        (([0.1], np.zeros((1, 0))), "reached is empty"),
        (([np.nan], [0.3]), "source_posterior: row 0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        counterfactual_validity(*arguments)


def test_bad_options():
    with pytest.raises(ValueError, match="threshold"):
        counterfactual_validity([0.1], [0.2], threshold=1.5)
    with pytest.raises(ValueError, match="minimum_change"):
        counterfactual_validity([0.1], [0.2], minimum_change=-0.1)
    with pytest.raises(ValueError, match="patients"):
        counterfactual_validity([0.1], [0.2], patients=["a", "b"])
