"""Checks and pixel measures of binary masks shared by the anatomical metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from .arrays import to_numpy


def check_masks(masks: Any, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Binary masks as bool `(N, H, W)`.

    Args:
        masks: `(N, H, W)` or `(N, 1, H, W)`, bool or the numbers 0 and 1; numpy or torch.
        name: of the argument, for messages.
        shape: `(N, H, W)` where another argument fixes it.

    Raises:
        ValueError: naming the argument, for other shapes, no images or pixels, NaN, or values other than 0 and 1
            (threshold probabilities first).
    """
    array = to_numpy(masks, None)
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 3 or array.size == 0:
        raise ValueError(
            f"{name} must be masks of shape (N, H, W) or (N, 1, H, W) with at least one image, got "
            f"{np.shape(masks)}."
        )
    if shape is not None and array.shape != tuple(shape):
        raise ValueError(f"{name} has shape {array.shape}, the other masks {tuple(shape)}; they must agree.")
    if array.dtype == bool:
        return array
    if array.dtype.kind not in "biuf" or not ((array == 0) | (array == 1)).all():
        raise ValueError(
            f"{name} must be binary (bool, or 0 and 1), but other values or NaN are in it; threshold probabilities "
            "first, e.g. masks > 0.5."
        )
    return array.astype(bool)


def horizontal_extent(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last column with a set pixel, `(N,)` float each; NaN for an empty mask.

    Args:
        masks: bool `(N, H, W)`.
    """
    columns = masks.any(1)
    first = columns.argmax(1).astype(float)
    last = columns.shape[1] - 1.0 - columns[:, ::-1].argmax(1)
    empty = ~columns.any(1)
    first[empty] = last[empty] = np.nan
    return first, last


def horizontal_width(masks: np.ndarray) -> np.ndarray:
    """Last minus first column plus 1, in pixels, `(N,)`; NaN for an empty mask. One set pixel has width 1."""
    first, last = horizontal_extent(masks)
    return last - first + 1


def largest_components(masks: Any, count: int = 1) -> np.ndarray:
    """Only the *count* largest 4-connected parts of every mask, against specks of a segmenter.

    A plain width takes any stray pixel for the organ: call this first on predicted masks (`count=1` for a heart, 2
    for lungs). Parts of equal size are taken from the top left.

    Args:
        masks: `(N, H, W)` or `(N, 1, H, W)`, binary.
        count: parts to keep, at least 1.

    Returns:
        bool `(N, H, W)`.

    Raises:
        ValueError: for masks that are not binary, or a count below 1.
    """
    masks = check_masks(masks, "masks")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    result = np.zeros_like(masks)
    for i, mask in enumerate(masks):
        labels, found = ndimage.label(mask)
        sizes = np.bincount(labels.ravel(), minlength=found + 1)[1:]
        result[i] = np.isin(labels, 1 + np.argsort(-sizes, kind="stable")[:count])
    return result
