"""Identity: is an explanation still this patient? Embedding distance and re-identification (B = Singla et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import pairwise_distances_chunked
from sklearn.metrics.pairwise import paired_cosine_distances

from .arrays import check_features, ratio
from .bootstrap import interval, mean_samples, patient_weights

_TIE = 1e-9


def identity_preservation(
    embedding_before: Any,
    embedding_after: Any,
    distractors: Any = None,
    *,
    n_distractors: int | None = None,
    patients: Sequence | None = None,
    distractor_patients: Sequence | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Distance between image and explanation, and whether the explanation finds its own image among strangers.

    An explanation is re-identified when its own image is strictly nearer, in cosine distance, than every distractor;
    a tie (to 1e-9) is a miss, so a collapsed embedding scores 0, not 1. The rate falls with the number of distractors
    and rises with what the embedding sees besides anatomy (exposure, markers): report both with it. The embedding
    should not be the explainer's own bottleneck, which is trained to agree.

    Args:
        embedding_before: `(N, D)` of the images. embedding_after: `(N, D)` of their explanations.
        distractors: `(M, D)` of other images; None takes the other rows of *embedding_before*. Images of the same
            patient never distract.
        n_distractors: draws this many per row, without replacement; None uses all.
        patients: `(N,)` identifiers; None: every image is a patient.
        distractor_patients: `(M,)` identifiers of *distractors*; None: none of them is a patient of the images.
        n_resamples, seed: of the 95 % intervals by patient (over rows; the distractors stay), and of the draw.

    Returns:
        intervals (estimate, low, high): `distance` between image and explanation; `reference_distance`, the mean
        distance between an image and its distractors, for scale; `reidentification` in [0, 1], ideal 1. Also
        `n_distractors` (the fewest of any row) and `undefined`, rows left out because an embedding is all zero or
        there is no distractor. NaN where no row is left.

    Raises:
        ValueError: naming the argument, for other shapes, no rows, NaN, infinity, or more distractors than there are.
    """
    before = check_features(embedding_before, "embedding_before")
    after = check_features(embedding_after, "embedding_after")
    if before.shape != after.shape:
        raise ValueError(
            f"embedding_after has shape {after.shape}, embedding_before {before.shape}; give both for the same rows."
        )
    names = np.arange(len(before)) if patients is None else np.asarray(patients)
    weights = patient_weights(patients, n_resamples, seed, len(before))
    others, strangers = before, names
    if distractors is not None:
        others = check_features(distractors, "distractors")
        if others.shape[1] != before.shape[1]:
            raise ValueError(
                f"distractors have {others.shape[1]} numbers each, embedding_before {before.shape[1]}; use one network."
            )
        strangers = (
            np.full(len(others), None) if distractor_patients is None else np.asarray(distractor_patients)
        )
    if distractor_patients is not None and (distractors is None or patients is None):
        raise ValueError(
            "distractor_patients needs distractors and patients, to know which distractors are the same patient."
        )
    if len(strangers) != len(others):
        raise ValueError(f"distractor_patients has {len(strangers)} entries for {len(others)} distractors.")
    allowed = _draw((names[:, None] != strangers) & others.any(1), n_distractors, seed)

    def nearest(distance: np.ndarray, start: int) -> np.ndarray:
        return np.where(allowed[start : start + len(distance)], distance, np.inf).min(1)

    def mean(distance: np.ndarray, start: int) -> np.ndarray:
        mask = allowed[start : start + len(distance)]
        return ratio(np.where(mask, distance, 0.0).sum(1), mask.sum(1))

    own = np.where(before.any(1) & after.any(1), paired_cosine_distances(before, after), np.nan)
    stranger, reference = (
        np.concatenate([*pairwise_distances_chunked(x, others, reduce_func=function, metric="cosine")])
        for x, function in ((after, nearest), (before, mean))
    )
    defined = ~np.isnan(own) & allowed.any(1)
    values = {
        "distance": own,
        "reference_distance": np.where(before.any(1), reference, np.nan),
        "reidentification": np.where(defined, own + _TIE < stranger, np.nan),
    }
    return {
        **{name: interval(mean_samples(value, weights)) for name, value in values.items()},
        "n_distractors": int(allowed.sum(1).min()),
        "undefined": int((~defined).sum()),
    }


def _draw(allowed: np.ndarray, number: int | None, seed: int) -> np.ndarray:
    if number is None:
        return allowed
    available = int(allowed.sum(1).min())
    if not 1 <= number <= available:
        raise ValueError(
            f"n_distractors must be between 1 and {available}, the images of other patients that every row has; got "
            f"{number}."
        )
    order = np.where(allowed, np.random.default_rng(seed).random(allowed.shape), np.inf)
    chosen = np.argpartition(order, number - 1, axis=1)[:, :number]
    result = np.zeros_like(allowed)
    np.put_along_axis(result, chosen, True, axis=1)
    return result
