"""Calibration: do predicted probabilities mean what they say?"""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import check_posterior, check_value, check_weights, ratio, to_numpy

BINS = 15


def calibration_samples(probability: Any, value: Any, weights: Any, n_bins: int = BINS) -> np.ndarray:
    """Expected calibration error on all rows and on every resample `(1 + R,)`, in [0, 1]; the bins do not move.

    The sum over bins of (share of rows) |mean confidence - frequency|; bins of equal width, [a, b) except the last,
    which includes 1.

    Args:
        probability: `(N,)` of class 1 for a binary attribute, compared with its frequency; `(N, C)` for a
            categorical one, whose largest probability is compared with the accuracy. Numpy or torch.
        value: `(N,)` class indices.
        weights: `(R, N)`.
        n_bins: number of bins.

    Raises:
        ValueError: for probabilities outside [0, 1] or NaN, wrong shapes, impossible classes, or no rows.
    """
    probability = check_posterior(probability, "probability", ndim=(1, 2))
    classes = 2 if probability.ndim == 1 else probability.shape[1]
    value = check_value("categorical", value, len(probability), "the attribute", classes)
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}.")
    confidence, correct = probability, value
    if probability.ndim == 2:
        confidence, correct = probability.max(1), (probability.argmax(1) == value).astype(float)
    index = np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], confidence, side="right")
    gaps = np.zeros((len(value), n_bins))
    gaps[np.arange(len(value)), index] = confidence - correct
    every = np.concatenate([np.ones((1, len(value))), check_weights(weights, len(value))])
    return ratio(np.abs(every @ gaps).sum(1), every.sum(1))


def expected_calibration_error(probability: Any, value: Any, n_bins: int = BINS) -> float:
    """Expected calibration error, in [0, 1]; see `calibration_samples`. Rows whose value is NaN (unknown) are left out.

    Raises:
        ValueError: as `calibration_samples`, or for no known label.
    """
    value = to_numpy(value)
    probability = check_posterior(probability, "probability", len(value), ndim=(1, 2))
    known = ~np.isnan(value)
    if not known.any():
        raise ValueError("The calibration error needs at least one known label.")
    weights = np.empty((0, int(known.sum())))
    return float(calibration_samples(probability[known], value[known], weights, n_bins)[0])
