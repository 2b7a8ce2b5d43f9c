"""Exposure shortcut: how much of a change is one global affine map of intensities."""

from __future__ import annotations

import torch
from torch import Tensor


def affine_component(factual: Tensor, change: Tensor) -> Tensor:
    """The part of a change that some map x -> a x + b of the factual image explains best (least squares).

    Args:
        factual: images `(B, ...)`.
        change: counterfactual minus factual, same shape.

    Returns:
        the affine part, same shape; differentiable in `change`.
    """
    flat = factual.flatten(1).float()
    delta = change.flatten(1).float()
    centred = flat - flat.mean(1, keepdim=True)
    variance = centred.square().mean(1, keepdim=True).clamp_min(1e-12)
    slope = (centred * delta).mean(1, keepdim=True) / variance
    return (delta.mean(1, keepdim=True) + slope * centred).reshape(change.shape)


def exposure_share(factual: Tensor, counterfactual: Tensor) -> Tensor:
    """Share of the squared change that a global affine intensity map explains, per image `(B,)`, in [0, 1].

    1 means that the counterfactual is the factual image with another brightness and contrast; an anatomical change
    gives a small share. An image that did not change at all has no share: NaN.
    """
    change = (counterfactual - factual).float()
    total = change.flatten(1).square().sum(1)
    explained = affine_component(factual, change).flatten(1).square().sum(1)
    return torch.where(total > 0, explained / total.clamp_min(1e-20), torch.nan)
