import math

import numpy as np
import pytest

from cf_cxr.metrics.bootstrap import patient_weights
from cf_cxr.metrics.effectiveness import absolute_interval, effectiveness, fooling_gap
from tests.metrics.gaussian_toy import auc, classes, feature, sigmoid

N = 2000
WEIGHTS = patient_weights(np.arange(N), 50, seed=0)


@pytest.mark.parametrize("separation, sign", [(2.5, 1), (0.5, -1)], ids=["exaggerated", "too weak"])
def test_distance_from_reality_in_closed_form(separation, sign):
    value = classes(N)
    out = effectiveness(
        "binary", sigmoid(feature(N, separation)), value, sigmoid(feature(N, 1.5)), value, WEIGHTS
    )
    expected = auc(separation) - auc(1.5)
    assert out["effectiveness"][0] == pytest.approx(auc(separation), abs=0.05)
    assert out["real"][0] == pytest.approx(auc(1.5), abs=0.05)
    assert out["signed_distance"][0] == pytest.approx(expected, abs=0.05) and sign * expected > 5
    assert out["distance"][0] == pytest.approx(abs(expected), abs=0.05)
    assert 0 < out["distance"][1] < out["distance"][0] < out["distance"][2]


def test_reality_itself_has_distance_zero():
    value, p = classes(N), sigmoid(feature(N, 1.5))
    out = effectiveness("binary", p, value, p, value, WEIGHTS)
    assert out["signed_distance"] == (0, 0, 0) and out["distance"] == (0, 0, 0)


def test_absolute_interval_contains_zero_when_the_signed_one_does():
    assert absolute_interval((-1, -3, 2)) == (1, 0, 3)
    assert absolute_interval((-2, -3, -1)) == (2, 1, 3)
    assert absolute_interval((2, 1, 3)) == (2, 1, 3)
    assert all(math.isnan(v) for v in absolute_interval((math.nan,) * 3))


def test_a_fooled_classifier_has_a_positive_gap():
    value = classes(N)
    out = fooling_gap("binary", sigmoid(feature(N, 1.0)), sigmoid(feature(N, 3.0)), value, WEIGHTS)
    assert out["judge"][0] == pytest.approx(auc(1), abs=0.05)
    assert out["model"][0] == pytest.approx(auc(3), abs=0.05)
    assert out["gap"][0] == pytest.approx(auc(3) - auc(1), abs=0.1) and out["gap"][1] > 0


def test_classifiers_that_agree_have_no_gap():
    p = sigmoid(feature(N, 1.0))
    assert fooling_gap("binary", p, p, classes(N), WEIGHTS)["gap"] == (0, 0, 0)
    out = fooling_gap("continuous", [40, 50], [44, 50], [44, 50], np.ones((1, 2)))
    assert out["gap"] == (-2, -2, -2)  # error: fooling is negative
