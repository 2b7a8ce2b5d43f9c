"""Axiomatic soundness of counterfactuals (M = Monteiro et al., ICLR 2023): composition and reversibility."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor


def image_distance(first: Any, second: Any) -> Any:
    """Mean absolute difference per image in grey levels of 0 to 255; images `(B, ...)` in [-1, 1], result `(B,)`.

    Between an image and its null counterfactual (abducted anew each time) this is the composition error, between an image and the image that
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
