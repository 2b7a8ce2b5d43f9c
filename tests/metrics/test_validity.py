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


@pytest.mark.parametrize(
    "source, reached, options, expected",
    [
        ([0.5, 0.4], [0.5, 0.5], {}, [False, True]),  # the boundary is positive
        ([0.5, 0.2], [0.6, 0.3], {"threshold": 0.3}, [False, True]),
        ([0.1, 0.1], [[0.1, 0.7, 0.4], [0.2, 0.4, 0.6]], {}, [False, True]),  # only the last step counts
        ([0.49, 0.05], [0.51, 0.95], {"minimum_change": 0.8}, [False, True]),  # no flip by a hair
    ],
)
def test_what_is_a_flip(source, reached, options, expected):
    np.testing.assert_array_equal(decision_flipped(source, reached, **options), expected)


def test_an_empty_group_is_missing():
    out = counterfactual_validity([0.1, 0.2], [0.9, 0.9], n_resamples=10)
    assert np.isnan(out["positive"]).all() and out["negative"][0] == 1


def test_patients_are_resampled_together():
    out = counterfactual_validity([0.1] * 4, [0.9, 0.9, 0.1, 0.1], patients=list("aabb"), n_resamples=300)
    assert out["all"] == (0.5, 0.0, 1.0)
