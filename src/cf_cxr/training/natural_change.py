"""How unlike the differences between radiographs is a change of one? A prior for explanations.

A classifier can be convinced by changes that no two radiographs differ by. Among all changes that move a linear
classifier with weights w by the same amount, the one that is smallest in the metric of the inverse covariance of the
images is proportional to (covariance) w: the pattern that goes with the classifier's decision, in place of the filter w
that extracts it (Haufe et al., NeuroImage 87, 2014, eq. 6).
"""

from __future__ import annotations

import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn
from torch.nn import functional as F


class NaturalChange(nn.Module):
    """Squared Mahalanobis length of the coarse part of a change, d^T C^-1 d / n.

    d are the n = `grid`^2 means of the change over equal squares, C is the covariance of such means over radiographs,
    shrunk as Ledoit and Wolf (2004) propose. The difference of two independent radiographs has the length 2 on
    average.

    Args:
        images: `(N, 1, H, W)` in [-1, 1], N of some hundreds at least; H and W multiples of `grid`.
        grid: squares per side.

    Raises:
        ValueError: for a size that the grid does not divide, or fewer than two images.
    """

    def __init__(self, images: Tensor, grid: int = 16) -> None:
        super().__init__()
        if len(images) < 2 or images.shape[2] % grid or images.shape[3] % grid:
            raise ValueError(
                f"A grid of {grid} x {grid} needs several images whose sides it divides, got {tuple(images.shape)}."
            )
        self.grid = grid
        fitted = LedoitWolf().fit(self.coarse(images).double().cpu().numpy())
        self.register_buffer("precision", torch.from_numpy(fitted.precision_).float())

    def coarse(self, change: Tensor) -> Tensor:
        """Means over the squares, `(N, grid^2)`, float32."""
        return F.adaptive_avg_pool2d(change.float(), self.grid).mean(1).flatten(1)

    def forward(self, change: Tensor) -> Tensor:
        """Mean length of changes `(N, 1, H, W)`, a scalar."""
        d = self.coarse(change)
        return torch.einsum("ni,ij,nj->n", d, self.precision, d).mean() / d.shape[1]


__all__ = ["NaturalChange"]
