"""Normalisation whose scale and shift depend on the target bin."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConditionalNorm2d(nn.Module):
    """y = gamma_c (x - mean) / sqrt(var + eps) + beta_c, with one row (gamma_c, beta_c) per condition c (paper B, 3.2).

    With batch normalisation, mean and variance are the batch's in training mode and the running ones in evaluation
    mode, where an image's result therefore does not depend on its batch mates.

    Args:
        channels: of the input.
        num_conditions: rows; 1 is an ordinary affine normalisation that needs no condition.
        norm_type: `"batch"` or `"group"`.
        momentum: of the running statistics.
        groups: of group normalisation at most.
    """

    def __init__(
        self,
        channels: int,
        num_conditions: int,
        norm_type: str = "batch",
        momentum: float = 0.1,
        groups: int = 8,
    ):
        super().__init__()
        if norm_type == "group":
            self.norm = nn.GroupNorm(math.gcd(groups, channels), channels, affine=False)
        else:
            self.norm = nn.BatchNorm2d(channels, affine=False, momentum=momentum)
        self.gamma = nn.Parameter(torch.ones(num_conditions, channels))
        self.beta = nn.Parameter(torch.zeros(num_conditions, channels))
        # True while a checkpointed forward is computed again, whose batch the running statistics already hold.
        self.counted = False

    def forward(self, hidden: Tensor, condition: Tensor | None = None) -> Tensor:
        """`(B, C, H, W)` and the condition `(B,)`, int64, to `(B, C, H, W)`; None is the first row."""
        if self.counted and self.training and isinstance(self.norm, nn.BatchNorm2d):
            # the running statistics are passed, and not moved: the backward pass needs the same saved tensors
            statistics = self.norm.running_mean, self.norm.running_var
            hidden = F.batch_norm(hidden, *statistics, training=True, momentum=0.0, eps=self.norm.eps)
        else:
            hidden = self.norm(hidden)
        if condition is None:
            condition = torch.zeros(1, dtype=torch.long, device=hidden.device)
        gamma, beta = self.gamma[condition], self.beta[condition]
        return torch.addcmul(
            beta[..., None, None].to(hidden.dtype), hidden, gamma[..., None, None].to(hidden.dtype)
        )


@contextmanager
def count_batches_once(module: nn.Module) -> Iterator[None]:
    """Running statistics take in batches inside this context only, so that gradient checkpointing, which computes
    layers again during the backward pass, does not count a batch twice."""
    norms = [m for m in module.modules() if isinstance(m, ConditionalNorm2d)]
    for norm in norms:
        norm.counted = False
    try:
        yield
    finally:
        for norm in norms:
            norm.counted = True
