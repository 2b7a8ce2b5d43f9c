"""Whether an image is like those an explainer was trained on, measured on the explainer's own embedding.

The reconstruction error at the query's own bin would not do: an explainer that decodes a change of the image gives
back anything. The embedding must be usual instead. It is averaged over a grid of `GRID` x `GRID` fields, so that the
place of things counts (an X-ray upside down is unusual); every average v_j is compared with its mean and standard
deviation over the training images, and the distance of an image is the root mean square of (v_j - mean_j) / std_j:
about 1 for images like those of the training. Whoever trains an explainer stores mean, std and the limit, a high
quantile over held-out images, in its configuration (`training_distribution`); without them nobody is warned.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from .models.progressive_explainer import ProgressiveExplainerModel

GRID = 2
ENTRY = "training_distribution"  # of the configuration
_LARGEST_GRID = 64


class OutOfDistributionWarning(UserWarning):
    """The image is unlike those that the explainer was trained on, so its explanation may mean little."""


def embedding_features(embedding: Tensor, grid: int = GRID) -> Tensor:
    """Means of an embedding `(N, D, h, w)` over the fields of a grid: `(N, D * grid * grid)`, float32."""
    return F.adaptive_avg_pool2d(embedding.detach().float(), grid).flatten(1)


@dataclass(frozen=True)
class TrainingDistribution:
    """Mean and spread of an explainer's embedding over its training images.

    Args:
        mean, std: `(F,)` of `embedding_features`, float32.
        limit: distance from which on an image is called unusual.
        grid: of the features.
    """

    mean: Tensor
    std: Tensor
    limit: float
    grid: int = GRID

    @classmethod
    def fit(
        cls, features: Tensor, held_out: Tensor, quantile: float = 0.995, grid: int = GRID
    ) -> TrainingDistribution:
        """Measures training images, and sets the limit where `1 - quantile` of held-out images would be warned about.

        Args:
            features: `(N, F)` of training images, from `embedding_features`; N of at least 2, better some hundreds.
            held_out: `(M, F)` of images of other patients.
            quantile: share of the held-out images that pass, in (0, 1].
            grid: that the features were made with.

        Raises:
            ValueError: for fewer images, shapes that do not fit, values that are not finite, or another quantile.
        """
        if features.ndim != 2 or held_out.ndim != 2 or features.shape[1] != held_out.shape[1]:
            raise ValueError(
                f"Features are (N, F) and (M, F) of embedding_features, got {tuple(features.shape)} and "
                f"{tuple(held_out.shape)}."
            )
        if len(features) < 2 or not len(held_out):
            raise ValueError(f"{len(features)} training and {len(held_out)} held-out images are too few.")
        if not (features.isfinite().all() and held_out.isfinite().all()):
            raise ValueError("Features must be finite: the explainer's embedding has NaN or infinite values.")
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile must be in (0, 1], got {quantile}.")
        features = features.double()
        std = features.std(0)
        # a channel that never moves says nothing; it must not turn rounding into a large distance
        std = std.clamp_min(max(0.01 * float(std.median()), 1e-6))
        bare = cls(features.mean(0).float(), std.float(), float("inf"), grid)
        return cls(bare.mean, bare.std, float(bare._distance(held_out).quantile(quantile)), grid)

    @classmethod
    @torch.no_grad()
    def measure(
        cls,
        model: ProgressiveExplainerModel,
        images: Iterable[Tensor],
        held_out: Iterable[Tensor],
        quantile: float = 0.995,
    ) -> TrainingDistribution:
        """`fit` on batches of images.

        Args:
            model: a trained explainer, in evaluation mode.
            images: batches `(B, 1, H, W)` in [-1, 1] of the training set, as the pipeline will see them: not augmented.
            held_out: such batches of other patients.
            quantile: as for `fit`.

        Raises:
            ValueError: as `fit`.
        """
        features = [
            torch.cat([embedding_features(model.encode(batch.to(model.device))).cpu() for batch in batches])
            for batches in (images, held_out)
        ]
        return cls.fit(*features, quantile=quantile)

    def distance(self, embedding: Tensor) -> Tensor:
        """Root mean square z-score `(N,)`, float32, of embeddings `(N, D, h, w)`.

        Raises:
            ValueError: for another number of channels.
        """
        features = embedding_features(embedding, self.grid)
        if features.shape[1] != len(self.mean):
            raise ValueError(
                f"This distribution was measured on {len(self.mean) // self.grid**2} channels, the embedding has "
                f"{embedding.shape[1]}: they belong to different explainers."
            )
        return self._distance(features)

    def _distance(self, features: Tensor) -> Tensor:
        z = (features.float() - self.mean.to(features.device)) / self.std.to(features.device)
        return z.square().mean(1).sqrt()

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types, for a configuration: `config.training_distribution = distribution.to_dict()`."""
        short = {name: [float(f"{v:.5g}") for v in getattr(self, name).tolist()] for name in ("mean", "std")}
        return {**short, "limit": float(f"{self.limit:.5g}"), "grid": self.grid}

    @classmethod
    def from_config(cls, config: Any) -> TrainingDistribution | None:
        """What a configuration records; None where it records nothing.

        Raises:
            ValueError: for a record that is incomplete or cannot be; it may come from anybody.
        """
        record = getattr(config, ENTRY, None)
        if not record:
            return None
        try:
            mean, std = (torch.tensor(record[name], dtype=torch.float32) for name in ("mean", "std"))
            limit, grid = float(record["limit"]), int(record.get("grid", GRID))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The configuration's {ENTRY} cannot be read ({error!r}); it needs mean, std and limit."
            ) from error
        wrong = [
            text
            for text, fails in {
                "mean and std are not two lists of one length": mean.ndim != 1 or mean.shape != std.shape,
                "a mean is NaN or infinite": not bool(mean.isfinite().all()),
                "a std is not a positive number": not bool((std.isfinite() & (std > 0)).all()),
                f"limit is {limit:g}, no positive number": not 0 < limit < float("inf"),
                f"grid is {grid}, but must be from 1 to {_LARGEST_GRID}": not 1 <= grid <= _LARGEST_GRID,
            }.items()
            if fails
        ]
        if wrong:
            raise ValueError(
                f"The configuration's {ENTRY} cannot be used: {'; '.join(wrong)}. Measure it again "
                "(TrainingDistribution.measure), or remove it: then no image is called unusual."
            )
        return cls(mean, std, limit, grid)


__all__ = ["OutOfDistributionWarning", "TrainingDistribution", "embedding_features"]
