"""An order of images that shows every bin of the posterior equally often (paper B: 4 000 images per bin)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch

from .sampling import StepBatchSampler


class BalancedStepBatchSampler(StepBatchSampler):
    """As `StepBatchSampler`, but an epoch has as many images of every bin that has any, rare ones repeatedly.

    With K bins that are not empty, every K consecutive images are one of each, in random order; a bin's images come
    in a random order of their own, which starts again, shuffled anew, when all were shown. An epoch is as long as
    the data set, so images of common bins may wait for a later epoch.

    Args:
        bins: `(N,)`, the bin of each image.
        **settings: of `StepBatchSampler`, without `num_images`.
    """

    def __init__(self, bins: torch.Tensor | Sequence[int], **settings: Any) -> None:
        bins = torch.as_tensor(bins)
        super().__init__(len(bins), **settings)
        self.members = [(bins == k).nonzero()[:, 0] for k in bins.unique().tolist()]

    def permutation(self, epoch: int) -> list[int]:
        """Indices of one epoch, `num_images` of them."""
        generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
        streams = [_endless(members, generator) for members in self.members]
        groups = -(-self.num_images // len(streams))
        columns = torch.stack([torch.tensor(list(islice(stream, groups))) for stream in streams], dim=1)
        order = torch.rand(columns.shape, generator=generator).argsort(1)
        return columns.gather(1, order).flatten()[: self.num_images].tolist()


def _endless(members: torch.Tensor, generator: torch.Generator):
    """The members in random order, again and again, each time in another one."""
    while True:
        yield from members[torch.randperm(len(members), generator=generator)].tolist()


__all__ = ["BalancedStepBatchSampler"]
