"""Calibration: do predicted probabilities mean what they say?"""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import to_numpy


def expected_calibration_error(probability: Any, value: Any, n_bins: int = 15) -> float:
    """Expected calibration error: sum over bins of (share of rows) |mean confidence - frequency|, in [0, 1].

    Bins of equal width, [a, b) except the last, which includes 1.

    Args:
        probability: `(N,)` of class 1 for a binary attribute, compared with its frequency; `(N, C)` for a
            categorical one, whose largest probability is compared with the accuracy. Numpy or torch.
        value: `(N,)` class indices; rows with NaN (unknown) are left out.
        n_bins: number of bins.

    Raises:
        ValueError: for probabilities outside [0, 1] or NaN, wrong shapes, impossible classes, or no known label.
    """
    probability, value = to_numpy(probability), to_numpy(value)
    if probability.ndim not in (1, 2) or value.shape != probability.shape[:1]:
        raise ValueError(
            f"Expected probabilities (N,) or (N, C) and values (N,), got {probability.shape} and {value.shape}."
        )
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}.")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("Probabilities must be in [0, 1]; apply sigmoid or softmax to logits first.")
    known = ~np.isnan(value)
    if not known.any():
        raise ValueError("The calibration error needs at least one known label.")
    probability, value = probability[known], value[known]
    classes = 2 if probability.ndim == 1 else probability.shape[1]
    if bad := [v for v in np.unique(value) if v not in range(classes)]:
        raise ValueError(f"There are {classes} classes, 0 to {classes - 1}; a row has the value {bad[0]:g}.")
    if probability.ndim == 1:
        confidence, correct = probability, value
    else:
        confidence, correct = probability.max(1), (probability.argmax(1) == value).astype(float)
    edges = np.linspace(0, 1, n_bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, n_bins - 1)
    gap = np.bincount(index, confidence - correct, minlength=n_bins)
    return float(np.abs(gap).sum() / len(confidence))
