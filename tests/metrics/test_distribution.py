import numpy as np
import pytest
from scipy.linalg import sqrtm

from cf_cxr.metrics.distribution import frechet_distance, kernel_distance, kernel_distance_samples


def with_moments(n, mean, covariance, seed=0):
    """A sample whose mean and covariance (N - 1) are exactly the given ones."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x = x - x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_frechet_between_gaussians_in_closed_form():
    """Commuting covariances: |mu_a - mu_b|² + sum (sd_a - sd_b)²."""
    a = with_moments(200, [0, 0, 0], np.diag([1.0, 4.0, 9.0]), seed=0)
    b = with_moments(150, [3, 4, 0], np.diag([4.0, 4.0, 1.0]), seed=1)
    assert frechet_distance(a, b) == pytest.approx(25 + 1 + 0 + 4)
    assert frechet_distance(b, a) == pytest.approx(30)


def test_frechet_with_covariances_that_do_not_commute():
    c1, c2 = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[3.0, -1.0], [-1.0, 1.0]])
    a, b = with_moments(50, [0, 0], c1), with_moments(60, [1, 0], c2, seed=3)
    expected = 1 + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_frechet_is_exact_with_fewer_rows_than_features():
    """Covariances of rank 1 in 50 dimensions, along one and along two perpendicular directions."""
    line, across = np.zeros((2, 50)), np.zeros((2, 50))
    line[:, 0], across[:, 1] = [-1, 1], [-3, 3]  # variances 2 and 18
    assert frechet_distance(line, 3 * line) == pytest.approx((np.sqrt(18) - np.sqrt(2)) ** 2)
    assert frechet_distance(line, across) == pytest.approx(2 + 18)
    x = np.random.default_rng(0).normal(size=(20, 300))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 0.1) == pytest.approx(300 * 0.01)


def slow_mmd2(a, b):
    def k(x, y):
        return (x @ y / len(x) + 1) ** 3

    m, n = len(a), len(b)
    aa = sum(k(a[i], a[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    bb = sum(k(b[i], b[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return aa + bb - 2 * sum(k(x, y) for x in a for y in b) / (m * n)


def test_kernel_distance_equals_a_double_loop():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(13, 4)), rng.normal(0.5, size=(9, 4))
    assert kernel_distance(a, b) == pytest.approx(slow_mmd2(a, b))
    long = rng.normal(size=(1500, 4))  # more than one block
    assert kernel_distance(long, b) == pytest.approx(kernel_distance(long[::-1].copy(), b), rel=1e-9)
    subset = kernel_distance_samples(a, b, subset_size=9, n_subsets=3)
    assert subset.shape == (3,) and np.isfinite(subset).all()
    with_all = kernel_distance_samples(a, a[:13], subset_size=13, n_subsets=2)
    np.testing.assert_allclose(with_all, slow_mmd2(a, a))  # a subset of all rows is all pairs


def test_kernel_distance_is_unbiased():
    """Zero on average for one distribution, though the samples are tiny; clearly positive for two."""
    rng = np.random.default_rng(1)
    same = [kernel_distance(rng.normal(size=(8, 3)), rng.normal(size=(8, 3))) for _ in range(1500)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 3 * error and min(same) < 0
    other = [kernel_distance(rng.normal(size=(8, 3)), rng.normal(1, size=(8, 3))) for _ in range(300)]
    expected = kernel_distance(rng.normal(size=(4000, 3)), rng.normal(1, size=(4000, 3)))
    assert np.mean(other) == pytest.approx(expected, abs=4 * np.std(other) / np.sqrt(300))
    assert expected > 10 * error


def test_subsets_have_the_same_expectation():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(60, 3)), rng.normal(0.7, size=(60, 3))
    subsets = kernel_distance_samples(a, b, subset_size=10, n_subsets=2000)
    assert subsets.mean() == pytest.approx(kernel_distance(a, b), abs=4 * subsets.std() / np.sqrt(2000))
