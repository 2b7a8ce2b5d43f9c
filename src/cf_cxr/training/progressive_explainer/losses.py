"""Losses of the progressive explainer (paper B, section 3), one function each.

B = Singla et al., "Explaining the black-box smoothly: a counterfactual approach", Medical Image Analysis 84, 2023.
With a query x, its posterior f(x), a target bin t with centre c_t, x_t = G(x, t), and the way back
x' = G(x_t, bin(f(x))):

    generator      adversarial * -mean D(x_t, t)
                   + classifier * [KL(c_t || f(x_t)) + KL(f(x) || f(x'))]
                   + reconstruction * [context-aware L1(x, G(x, bin(f(x)))) + context-aware L1(x, x')]
                   + embedding * mean (E(x) - E(x_t))^2
    discriminator  hinge
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn
from torch.nn import functional as F

from ...tensor_checks import check_probabilities

#: Smallest probability whose logarithm is taken; keeps the divergence finite for a saturated classifier.
_SMALLEST = 1e-30


@dataclass(frozen=True)
class ExplainerLossWeights:
    """Weights of the generator's losses; the defaults are B's.

    Args:
        adversarial, classifier, reconstruction, embedding: of the terms above. B weights the embedding distance like
            the reconstruction.
        natural: of the `NaturalChange` of x_t - x, which B does not have.
        lungs_only: reconstruction counts inside the lungs only, as in B's released code: a baseline that shows why
            the context is needed, never a recommendation.

    Raises:
        ValueError: for a negative weight.
    """

    adversarial: float = 1.0
    classifier: float = 1.0
    reconstruction: float = 100.0
    embedding: float = 100.0
    natural: float = 0.0
    lungs_only: bool = False

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not value >= 0:
                raise ValueError(f"The weight {name} must not be negative, got {value}.")

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of scalar terms named after the weights; terms that are absent do not count.

        Raises:
            ValueError: for a term without a weight.
        """
        weights = asdict(self)
        del weights["lungs_only"]
        unknown = sorted(set(terms) - set(weights))
        if unknown or not terms:
            raise ValueError(f"terms must be some of {list(weights)}, got {sorted(terms)}.")
        return sum(weights[name] * value for name, value in terms.items())


def posterior_kl(target: Tensor, reached: Tensor) -> Tensor:
    """Mean KL divergence of two-valued distributions, in nats; zero exactly where they are equal:

        KL(t || r) = t log(t / r) + (1 - t) log((1 - t) / (1 - r))

    Not the cross-entropy, whose minimum is the target's entropy. The gradient with respect to r is
    (r - t) / (r (1 - r)), times the batch mean; none flows into the target.

    Args:
        target: `(N,)`, in [0, 1]: centres of the target bins (`PosteriorBins.centre`), or f(x) for the way back.
        reached: `(N,)`, in [0, 1], the classifier's answer.

    Raises:
        ValueError: for different shapes, NaN or values outside [0, 1].
    """
    if target.shape != reached.shape:
        raise ValueError(
            f"target and reached must have the same shape, got {tuple(target.shape)} and {tuple(reached.shape)}."
        )
    check_probabilities(target, "target")
    check_probabilities(reached, "reached")
    t, r = target.detach().float(), reached.float()
    return (_excess(t, r) + _excess(1 - t, 1 - r)).mean()


