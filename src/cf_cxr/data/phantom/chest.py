"""ChestPhantom: a structural causal model of chest radiographs whose every counterfactual is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .config import PhantomConfig
from .factors import FACTORS, BayesPosterior, bayes_posterior, factor_means
from .noise import GRAIN, NOISE_COLUMNS, NUISANCES, RANK, attribute_uniforms, noise_rows, seed_from
from .renderer import PhantomImages, render_latents
from .scm import attributes_from_uniform, counterfactual_attributes, phantom_schema

_CHUNK = 16  # images rendered at once: their maps stay in a core's cache
_ARENA = 28 * 2**20  # bytes
_RANK, _GRAIN = NOISE_COLUMNS.index(RANK), NOISE_COLUMNS.index(GRAIN)
Generator = int | np.random.Generator | torch.Generator | None


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Make glibc keep the maps' freed memory: mapping every megabyte anew costs a third of the time."""
    torch.empty(_ARENA, dtype=torch.uint8)


class ChestPhantom:
    """A procedural chest radiograph with a known causal model (design, section 6).

    Attributes are raw tensors ``(n, 4)``: age in years, sex (0 Male, 1 Female), site (0 A, 1 B, 2 C), finding
    (0 No Finding, 1 present). Noise is ``(n, len(NOISE_COLUMNS))`` float32; together they fix every pixel.

    Args:
        config: settings; the default is 128 x 128 with effusions.
    """

    def __init__(self, config: PhantomConfig | None = None) -> None:
        self.config = config or PhantomConfig()
        self.schema, self.graph = phantom_schema(self.config.finding)

    def sample_attributes(self, n: int, generator: Generator = None) -> Tensor:
        """Draw attributes ``(n, 4)`` from the causal model.

        ``generator`` is a seed or a generator; with the same seed, the first rows do not depend on ``n``.
        """
        return self.attributes_at(seed_from(generator), range(n))

    def sample_noise(self, n: int, generator: Generator = None) -> Tensor:
        """Draw exogenous noise ``(n, len(NOISE_COLUMNS))``, independent of the attributes even with one seed."""
        return self.noise_at(seed_from(generator), range(n))

    def attributes_at(self, seed: int, indices: Sequence[int]) -> Tensor:
        """Attributes of images ``indices`` of the endless data set number ``seed``."""
        return attributes_from_uniform(attribute_uniforms(seed_from(seed), indices))

    def noise_at(self, seed: int, indices: Sequence[int]) -> Tensor:
        """Exogenous noise of images ``indices`` of the endless data set number ``seed``."""
        return noise_rows(seed_from(seed), indices)

    def factors(self, attributes: Tensor, noise: Tensor) -> Tensor:
        """Image factors ``(n, len(FACTORS))``: mean by the attributes plus standard normal noise."""
        attributes, noise = self._check(attributes, noise)
        means = factor_means(attributes, self.config)
        return (means + noise[:, : len(FACTORS)].double()).float()

    @torch.no_grad()
    def render(self, attributes: Tensor, noise: Tensor) -> PhantomImages:
        """Pictures, masks and measurements of ``n`` chests; independent of how images are batched.

        Args:
            attributes: raw ``(n, 4)``. noise: ``(n, len(NOISE_COLUMNS))`` from :meth:`sample_noise`.

        Raises:
            ValueError: wrong shapes, no images, or impossible attribute values.
        """
        _keep_freed_memory()
        factors = self.factors(attributes, noise)
        noise = noise.cpu()
        nuisances = noise[:, len(FACTORS) : len(FACTORS) + len(NUISANCES)]
        parts = [
            render_latents(
                factors[i : i + _CHUNK], nuisances[i : i + _CHUNK], noise[i : i + _CHUNK, _GRAIN], self.config
            )
            for i in range(0, len(noise), _CHUNK)
        ]
        return parts[0] if len(parts) == 1 else PhantomImages.concatenate(parts)

    def counterfactual_attributes(
        self, attributes: Tensor, noise: Tensor, do: Mapping[str, object]
    ) -> Tensor:
        """Attributes ``(n, 4)`` under ``do``: the finding answers a change of age through its own noise.

        Raises:
            UnknownAttributeError, AttributeValueError: for an unknown variable or an impossible value.
        """
        attributes, noise = self._check(attributes, noise)
        result = counterfactual_attributes(attributes, noise[:, _RANK], do, self.schema)
        return self.schema.to_tensor(result)

    def counterfactual(
        self, attributes: Tensor, noise: Tensor, do: Mapping[str, object]
    ) -> tuple[Tensor, PhantomImages]:
        """The true counterfactual: attributes ``(n, 4)`` under ``do``, and the same chests rendered with them.

        Args:
            attributes: raw factual ``(n, 4)``. noise: the images' own exogenous noise.
            do: human values by name, or tensors ``(n,)`` of raw values.
        """
        changed = self.counterfactual_attributes(attributes, noise, do)
        return changed, self.render(changed, noise)

    def bayes_posterior(self, attributes: Tensor, noise: Tensor) -> BayesPosterior:
        """What a judge with perfect sight of the image factors would believe; no judge of images does better."""
        return bayes_posterior(self.factors(attributes, noise), self.config)

    def _check(self, attributes: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        attributes = self.schema.to_tensor(torch.as_tensor(attributes).cpu())
        noise = torch.as_tensor(noise).cpu()
        if noise.ndim != 2 or noise.shape[1] != len(NOISE_COLUMNS):
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}; expected (n, {len(NOISE_COLUMNS)}), from sample_noise."
            )
        if len(noise) != len(attributes) or len(noise) == 0:
            raise ValueError(
                f"{len(attributes)} rows of attributes and {len(noise)} of noise; give equally many, at least 1."
            )
        return attributes, noise
