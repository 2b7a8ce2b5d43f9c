"""Axiomatic soundness of counterfactuals (M = Monteiro et al., ICLR 2023): composition and reversibility."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor


def image_distance(first: Any, second: Any) -> Any:
    """Mean absolute difference per image in grey levels of 0 to 255; images `(B, ...)` in [-1, 1], result `(B,)`.

    Between an image and its null counterfactual this is the composition error, between an image and the image that
    comes back after do(a), do(back) the reversibility error (M, section 3.2); ideal 0. Two numpy arrays give a
    numpy array, two tensors a tensor.

    Raises:
        ValueError: for shapes that differ.
    """
    if tuple(first.shape) != tuple(second.shape):
        raise ValueError(
            f"Images of different shapes cannot be compared: {tuple(first.shape)} and {tuple(second.shape)}."
        )
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return (first.float() - second.float()).abs().flatten(1).mean(1) * 127.5
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return np.abs(first - second).reshape(len(first), math.prod(first.shape[1:])).mean(1) * 127.5


def composition(null_intervention: Callable[[Any], Any], images: Any, n: int = 1) -> Any:
    """Composition error: mean |x - f^n(x)| per image, f the null intervention (M, section 3.2).

    Args:
        null_intervention: images -> their counterfactuals under do() (abduct and decode with the same attributes).
        images: `(B, ...)` in [-1, 1], numpy or torch.
        n: how often it is applied, each time to the last result.

    Returns:
        `(B,)`, grey levels of 0 to 255; ideal 0 for every n.

    Raises:
        ValueError: for n < 1, or a null intervention that changes the shape.
    """
    return reversibility(null_intervention, lambda x: x, images, n)


def reversibility(
    intervention: Callable[[Any], Any], back: Callable[[Any], Any], images: Any, n: int = 1
) -> Any:
    """Reversibility error: mean |x - (back after do)^n (x)| per image (M, section 3.2).

    Args:
        intervention: images -> their counterfactuals under do(a).
        back: those -> their counterfactuals under do(the factual values), abducted anew.
        images: `(B, ...)` in [-1, 1], numpy or torch.
        n: number of cycles.

    Returns:
        `(B,)`, grey levels of 0 to 255; ideal 0 for every n.

    Raises:
        ValueError: for n < 1, or interventions that change the shape.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"n must be a whole number of at least 1, got {n!r}.")
    current = images
    for _ in range(n):
        current = back(intervention(current))
    return image_distance(images, current)
