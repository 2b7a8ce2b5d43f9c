"""Foreign-object preservation (FOP): do devices survive the explanation? (B = Singla et al. 2023)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import check_array, ratio
from .bootstrap import Interval, patient_weights
from .decisions import grouped_means
from .masks import check_masks


def object_overlap(before: Any, after: Any) -> np.ndarray:
    """Share of the object's area in the image that is still object in the explanation, `(N,)` in [0, 1].

    |before ∩ after| / |before|: the area of the *image's* object is the reference, so an object that lost its leads
    scores less, while extra area elsewhere has no say. NaN where the image has no object.

    Args:
        before, after: masks `(N, H, W)` or `(N, 1, H, W)`, binary, of images and explanations.

    Raises:
        ValueError: naming the argument, for masks that are not binary or shapes that differ.
    """
    before = check_masks(before, "before")
    after = check_masks(after, "after", before.shape)
    return ratio((before & after).sum((1, 2)), before.sum((1, 2)))


def foreign_object_preservation(
    before: Any,
    after: Any,
    *,
    minimum_overlap: float = 0.5,
    minimum_area: int = 1,
    patients: Sequence | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Share of the images with a foreign object whose explanation still has it.

    Args:
        before, after: what a detector says of images and explanations: flags `(N,)` (bool, or 0 and 1), or masks
            `(N, H, W)` or `(N, 1, H, W)`, or flattened `(N, H W)`.
        minimum_overlap: with masks, the object is kept when `object_overlap` is at least this; in (0, 1].
        minimum_area: with masks, fewer pixels than this in an image are no object (specks of a detector); at least 1.
        patients: `(N,)` identifiers; None: every image is a patient.
        n_resamples, seed: of the 95 % intervals by patient.

    Returns:
        intervals (estimate, low, high): `preservation`, ideal 1; `added`, share of the images *without* object whose
        explanation has one, ideal 0 (a detector that fires everywhere has a perfect preservation); with masks also
        `overlap`, the mean `object_overlap`. Counts `with_object`, `without_object`. NaN where no image has an object
        (preservation, overlap) or every image has one (added).

    Raises:
        ValueError: naming the argument, for flags or masks that are not binary, shapes that differ, no rows, or
            options outside their range.
    """
    if not 0 < minimum_overlap <= 1:
        raise ValueError(f"minimum_overlap must be in (0, 1], got {minimum_overlap}.")
    if minimum_area < 1:
        raise ValueError(f"minimum_area must be at least 1 pixel, got {minimum_area}.")
    overlap = None
    if np.ndim(before) > 1:
        before, after = (m[:, None] if np.ndim(m) == 2 else m for m in (before, after))
        overlap = object_overlap(before, after)
        areas = [check_masks(m, n).sum((1, 2)) for m, n in ((before, "before"), (after, "after"))]
        present, found = (area >= minimum_area for area in areas)
        kept = np.nan_to_num(overlap) >= minimum_overlap
    else:
        flags = []
        for name, given in (("before", before), ("after", after)):
            flags.append(check_array(given, name, rows=len(before), hint="Give flags, 0 or 1."))
            if (bad := ~np.isin(flags[-1], (0, 1))).any():
                row = int(bad.argmax())
                raise ValueError(f"{name} must be flags, 0 or 1, or masks; row {row} is {flags[-1][row]:g}.")
        present, found = (values == 1 for values in flags)
        kept = found
    weights = patient_weights(patients, n_resamples, seed, len(present))
    means: dict[str, Interval] = {
        "preservation": grouped_means(kept.astype(float), {"": present}, weights)[""],
        "added": grouped_means(found.astype(float), {"": ~present}, weights)[""],
    }
    if overlap is not None:
        means["overlap"] = grouped_means(overlap, {"": present}, weights)[""]
    return {**means, "with_object": int(present.sum()), "without_object": int((~present).sum())}
