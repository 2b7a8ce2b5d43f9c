"""Latent shift: an explanation without training an explainer, by moving along the classifier's gradient in a code.

Gifsplanation = Cohen et al., "Gifsplanation via Latent Shift: a simple autoencoder approach to counterfactual
generation for chest X-rays", MIDL 2021. With an autoencoder E, D and a classifier f, an image x is explained by

    x_lambda = D(z + lambda * d f(D(z)) / dz),    z = E(x),

for growing and falling lambda. The autoencoder knows nothing of the classifier, and the classifier is only asked for
one gradient. Here it is the baseline that a trained explainer is compared with.

A straight line often ends before the posterior does what is asked for, since the gradient at z is that of z only.
`steps` above 1 takes a new gradient on the way: gradient ascent and descent in the latents, a stronger baseline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..black_box import ImageClassifier
from ..models.deep_scm import DeepSCMModel
from ..models.image_mechanism import map_noise
from ..models.progressive_explainer import ProgressiveExplainerModel
from ..tensor_checks import check_probabilities
from .explanation import ExplanationSeries, as_series, straight_path


@dataclass
class LatentCode:
    """Code of N images: `latents`, each `(N, ...)`, which may be shifted, and a `context`, which stays (row by row)."""

    latents: tuple[Tensor, ...]
    context: Any = None

    def __len__(self) -> int:
        return len(self.latents[0])

    def rows(self, index: Tensor | slice) -> LatentCode:
        """The code of some images."""
        return LatentCode(
            tuple(z[index] for z in self.latents), map_noise(lambda tensor: tensor[index], self.context)
        )


class LatentAutoencoder(Protocol):
    """Images to a code and back; `decode` is differentiable in the latents."""

    def encode(self, pixel_values: Tensor, posterior: Tensor) -> LatentCode:
        """The code of images `(N, 1, H, W)` in [-1, 1] with the classifier's posteriors `(N,)`."""

    def decode(self, latents: tuple[Tensor, ...], context: Any) -> Tensor:
        """The images `(N, 1, H, W)`, in [-1, 1], of latents in their context."""


class MechanismAutoencoder:
    """The image mechanism of a causal model as an autoencoder; see the top of this module.

    The parents are what the model's own classifier reads from the image: any image can then be explained, and they
    cancel, since abduction and decoding use the same.

    Args:
        model: in evaluation mode.

    Raises:
        ValueError: on encoding, for a mechanism whose noise is neither a tensor nor has `latents`.
    """

    def __init__(self, model: DeepSCMModel) -> None:
        self.model = model

    @torch.no_grad()
    def encode(self, pixel_values: Tensor, posterior: Tensor) -> LatentCode:
        """Abducted latents; the context is the whole noise and the parents."""
        attributes = self.model.infer_attributes(pixel_values)
        parents = self.model.schema.encode(attributes).to(pixel_values.device)
        noise = self.model.image_mechanism.abduct(pixel_values, parents)
        latents = (noise,) if isinstance(noise, Tensor) else getattr(noise, "latents", None)
        if latents is None:
            raise ValueError(
                f"The noise of {type(self.model.image_mechanism).__name__} ({type(noise).__name__}) has no field "
                "'latents': which part of it can be shifted is not known."
            )
        return LatentCode(tuple(latents), (noise, parents))

    def decode(self, latents: tuple[Tensor, ...], context: Any) -> Tensor:
        """The mechanism's image of the noise with these latents."""
        noise, parents = context
        noise = latents[0] if isinstance(noise, Tensor) else replace(noise, latents=latents)
        return self.model.image_mechanism.decode(noise, parents)


