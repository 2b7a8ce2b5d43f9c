"""Losses of the progressive explainer (paper B, section 3), one function each.

B = Singla et al., "Explaining the black-box smoothly: a counterfactual approach", Medical Image Analysis 84, 2023.
With a query x, its posterior f(x), a target bin t with centre c_t, x_t = G(x, t), and the way back
x' = G(x_t, bin(f(x))):

    generator      adversarial: -mean D(x_t, t)
                   + classifier * [KL(c_t || f(x_t)) + KL(f(x) || f(x'))]
                   + reconstruction * [context-aware L1(x, G(x, bin(f(x)))) + context-aware L1(x, x')]
                   + embedding * mean (E(x) - E(x_t))^2
                   + mahalanobis * length of x_t - x (not in B)
    discriminator  hinge
"""

from __future__ import annotations

import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn
from torch.nn import functional as F

#: Smallest probability whose logarithm is taken; keeps the divergence finite for a saturated classifier.
_SMALLEST = 1e-30


def posterior_kl(target: Tensor, reached: Tensor) -> Tensor:
    """Mean KL divergence of two-valued distributions, in nats; zero exactly where they are equal:

        KL(t || r) = t log(t / r) + (1 - t) log((1 - t) / (1 - r))

    Not the cross-entropy, whose minimum is the target's entropy. The gradient with respect to r is
    (r - t) / (r (1 - r)), times the batch mean; none flows into the target.

    Args:
        target: `(N,)`, in [0, 1]: centres of the target bins (`PosteriorBins.centre`), or f(x) for the way back.
        reached: `(N,)`, in [0, 1], the classifier's answer.
    """
    t, r = target.detach().float(), reached.float()
    return (_excess(t, r) + _excess(1 - t, 1 - r)).mean()


def _excess(t: Tensor, r: Tensor) -> Tensor:
    """t log(t / r), 0 at t = 0, finite at r = 0."""
    return t * (t.clamp_min(_SMALLEST).log() - r.clamp_min(_SMALLEST).log())


def discriminator_hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """mean max(0, 1 - D(x)) + mean max(0, 1 + D(x_t)), of scores of real and generated images, `(N,)` each."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()


def context_aware_reconstruction(
    image: Tensor, reconstruction: Tensor, masks: Tensor, background: bool = True
) -> Tensor:
    """Sum over anatomy labels, foreign objects and the background of mask-normalised L1, mean over images (B):

        (1 / N) sum_n sum_j  sum_p S_jp |x_p - x'_p| / sum_p S_jp

    A lead of 50 pixels thus counts as much as both lungs. The background is whatever no label covers, so that text,
    borders and soft tissue are kept too; labels may overlap. An image without some object gets no term for it.

    Args:
        image, reconstruction: `(N, C, H, W)`.
        masks: S, `(N, L, H, W)`, bool or in [0, 1], for instance lungs, heart and devices; L may be 0.
        background: include it. Without it pixels outside every mask are free to change, as in B's released code.
    """
    regions = list(masks.float().unbind(1))
    if background:
        covered = masks.float().amax(1) if regions else torch.zeros_like(image[:, 0], dtype=torch.float32)
        regions.append(1 - covered)
    difference = (image.float() - reconstruction.float()).abs().mean(1)
    terms = []
    for region in regions:
        size = region.sum((1, 2))
        terms.append((region * difference).sum((1, 2)) / torch.where(size > 0, size, torch.ones_like(size)))
    return torch.stack(terms).sum(0).mean()


class MahalanobisPrior(nn.Module):
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
