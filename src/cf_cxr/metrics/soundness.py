"""Axiomatic soundness of counterfactuals (M = Monteiro et al., ICLR 2023): composition and reversibility."""

from __future__ import annotations

from torch import Tensor


def image_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference per image in grey levels of 0 to 255; images `(B, ...)` in [-1, 1], result `(B,)`.

    Between an image and its null counterfactual this is the composition error, between an image and the image that
    comes back after do(a), do(back) the reversibility error (M, section 3.2); ideal 0.
    """
    return (first.float() - second.float()).abs().flatten(1).mean(1) * 127.5