class ExplainerAutoencoder:
    """Encoder and decoder of a progressive explainer at the query's own bin.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: ProgressiveExplainerModel) -> None:
        self.model = model

    @torch.no_grad()
    def encode(self, pixel_values: Tensor, posterior: Tensor) -> LatentCode:
        """The embedding; the context is the query's own bin and its pixels (for a residual output)."""
        bins = self.model.bins.index(posterior.to(pixel_values.device))
        return LatentCode((self.model.encode(pixel_values),), (bins, pixel_values))

    def decode(self, latents: tuple[Tensor, ...], context: Any) -> Tensor:
        """The explainer's image for the query's own bin."""
        bins, pixel_values = context
        return self.model.decode(latents[0], bins, pixel_values)


class LatentShiftExplainer:
    """Shifts the latents of each image until the classifier says what is asked for.

    The direction is the gradient of f(D(z)) at z, per image, over all latents together; only its direction counts,
    since lambda is searched for. (f and its logit have the same direction; the length of f's gradient vanishes where
    f is sure of itself, which is where explanations are most wanted.) Shifts are measured in units of the norm of z:
    s in [-radius, radius] moves z by s |z| g / |g|. With several steps the way to either side is a chain of `steps`
    such shifts of radius / steps, each with the gradient and the norm where it begins.

    f(s) need not be monotone, and usually is not far from 0. It is therefore first read on a grid that gets finer
    towards 0: s = 0, +- radius * 2^-k, and where steps meet. For each target the bracket nearest to 0 whose ends lie on both sides of
    the target is bisected. Where no bracket is found, the grid point nearest to the target is kept: then the target
    was **not** reached, and `reached` says so. Nothing else is done to the image.

    Args:
        autoencoder: see `latent_autoencoders`. With an image mechanism the pixel residual is kept, so that s = 0 is
            the query itself; a plain autoencoder starts from its reconstruction.
        gradient_classifier: gives the gradient where the explained classifier has none (its student); the search asks
            the explained classifier itself.
        radius: farthest shift, above 0.
        steps: gradients on each side, at least 1, which is Gifsplanation's straight line.
        halvings: points of the grid on each side.
        bisections: at most, per target; they end once every image is within `tolerance` of its target.
        tolerance: on the posterior, in [0, 1).
        batch_size: images decoded at a time.

    Raises:
        ValueError: for a setting outside its range.
    """

    method = "latent_shift"

    def __init__(
        self,
        autoencoder: LatentAutoencoder,
        *,
        gradient_classifier: ImageClassifier | None = None,
        radius: float = 1.0,
        steps: int = 1,
        halvings: int = 8,
        bisections: int = 10,
        tolerance: float = 0.005,
        batch_size: int = 64,
    ) -> None:
        if not (math.isfinite(radius) and radius > 0):
            raise ValueError(f"radius must be a positive number, got {radius}.")
        if min(steps, halvings, batch_size) < 1 or bisections < 0:
            raise ValueError(
                "steps, halvings and batch_size must be at least 1 and bisections at least 0, got "
                f"{steps}, {halvings}, {batch_size} and {bisections}."
            )
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance must be in [0, 1), got {tolerance}.")
        self.autoencoder, self.gradient_classifier = autoencoder, gradient_classifier
        self.radius, self.steps = float(radius), steps
        self.halvings, self.bisections = halvings, bisections
        self.tolerance, self.batch_size = float(tolerance), batch_size

    def series(
        self, pixel_values: Tensor, classifier: ImageClassifier, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The explanations of each image for several targets.

        Args:
            pixel_values: `(N, 1, H, W)` in [-1, 1].
            classifier: the classifier to explain.
            targets: `(S,)` posteriors to reach, in [0, 1], the same for all images.

        Returns:
            images `(N, S, 1, H, W)`, float32, in [-1, 1], and the posteriors that the classifier gives them `(N, S)`.

        Raises:
            ValueError: for targets that are no probabilities, or a classifier without gradient (and no
                `gradient_classifier`).
        """
        targets = torch.as_tensor(targets, dtype=torch.float32, device=pixel_values.device)
        if targets.ndim != 1 or not len(targets):
            raise ValueError(f"targets must be posteriors (S,), at least one, got {tuple(targets.shape)}.")
        check_probabilities(targets, "targets")
        code = self.autoencoder.encode(pixel_values, classifier.posterior(pixel_values, self.batch_size))
        nodes = self._nodes(code, self.gradient_classifier or classifier)

        def path(rows: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
            """Images and posteriors of some rows, each shifted by its own s."""
            found = [
                self._shifted(code, nodes, r, s, classifier)
                for r, s in zip(rows.split(self.batch_size), shift.split(self.batch_size))
            ]
            return torch.cat([images for images, _ in found]), torch.cat([p for _, p in found])

        grid = self._grid().to(pixel_values.device)
        return reach_targets(path, len(pixel_values), targets, grid, self.bisections, self.tolerance)

    def explain(
        self, pixel_values, classifier, posteriors, *, steps=10, target=None, **unused
    ) -> list[ExplanationSeries]:
        """See `Explainer`. Nothing is drawn, and attributes are not asked for."""
        posteriors = posteriors.to(pixel_values.device).float()
        targets, stays = straight_path(posteriors, classifier.threshold, steps, target)
        images = [self.series(x, classifier, t)[0] for x, t in zip(pixel_values.split(1), targets)]
        return as_series(torch.cat(images), targets, stays)

    def _grid(self) -> Tensor:
        """Where the path is read first: ascending, float32."""
        positions = {2.0**-k for k in range(self.halvings)} | {k / self.steps for k in range(1, self.steps)}
        side = self.radius * torch.tensor(sorted(positions))
        return torch.cat([-side.flip(0), torch.zeros(1), side])

    def _nodes(self, code: LatentCode, classifier: ImageClassifier) -> tuple[Tensor, ...]:
        """Where steps meet, from s = -radius to radius: per latent `(2 steps + 1, N, ...)`."""
        sides: list[list[tuple[Tensor, ...]]] = []
        for sign in (-1, 1):
            latents, side = code.latents, []
            for _ in range(self.steps):
                direction = self.direction(LatentCode(latents, code.context), classifier)
                length = sign * self.radius / self.steps
                latents = tuple(z + length * d for z, d in zip(latents, direction))
                side.append(latents)
            sides.append(side)
        down, up = sides
        return tuple(torch.stack(parts) for parts in zip(*reversed(down), code.latents, *up))

    def direction(self, code: LatentCode, classifier: ImageClassifier) -> tuple[Tensor, ...]:
        """d f(D(z)) / dz of every row, scaled to the length of z; zero where the gradient is.

        Raises:
            ValueError: for a classifier without gradient.
        """
        if not classifier.differentiable:
            raise ValueError(
                f"The latent shift needs the gradient of the classifier of {classifier.class_name!r}, which has none: "
                "give gradient_classifier= a student of it (cf_cxr.black_box.distil)."
            )
        gradients = []
        for start in range(0, len(code), self.batch_size):
            part = code.rows(slice(start, start + self.batch_size))
            latents = tuple(z.detach().clone().requires_grad_() for z in part.latents)
            with torch.enable_grad():
                images = self.autoencoder.decode(latents, part.context).float().clamp(-1, 1)
                posterior = classifier(images)
                found = torch.autograd.grad(posterior.sum(), latents, allow_unused=True)
            gradients.append([torch.zeros_like(z) if g is None else g for z, g in zip(latents, found)])
        joined = [torch.cat(parts).double() for parts in zip(*gradients)]
        norm = _norm(joined)
        length = _norm([z.double() for z in code.latents])
        scale = torch.where(length > 0, length, torch.ones_like(length)) / norm.clamp(min=1e-300)
        scale = torch.where(norm > 0, scale, torch.zeros_like(scale))
        return tuple((g * scale.reshape(-1, *[1] * (g.ndim - 1))).to(z) for g, z in zip(joined, code.latents))

    @torch.no_grad()
    def _shifted(self, code: LatentCode, nodes, rows: Tensor, shift: Tensor, classifier):
        """Images and posteriors of rows `(M,)`, shifted by `(M,)`."""
        position = (shift / self.radius + 1) * self.steps
        left = position.floor().long().clamp(0, 2 * self.steps - 1)
        share = position - left
        latents = tuple(
            torch.lerp(z[left, rows], z[left + 1, rows], share.reshape(-1, *[1] * (z.ndim - 2)).to(z))
            for z in nodes
        )
        images = self.autoencoder.decode(latents, code.rows(rows).context).float().clamp(-1, 1)
        return images, classifier.posterior(images, self.batch_size)


@torch.no_grad()
def reach_targets(
    path: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    count: int,
    targets: Tensor,
    grid: Tensor,
    bisections: int,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """Finds on a path of images the one whose posterior is nearest to each target.

    Args:
        path: rows `(M,)` and positions `(M,)` to images `(M, C, H, W)` and posteriors `(M,)`.
        count: N, rows of the path.
        targets: `(S,)`.
        grid: `(K,)` positions, ascending, 0 among them.
        bisections, tolerance: see `LatentShiftExplainer`.

    Returns:
        images `(N, S, C, H, W)` and posteriors `(N, S)`: the best that was seen in the bracket nearest to 0 (or a point
        of the grid within the tolerance that is nearer); without a bracket, the best point of the grid.
    """
    device, rows = targets.device, torch.arange(count, device=targets.device)
    posteriors = torch.stack([path(rows, position.expand(count))[1] for position in grid], dim=1)  # (N, K)
    gap = (posteriors[:, None] - targets[:, None]).abs()  # (N, S, K)
    above = posteriors[:, None] >= targets[:, None]
    crossing = above[..., 1:] != above[..., :-1]  # (N, S, K - 1)
    length = torch.maximum(grid[1:].abs(), grid[:-1].abs())
    distance, left = torch.where(crossing, length, math.inf).min(2)
    # a point of the grid that will do, if none nearer to 0 is to be found in a bracket
    point_distance, point = torch.where(gap <= tolerance, grid.abs(), math.inf).min(2)
    has_bracket = (crossing.any(2) & (distance < point_distance)).reshape(-1)
    ends = torch.stack([left, left + 1], dim=2)
    better_end = ends.gather(2, gap.gather(2, ends).argmin(2, keepdim=True))[..., 0]
    best = torch.where(point_distance.isfinite(), point, gap.argmin(2))
    best = torch.where(has_bracket.reshape(best.shape), better_end, best)
    row = rows.repeat_interleave(len(targets))
    target = targets.repeat(count)
    images, reached = path(row, grid[best.reshape(-1)])
    low, high = grid[left.reshape(-1)], grid[left.reshape(-1) + 1]
    low_above = above.gather(2, left[..., None]).reshape(-1)
    for _ in range(bisections):
        open_rows = (has_bracket & ((reached - target).abs() > tolerance)).nonzero()[:, 0]
        if not len(open_rows):
            break
        middle = (low[open_rows] + high[open_rows]) / 2
        made, said = path(row[open_rows], middle)
        better = (said - target[open_rows]).abs() < (reached - target)[open_rows].abs()
        images[open_rows[better]], reached[open_rows[better]] = made[better], said[better]
        like_low = (said >= target[open_rows]) == low_above[open_rows]
        low[open_rows] = torch.where(like_low, middle, low[open_rows])
        high[open_rows] = torch.where(like_low, high[open_rows], middle)
    shape = (count, len(targets))
    return images.reshape(*shape, *images.shape[1:]), reached.reshape(shape).to(device)


def _norm(tensors: list[Tensor]) -> Tensor:
    """Length of every row over all tensors, `(N,)`."""
    return torch.stack([t.flatten(1).square().sum(1) for t in tensors]).sum(0).sqrt()


__all__ = [
    "ExplainerAutoencoder",
    "LatentAutoencoder",
    "LatentCode",
    "LatentShiftExplainer",
    "MechanismAutoencoder",
    "reach_targets",
]
