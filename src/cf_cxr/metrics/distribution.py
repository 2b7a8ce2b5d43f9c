"""Distances between the distributions of real and generated images in a feature space.

Both are only meaningful with the name of the feature extractor beside them, and comparable only between numbers from
the same extractor and the same sample sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics.pairwise import polynomial_kernel

from .arrays import check_features


def frechet_distance(a: Any, b: Any) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features ("FID" with Inception features).

    |mu_a - mu_b|² + tr(C_a + C_b - 2 (C_a C_b)^½), covariances with N - 1. The trace of the square root is the sum
    of the singular values of X_a X_bᵀ, X the centred features over √(N - 1) (C = XᵀX): no square root of a matrix
    is taken and nothing is added to the diagonal, so the result is exact also when N < D and the covariances are
    singular. It is then still *biased* upwards, by an amount that grows with D / N: compare equal N only, or use
    `kernel_distance`.

    Args:
        a, b: features `(N, D)` and `(M, D)`, N and M at least 2.

    Returns:
        the squared distance, at least 0, in squared units of the features.

    Raises:
        ValueError: for other shapes, fewer than two rows, NaN.
    """
    a, b = _check_two(a, b)
    root_a, root_b = _root(a), _root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    mean = np.square(a.mean(0) - b.mean(0)).sum()
    return float(max(mean + np.square(root_a).sum() + np.square(root_b).sum() - 2 * cross, 0.0))


def kernel_distance(a: Any, b: Any, **options: Any) -> float:
    """Unbiased squared maximum mean discrepancy with a polynomial kernel ("KID", Binkowski et al., ICLR 2018).

    k(x, y) = (gamma x·y + coef0)^degree. Unbiased at every sample size: 0 on average for one distribution, so that
    small negative values are normal.

    Args:
        a, b: features `(N, D)` and `(M, D)`, N and M at least 2.
        options: of `kernel_distance_samples`.

    Returns:
        the squared discrepancy.

    Raises:
        ValueError: for other shapes, fewer than two rows, NaN, or subsets that cannot be drawn.
    """
    return float(kernel_distance_samples(a, b, **options).mean())


def kernel_distance_samples(
    a: Any,
    b: Any,
    *,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    subset_size: int | None = None,
    n_subsets: int = 100,
    seed: int = 0,
) -> np.ndarray:
    """The squared discrepancy of every subset `(n_subsets,)`, or `(1,)` of all pairs; see `kernel_distance`.

    Its standard deviation is the usual "KID ±".

    Args:
        a, b: features `(N, D)` and `(M, D)`, N and M at least 2.
        degree, gamma, coef0: of the kernel; gamma is 1 / D unless given.
        subset_size: None uses all pairs; a number averages over subsets of that size drawn without replacement
            (cheaper for very large N, same expectation).
        n_subsets, seed: how many subsets, and of the draw.
    """
    a, b = _check_two(a, b)
    gamma = 1.0 / a.shape[1] if gamma is None else gamma
    if subset_size is None:
        return np.array([_mmd2(a, b, degree, gamma, coef0)])
    if not 2 <= subset_size <= min(len(a), len(b)) or n_subsets < 1:
        raise ValueError(
            f"Cannot draw {n_subsets} subsets of {subset_size} from {len(a)} and {len(b)} rows: subset_size must be "
            "between 2 and the smaller number of rows, n_subsets at least 1."
        )
    rng = np.random.default_rng(seed)
    draws = (
        (rng.choice(len(a), subset_size, replace=False), rng.choice(len(b), subset_size, replace=False))
        for _ in range(n_subsets)
    )
    return np.array([_mmd2(a[i], b[j], degree, gamma, coef0) for i, j in draws])


def _check_two(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = check_features(a, "first set", 2), check_features(b, "second set", 2)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"The two sets have {a.shape[1]} and {b.shape[1]} features; use one extractor.")
    return a, b


def _root(features: np.ndarray) -> np.ndarray:
    """R with RᵀR = covariance, with at most D rows."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return np.linalg.qr(centred, mode="r") if len(centred) > centred.shape[1] else centred


def _mmd2(a: np.ndarray, b: np.ndarray, degree: int, gamma: float, coef0: float) -> float:
    def total(x: np.ndarray, y: np.ndarray) -> float:
        blocks = (x[i : i + 1024] for i in range(0, len(x), 1024))
        return sum(float(polynomial_kernel(block, y, degree, gamma, coef0).sum()) for block in blocks)

    def within(x: np.ndarray) -> float:
        diagonal = ((gamma * np.square(x).sum(1) + coef0) ** degree).sum()
        return (total(x, x) - float(diagonal)) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b))
