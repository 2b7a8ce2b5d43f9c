"""What the latent shift needs of an autoencoder, and the models of this package in that role.

- `MechanismAutoencoder`: the image mechanism of a causal model. z are the abducted latents of every resolution; the
  parents and the pixel residual u stay. With u the decoder is exact, D(E(x)) = x, and what the latents do not carry
  (text, devices, noise) stays in the image; shifting u itself would be an ordinary adversarial attack on pixels.
- `ExplainerAutoencoder`: encoder and decoder of a progressive explainer, always at the query's own bin, so that the
  decoder is a reconstruction.

The former is the baseline to report: an autoencoder that was trained without any classifier, as in Gifsplanation. The
latter was trained with the classifier that it then explains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .models.deep_scm import DeepSCMModel
from .models.image_mechanism import map_noise
from .models.progressive_explainer import ProgressiveExplainerModel


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


__all__ = ["ExplainerAutoencoder", "LatentAutoencoder", "LatentCode", "MechanismAutoencoder"]
