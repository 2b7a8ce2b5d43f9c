"""Identity: is an explanation still this patient? Embedding distance and re-identification (B = Singla et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import to_numpy
from .decisions import grouped_means, resampling_weights

_TIE = 1e-9
_BLOCK = 4_000_000


def cosine_distance(first: Any, second: Any) -> np.ndarray:
    """1 - cosine of the angle between paired embeddings, `(N,)` in [0, 2]; NaN where an embedding is all zero.

    Args:
        first, second: `(N, D)`.

    Raises:
        ValueError: naming the argument, for other shapes, no rows, NaN or infinity.
    """
    first = _check_embedding(first, "first")
    second = _check_embedding(second, "second", first.shape)
    return np.clip(1 - (_unit(first) * _unit(second)).sum(1), 0, 2)


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
    before = _check_embedding(embedding_before, "embedding_before")
    after = _check_embedding(embedding_after, "embedding_after", before.shape)
    names = np.arange(len(before)) if patients is None else np.asarray(patients)
    weights = resampling_weights(patients, len(before), n_resamples, seed)
    if distractors is None:
        if distractor_patients is not None:
            raise ValueError(
                "distractor_patients needs distractors; without, the rows' own patients are used."
            )
        others, allowed = before, names[:, None] != names
    else:
        others = _check_embedding(distractors, "distractors")
        if others.shape[1] != before.shape[1]:
            raise ValueError(
                f"distractors have {others.shape[1]} numbers each, embedding_before {before.shape[1]}; use one network."
            )
        allowed = _strangers(names, patients, distractor_patients, len(others))
    allowed = _draw(allowed & others.any(1), n_distractors, seed)
    own, nearest, reference = _distances(before, after, others, allowed)
    defined = ~np.isnan(own) & allowed.any(1)
    found = np.where(defined, own + _TIE < nearest, np.nan)
    values = {"distance": own, "reference_distance": reference, "reidentification": found}
    everyone = {"": np.ones(len(before), bool)}
    return {
        **{name: grouped_means(value, everyone, weights)[""] for name, value in values.items()},
        "n_distractors": int(allowed.sum(1).min()),
        "undefined": int((~defined).sum()),
    }


def _strangers(names: np.ndarray, patients: Any, distractor_patients: Any, count: int) -> np.ndarray:
    """Whether distractor m is another patient than row n, `(N, M)`."""
    if distractor_patients is None:
        return np.ones((len(names), count), bool)
    if patients is None:
        raise ValueError(
            "distractor_patients needs patients, to know which distractors are the same patient."
        )
    if len(distractor_patients) != count:
        raise ValueError(
            f"distractor_patients has {len(distractor_patients)} entries for {count} distractors."
        )
    return names[:, None] != np.asarray(distractor_patients)


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


def _distances(before, after, others, allowed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Own distance, nearest distractor to the explanation, mean distance of the image to its distractors; `(N,)`."""
    own = cosine_distance(before, after)
    nearest, reference = np.full(len(before), np.nan), np.full(len(before), np.nan)
    before, after, others = _unit(before), _unit(after), np.nan_to_num(_unit(others))
    step = max(1, _BLOCK // len(others))
    for start in range(0, len(before), step):
        rows = slice(start, start + step)
        mask = allowed[rows]
        nearest[rows] = np.where(mask, 1 - after[rows] @ others.T, np.inf).min(1)
        total = np.where(mask, 1 - before[rows] @ others.T, 0.0).sum(1)
        count = mask.sum(1)
        reference[rows] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return own, nearest, reference


def _unit(embedding: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(embedding, axis=1, keepdims=True)
    return np.where(norm > 0, embedding / np.where(norm > 0, norm, 1), np.nan)


def _check_embedding(values: Any, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    values = to_numpy(values)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"{name} must have shape (N, D) with at least one image, got {values.shape}.")
    if shape is not None and values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}, the embeddings it is compared with {shape}.")
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(f"{name}: the embedding of row {int(bad.any(1).argmax())} is NaN or infinite.")
    return values
