"""What the metrics of explanations share: posteriors, decision groups, resampling by patient (B, Singla et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .arrays import to_numpy
from .bootstrap import Interval, interval, mean_samples, patient_weights

GROUPS = ("negative", "positive")


def check_posterior(
    values: Any, name: str, length: int | None = None, ndim: tuple[int, ...] = (1,)
) -> np.ndarray:
    """Posteriors of one class as float64, all finite and in [0, 1].

    Args:
        values: `(N,)`, or `(N, S)` where *ndim* allows 2.
        name: of the argument, for messages.
        length: N, where another argument fixes it.
        ndim: numbers of dimensions that are allowed.

    Raises:
        ValueError: naming the argument and the first wrong value.
    """
    values = _numbers(values, name)
    if values.ndim not in ndim:
        shapes = " or ".join({1: "(N,)", 2: "(N, S)"}[n] for n in ndim)
        raise ValueError(f"{name} must have shape {shapes}, got {values.shape}.")
    if values.size == 0:
        raise ValueError(f"{name} is empty, shape {values.shape}; there is nothing to measure.")
    if length is not None and len(values) != length:
        raise ValueError(f"{name} has {len(values)} rows, the other inputs {length}; give one row per image.")
    bad = ~((values >= 0) & (values <= 1))  # NaN included
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name}: row {place[0]} is {values[place]:g} ({int(bad.sum())} values are NaN or outside [0, 1]); "
            "posteriors are probabilities, so apply a sigmoid to logits first."
        )
    return values


def check_threshold(threshold: float) -> float:
    """The decision boundary, a number with 0 < threshold < 1.

    Raises:
        ValueError: for another value.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}.")
    return float(threshold)


def decision_groups(posterior: np.ndarray, threshold: float = 0.5) -> dict[str, np.ndarray]:
    """Rows of each decision: `"negative"` where posterior < threshold, else `"positive"`; `(N,)` bool each."""
    positive = np.asarray(posterior) >= check_threshold(threshold)
    return {"negative": ~positive, "positive": positive}


def resampling_weights(patients: Sequence | None, length: int, n_resamples: int, seed: int) -> np.ndarray:
    """Bootstrap weights `(n_resamples, length)`; without patients every row counts as a patient.

    Raises:
        ValueError: for a number of patients other than *length*.
    """
    if patients is None:
        patients = np.arange(length)
    elif len(patients) != length:
        raise ValueError(f"patients has {len(patients)} entries for {length} images; give one per image.")
    return patient_weights(patients, n_resamples, seed)


def grouped_means(
    values: np.ndarray, groups: Mapping[str, np.ndarray], weights: np.ndarray, confidence: float = 0.95
) -> dict[str, Interval]:
    """Mean of a number per image in each group of rows; NaN rows are left out, an empty group gives NaN."""
    return {
        name: interval(mean_samples(np.where(rows, values, np.nan), weights), confidence)
        for name, rows in groups.items()
    }


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        return to_numpy(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, all rows of one shape: {error}.") from None
