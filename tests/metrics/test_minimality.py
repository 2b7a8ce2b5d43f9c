import math

import numpy as np
import pytest

from cf_cxr.metrics.minimality import latent_minimality


def cld(closer, farther, w=(0.8, 0.2)):
    return math.log(w[0] * math.exp(closer) + w[1] * math.exp(farther))


def test_by_hand_on_a_line():
    """Class 0 at 0, 1, 2; class 1 at 5 and 9. do(class 1) moves the first image from 0 to 6."""
    latent = np.array([[0.0], [1], [2], [5], [9]])
    value = np.array([0, 0, 0, 1, 1])
    moved = latent.copy()
    moved[0] = 6
    out = latent_minimality("binary", latent, moved, value, 1 - value)
    # d = 6: of class 1 (distances 5 and 9) half are as close; of class 0 (1 and 2) none is as far
    assert out[0] == pytest.approx(cld(1 / 2, 0))
    # the second does not move: d = 0; nobody of class 1 is as close, everybody of class 0 as far
    assert out[1] == pytest.approx(cld(0, 1))


def test_nobody_to_compare_with_is_missing():
    latent = np.array([[0.0], [1], [2]])
    out = latent_minimality("categorical", latent, latent, [0, 0, 1], [2, 1, 0])
    assert math.isnan(out[0])  # no real image of class 2
    assert not math.isnan(out[1])
    assert math.isnan(out[2])  # no other image of class 1


def test_continuous_values_share_bins():
    latent = np.array([[0.0], [1], [5], [6]])
    out = latent_minimality("continuous", latent, latent + 2, [20, 22, 70, 72], [75, 75, 20, 20], n_bins=2)
    as_classes = latent_minimality("binary", latent, latent + 2, [0, 0, 1, 1], [1, 1, 0, 0])
    np.testing.assert_allclose(out, as_classes)


def slow_kl(a, b):
    (m, s), (m2, s2) = (a[0], np.exp(a[1])), (b[0], np.exp(b[1]))
    return np.mean(np.log(s2 / s) + (s**2 + (m - m2) ** 2) / (2 * s2**2) - 0.5)


@pytest.mark.parametrize("distance", ["l1", "kl"])
def test_equals_a_double_loop(distance):
    rng = np.random.default_rng(0)
    shape = (30, 6) if distance == "l1" else (30, 2, 6)
    z = rng.normal(size=shape)
    z_new = z + 0.5 * rng.normal(size=shape)
    value, new = rng.integers(0, 3, 30), rng.integers(0, 3, 30)
    d = slow_kl if distance == "kl" else lambda a, b: np.mean(abs(a - b))
    expected = []
    for i in range(30):
        own = d(z_new[i], z[i])
        closer = np.mean([d(z[j], z[i]) <= own for j in range(30) if j != i and value[j] == new[i]])
        farther = np.mean([d(z[j], z[i]) >= own for j in range(30) if j != i and value[j] == value[i]])
        expected.append(cld(closer, farther))
    out = latent_minimality("categorical", z, z_new, value, new, distance=distance)
    np.testing.assert_allclose(out, expected)


def test_equal_distances_count_on_both_sides():
    latent, value = np.array([[0.0], [2], [1], [2], [4]]), np.array([0, 0, 0, 1, 1])
    moved = latent.copy()
    moved[0] = -2  # d = 2: of class 1 (2 and 4) half are as close, of class 0 (2 and 1) half as far
    out = latent_minimality("binary", latent, moved, value, 1 - value)
    assert out[0] == pytest.approx(cld(1 / 2, 1 / 2))
