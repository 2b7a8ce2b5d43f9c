"""Image factors: the only doors through which an attribute reaches the picture.

Every factor is Gaussian with unit variance around a mean set by **one** attribute,
``f_k = m_k(attribute) + eps_k`` with ``eps_k ~ N(0, 1)``. The renderer sees factors and nuisance noise,
never attributes, so ``p(attribute | image)`` can be no sharper than ``p(attribute | factors)``,
which :mod:`cf_cxr.data.phantom.posterior` computes.
"""

from __future__ import annotations

import math

import torch

from .config import PhantomConfig
from .scm import AGE_MEAN

AGE_FACTORS = {"bone_loss": 0.62, "aortic_unfolding": 0.66, "calcification": 0.42}
SEX_FACTORS = {"breast": 0.80, "thorax_narrowing": 0.42, "shoulder_narrowing": 0.43}
FINDING_FACTORS = {"severity": 0.93, "haze": 0.37}

_H = math.sqrt(3.0) / 2.0
# Rows A, B, C: corners of an equilateral triangle with side 1, turned into four factors by an isometry.
_TRIANGLE = ((-0.5, -_H / 3.0), (0.5, -_H / 3.0), (0.0, 2.0 * _H / 3.0))
SITE_FACTORS = {
    "display_gain": (0.60, 0.20),
    "collimation": (0.50, -0.62),
    "marker": (-0.40, 0.52),
    "grain_level": (0.48, 0.55),
}

FACTORS = (*AGE_FACTORS, *SEX_FACTORS, *SITE_FACTORS, *FINDING_FACTORS)


def site_means(separation: float) -> torch.Tensor:
    """Mean of the four site factors at every site, ``(3, 4)`` float64, ``separation`` apart pairwise."""
    loadings = torch.tensor(list(SITE_FACTORS.values()), dtype=torch.float64)
    orthonormal, _ = torch.linalg.qr(loadings)
    signs = torch.sign((orthonormal * loadings).sum(0))
    return separation * torch.tensor(_TRIANGLE, dtype=torch.float64) @ (orthonormal * signs).T


def _unit(weights: dict[str, float]) -> torch.Tensor:
    vector = torch.tensor(list(weights.values()), dtype=torch.float64)
    return vector / vector.norm()


def age_means(age: torch.Tensor, config: PhantomConfig) -> torch.Tensor:
    """Mean of the age factors, ``(..., 3)``, at ages in years ``(...)``."""
    return (age.double() - AGE_MEAN)[..., None] / config.age_noise * _unit(AGE_FACTORS)


def sex_means(sex: torch.Tensor, config: PhantomConfig) -> torch.Tensor:
    """Mean of the sex factors, ``(..., 3)``; ``sex`` is 0 (Male) or 1 (Female)."""
    return (sex.double() - 0.5)[..., None] * config.sex_separation * _unit(SEX_FACTORS)


def finding_means(finding: torch.Tensor, config: PhantomConfig) -> torch.Tensor:
    """Mean of the finding factors, ``(..., 2)``; ``finding`` is 0 (No Finding) or 1."""
    return finding.double()[..., None] * config.finding_separation * _unit(FINDING_FACTORS)


def factor_means(attributes: torch.Tensor, config: PhantomConfig) -> torch.Tensor:
    """Mean of every factor, ``(n, len(FACTORS))`` float64, for raw attributes ``(n, 4)``."""
    age, sex, site, finding = attributes.unbind(-1)
    return torch.cat(
        [
            age_means(age, config),
            sex_means(sex, config),
            site_means(config.site_separation)[site.long()],
            finding_means(finding, config),
        ],
        dim=-1,
    )
