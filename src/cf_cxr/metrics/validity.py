"""Counterfactual validity (CV): does the decision flip? (B = Singla et al. 2023)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import check_posterior, to_numpy
from .bootstrap import Interval, patient_weights
from .decisions import decision_groups, grouped_means


def decision_flipped(
    source_posterior: Any, reached: Any, *, threshold: float = 0.5, minimum_change: float = 0.0
) -> np.ndarray:
    """Whether an explanation lies on the other side of the decision boundary, `(N,)` bool.

    Args:
        source_posterior: `(N,)` f(x) of the images, in [0, 1].
        reached: `(N,)` f of the final explanation, or `(N, S)` of the series, whose **last** step counts.
        threshold: decision boundary, in (0, 1); a posterior equal to it is positive.
        minimum_change: the posterior must also have moved by more than this; 0 asks for the flip only.

    Raises:
        ValueError: naming the argument, for other shapes, no rows, NaN or values outside [0, 1].
    """
    source = check_posterior(source_posterior, "source_posterior")
    reached = check_posterior(reached, "reached", len(source), ndim=(1, 2))
    final = reached if reached.ndim == 1 else reached[:, -1]
    if not 0 <= minimum_change < 1:
        raise ValueError(f"minimum_change must be at least 0 and below 1, got {minimum_change}.")
    crossed = decision_groups(source, threshold)["positive"] != decision_groups(final, threshold)["positive"]
    return crossed & (np.abs(final - source) > minimum_change)


def counterfactual_validity(
    source_posterior: Any,
    reached: Any,
    *,
    threshold: float = 0.5,
    minimum_change: float = 0.0,
    patients: Sequence | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Share of explanations whose decision flips, overall and by factual decision.

    The final image counts: a series that crosses the boundary and comes back is not valid.

    Args:
        source_posterior, reached, threshold, minimum_change: as in `decision_flipped`.
        patients: `(N,)` identifiers; None: every image is a patient.
        n_resamples, seed: of the 95 % intervals by patient.

    Returns:
        `"all"`, `"negative"`, `"positive"` (the factual decision) to (estimate, low, high) in [0, 1], ideal 1; NaN
        for an empty group.

    Raises:
        ValueError: as `decision_flipped`, or for another number of patients.
    """
    flipped = decision_flipped(source_posterior, reached, threshold=threshold, minimum_change=minimum_change)
    groups = {"all": np.ones(len(flipped), bool), **decision_groups(to_numpy(source_posterior), threshold)}
    return grouped_means(
        flipped.astype(float), groups, patient_weights(patients, n_resamples, seed, len(flipped))
    )
