"""Confidence intervals that respect that images of one patient are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def patient_weights(patients: Sequence, n_resamples: int, seed: int) -> np.ndarray:
    """How often each row appears in each bootstrap resample of *patients*.

    Returns:
        integers `(n_resamples, N)`; all rows of a patient share their weight, and reusing the array for two
        statistics pairs them.
    """
    unique, index = np.unique(np.asarray(patients), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(
        len(unique), np.full(len(unique), 1 / len(unique)), size=n_resamples
    )
    return draws[:, index]


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float], weights: np.ndarray, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Estimate and percentile interval of a weighted statistic.

    Args:
        statistic: weights `(N,)` -> value; called with ones for the estimate.
        weights: `(n_resamples, N)` from `patient_weights`.

    Returns:
        (estimate, low, high). Resamples where the statistic is not defined (NaN) are left out; if it is not
        defined at all, NaN.
    """
    estimate = float(statistic(np.ones(weights.shape[1])))
    values = np.array([statistic(w) for w in weights], float)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return estimate, float("nan"), float("nan")
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return estimate, float(low), float(high)