def discriminator_hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """mean max(0, 1 - D(x)) + mean max(0, 1 + D(x_t)), of scores of real and generated images, `(N,)` each."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()


def generator_hinge_loss(fake: Tensor) -> Tensor:
    """-mean D(x_t), of scores of generated images `(N,)`."""
    return -fake.float().mean()


def masked_l1(image: Tensor, reconstruction: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference per image inside a mask `(N,)`; 0, without gradient, where the mask is empty:

        sum_p m_p |x_p - x'_p| / sum_p m_p

    Args:
        image, reconstruction: `(N, C, H, W)`; the mean is over channels too.
        mask: `(N, H, W)`, bool or in [0, 1].
    """
    mask = mask.float()
    difference = (image.float() - reconstruction.float()).abs().mean(1)
    size = mask.sum((1, 2))
    inside = (mask * difference).sum((1, 2))
    return inside / torch.where(size > 0, size, torch.ones_like(size))


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
        background: include it. Without it pixels outside every mask are free to change.

    Raises:
        ValueError: for images of different shapes, masks of another shape, NaN or values outside [0, 1].
    """
    _check_images(image, reconstruction)
    if masks.ndim != 4 or masks.shape[0] != image.shape[0] or masks.shape[2:] != image.shape[2:]:
        raise ValueError(
            f"masks must have shape ({image.shape[0]}, labels, {image.shape[2]}, {image.shape[3]}), got "
            f"{tuple(masks.shape)}."
        )
    masks = masks.detach().float()
    check_probabilities(masks, "masks")
    regions = list(masks.unbind(1))
    if background:
        covered = masks.amax(1) if regions else torch.zeros_like(image[:, 0], dtype=torch.float32)
        regions.append(1 - covered)
    terms = [masked_l1(image, reconstruction, region) for region in regions]
    if not terms:
        raise ValueError("There is nothing to reconstruct: no masks and no background.")
    return torch.stack(terms).sum(0).mean()


def lungs_only_reconstruction(image: Tensor, reconstruction: Tensor, lungs: Tensor) -> Tensor:
    """Mask-normalised L1 inside the lungs only, mean over images: what B's released code does, as a baseline.

    Args:
        image, reconstruction: `(N, C, H, W)`.
        lungs: `(N, H, W)`, bool or in [0, 1].

    Raises:
        ValueError: as `context_aware_reconstruction`.
    """
    return context_aware_reconstruction(image, reconstruction, lungs[:, None], background=False)


def reconstruction_loss(
    image: Tensor, reconstruction: Tensor, masks: Tensor, labels: Sequence[str], weights: ExplainerLossWeights
) -> Tensor:
    """The reconstruction that `weights` ask for: context-aware, or inside the lungs only.

    Args:
        image, reconstruction: `(N, C, H, W)`.
        masks: `(N, L, H, W)`, bool or in [0, 1].
        labels: the L names of the masks.

    Raises:
        ValueError: for another number of masks than labels, or `lungs_only` without a label "lungs".
    """
    if masks.ndim != 4 or masks.shape[1] != len(labels):
        raise ValueError(
            f"masks of {len(labels)} labels {list(labels)} needed, got shape {tuple(masks.shape)}."
        )
    if not weights.lungs_only:
        return context_aware_reconstruction(image, reconstruction, masks)
    if "lungs" not in labels:
        raise ValueError(f"lungs_only needs a mask with the label 'lungs', there are {list(labels)}.")
    return lungs_only_reconstruction(image, reconstruction, masks[:, list(labels).index("lungs")])


def embedding_distance(embedding: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of two embeddings of the same shape, E(x) and E(x_t).

    Raises:
        ValueError: for different shapes.
    """
    if embedding.shape != other.shape:
        raise ValueError(
            f"Embeddings must have the same shape, got {tuple(embedding.shape)} and {tuple(other.shape)}."
        )
    return F.mse_loss(embedding.float(), other.float())


def _excess(t: Tensor, r: Tensor) -> Tensor:
    """t log(t / r), 0 at t = 0, finite at r = 0."""
    return t * (t.clamp_min(_SMALLEST).log() - r.clamp_min(_SMALLEST).log())


def _check_images(image: Tensor, reconstruction: Tensor) -> None:
    if image.ndim != 4 or image.shape != reconstruction.shape:
        raise ValueError(
            "image and reconstruction must have the same shape (batch, channels, height, width), got "
            f"{tuple(image.shape)} and {tuple(reconstruction.shape)}."
        )


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
