"""Fréchet distance per decision group: do explanations look like real images of that decision? (B, 2023)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import check_features, check_posterior
from .decisions import decision_groups
from .distribution import frechet_distance


@dataclass(frozen=True)
class GroupDistance:
    """Squared Fréchet distance within one decision group, and the numbers of images behind it.

    Attributes:
        distance: NaN where either side has fewer than two images.
        real, explanations: images compared on each side.
    """

    distance: float
    real: int
    explanations: int


def decision_frechet_distance(
    real_features: Any,
    explanation_features: Any,
    real_posterior: Any,
    explanation_posterior: Any,
    *,
    threshold: float = 0.5,
    equal_numbers: bool = True,
    seed: int = 0,
) -> dict[str, GroupDistance]:
    """Fréchet distance between real images and explanations that the classifier puts on the same side.

    Comparing all with all would hide a shift of the groups' sizes in the distance. The groups of explanations are
    those of the decision they **reached**, not of the decision asked for.

    Args:
        real_features, explanation_features: `(N, D)` and `(M, D)` from one named extractor.
        real_posterior, explanation_posterior: `(N,)` and `(M,)`, in [0, 1].
        threshold: decision boundary; a posterior equal to it is positive.
        equal_numbers: draws the larger side of a group down to the smaller: the distance is biased upwards for few
            images, and only distances of equal numbers compare.
        seed: of that draw.

    Returns:
        `"negative"` and `"positive"`.

    Raises:
        ValueError: naming the argument, for other shapes, no rows, NaN, or posteriors outside [0, 1].
    """
    sides = []
    for name, features, posterior in (
        ("real", real_features, real_posterior),
        ("explanation", explanation_features, explanation_posterior),
    ):
        features = check_features(features, f"{name}_features")
        posterior = check_posterior(posterior, f"{name}_posterior", len(features))
        sides.append((features, decision_groups(posterior, threshold)))
    (real, real_groups), (made, made_groups) = sides
    if real.shape[1] != made.shape[1]:
        raise ValueError(
            f"real_features has {real.shape[1]} features and explanation_features {made.shape[1]}; use one extractor."
        )
    rng = np.random.default_rng(seed)
    return {
        group: _distance(real[real_groups[group]], made[made_groups[group]], equal_numbers, rng)
        for group in real_groups
    }


def _distance(
    real: np.ndarray, made: np.ndarray, equal_numbers: bool, rng: np.random.Generator
) -> GroupDistance:
    if equal_numbers:
        number = min(len(real), len(made))
        real, made = (
            x if len(x) == number else x[rng.choice(len(x), number, replace=False)] for x in (real, made)
        )
    enough = min(len(real), len(made)) >= 2
    distance = frechet_distance(real, made) if enough else float("nan")
    return GroupDistance(distance, len(real), len(made))
