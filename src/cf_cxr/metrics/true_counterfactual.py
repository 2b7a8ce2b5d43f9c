"""Error to the true counterfactual, where a simulator knows it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import ratio, to_numpy


def counterfactual_error(image: Any, true_image: Any, touch_mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean |x* - x_true| per image, inside and outside the region that the intervention may touch.

    Inside: is the change the right one? Outside: did anything change that should not have?

    Args:
        image, true_image: `(N, ...)` in [-1, 1], numpy or torch.
        touch_mask: same shape (or broadcastable to it, e.g. `(N, 1, H, W)`), true where the true intervention may
            change a pixel.

    Returns:
        (inside, outside), each `(N,)`, in grey levels of 0 to 255; ideal 0. NaN where the region is empty (a mask
        that is all false has no inside, one that is all true no outside).

    Raises:
        ValueError: for shapes that differ, no images, or NaN pixels.
    """
    image, true_image = to_numpy(image), to_numpy(true_image)
    if image.shape != true_image.shape or image.ndim < 2 or len(image) == 0:
        raise ValueError(
            f"image and true_image must be batches (N, ...) of one shape, got {image.shape} and {true_image.shape}."
        )
    mask = to_numpy(touch_mask, None).astype(bool)
    if mask.ndim != image.ndim or len(mask) != len(image):
        raise ValueError(f"touch_mask must fit images of shape {image.shape}, got {mask.shape}.")
    try:
        mask = np.broadcast_to(mask, image.shape).reshape(len(image), -1)
    except ValueError:
        raise ValueError(f"touch_mask must fit images of shape {image.shape}, got {mask.shape}.") from None
    error = np.abs(image - true_image).reshape(len(image), -1) * 127.5
    if np.isnan(error).any():
        raise ValueError(f"Image {int(np.isnan(error).any(1).argmax())} has NaN pixels.")
    inside, outside = (ratio(np.where(m, error, 0.0).sum(1), m.sum(1)) for m in (mask, ~mask))
    return inside, outside
