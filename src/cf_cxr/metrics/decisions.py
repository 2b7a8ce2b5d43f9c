"""What the metrics of explanations share: decision groups and their means (B, Singla et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .bootstrap import Interval, interval, mean_samples

GROUPS = ("negative", "positive")


def decision_groups(posterior: np.ndarray, threshold: float = 0.5) -> dict[str, np.ndarray]:
    """Rows of each decision: `"negative"` where posterior < threshold, else `"positive"`; `(N,)` bool each.

    Raises:
        ValueError: for a threshold outside (0, 1).
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}.")
    positive = np.asarray(posterior) >= threshold
    return {"negative": ~positive, "positive": positive}


def grouped_means(
    values: np.ndarray, groups: Mapping[str, np.ndarray], weights: np.ndarray, confidence: float = 0.95
) -> dict[str, Interval]:
    """Mean of a number per image in each group of rows; NaN rows are left out, an empty group gives NaN."""
    return {
        name: interval(mean_samples(np.where(rows, values, np.nan), weights), confidence)
        for name, rows in groups.items()
    }
