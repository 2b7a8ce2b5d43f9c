"""Image factors: the only doors through which an attribute reaches the picture.

Every factor is Gaussian with unit variance around a mean set by **one** attribute,
``f_k = m_k(attribute) + eps_k`` with ``eps_k ~ N(0, 1)``. The renderer sees factors and nuisance noise,
never attributes, so ``p(attribute | image)`` can be no sharper than ``p(attribute | factors)``, which
``bayes_posterior`` computes: the ceiling for any judge of images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .config import PhantomConfig
from .scm import (
    AGE_MAXIMUM,
    AGE_MEAN,
    AGE_MINIMUM,
    FEMALE_PROBABILITY,
    SITE_PROBABILITIES,
    age_log_density,
    finding_probability,
)

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


def site_means(separation: float) -> Tensor:
    """Mean of the four site factors at every site, ``(3, 4)`` float64, ``separation`` apart pairwise."""
    loadings = torch.tensor(list(SITE_FACTORS.values()), dtype=torch.float64)
    orthonormal, _ = torch.linalg.qr(loadings)
    signs = torch.sign((orthonormal * loadings).sum(0))
    return separation * torch.tensor(_TRIANGLE, dtype=torch.float64) @ (orthonormal * signs).T


def _unit(weights: dict[str, float]) -> Tensor:
    vector = torch.tensor(list(weights.values()), dtype=torch.float64)
    return vector / vector.norm()


def age_means(age: Tensor, config: PhantomConfig) -> Tensor:
    """Mean of the age factors, ``(..., 3)``, at ages in years ``(...)``."""
    return (age.double() - AGE_MEAN)[..., None] / config.age_noise * _unit(AGE_FACTORS)


def sex_means(sex: Tensor, config: PhantomConfig) -> Tensor:
    """Mean of the sex factors, ``(..., 3)``; ``sex`` is 0 (Male) or 1 (Female)."""
    return (sex.double() - 0.5)[..., None] * config.sex_separation * _unit(SEX_FACTORS)


def finding_means(finding: Tensor, config: PhantomConfig) -> Tensor:
    """Mean of the finding factors, ``(..., 2)``; ``finding`` is 0 (No Finding) or 1."""
    return finding.double()[..., None] * config.finding_separation * _unit(FINDING_FACTORS)


def factor_means(attributes: Tensor, config: PhantomConfig) -> Tensor:
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


@dataclass
class BayesPosterior:
    """Posterior of the attributes given the image factors.

    Attributes:
        age_mean, age_median, age_std: ``(n,)`` years; the median minimises the absolute error.
        sex: P(Female) ``(n,)``. site: ``(n, 3)``. finding: P(finding present) ``(n,)``.
    """

    age_mean: Tensor
    age_median: Tensor
    age_std: Tensor
    sex: Tensor
    site: Tensor
    finding: Tensor


def _log_likelihood(factors: Tensor, names: dict, means: Tensor) -> Tensor:
    """log N(f; m, 1) up to a constant: factors ``(n, F)``, means ``(m, k)`` -> ``(n, m)``."""
    start = FACTORS.index(next(iter(names)))
    observed = factors[:, start : start + len(names)].double()
    return -0.5 * ((observed[:, None] - means[None]) ** 2).sum(-1)


def bayes_posterior(factors: Tensor, config: PhantomConfig, grid: int = 200) -> BayesPosterior:
    """Exact posteriors (age by quadrature on ``grid`` points) for factors ``(n, len(FACTORS))``.

    Age and finding are inferred jointly, since age causes the finding; sex and site are independent of both.
    """
    blocks = [_posterior(block, config, grid) for block in factors.split(1024)]
    return BayesPosterior(
        **{f.name: torch.cat([getattr(b, f.name) for b in blocks]) for f in fields(BayesPosterior)}
    )


def _posterior(factors: Tensor, config: PhantomConfig, grid: int) -> BayesPosterior:
    width = (AGE_MAXIMUM - AGE_MINIMUM) / grid
    ages = AGE_MINIMUM + width * (torch.arange(grid, dtype=torch.float64) + 0.5)
    classes = torch.tensor([0.0, 1.0], dtype=torch.float64)
    age = age_log_density(ages) + _log_likelihood(factors, AGE_FACTORS, age_means(ages, config))
    finding = _log_likelihood(factors, FINDING_FACTORS, finding_means(classes, config))
    prior = torch.stack([1.0 - finding_probability(ages), finding_probability(ages)]).log()
    joint = age[:, None, :] + prior[None] + finding[:, :, None]  # (n, 2, grid)
    joint = torch.softmax(joint.flatten(1), dim=1).view_as(joint)

    density = joint.sum(1)
    mean = density @ ages
    variance = (density @ ages**2 - mean**2).clamp(min=0.0)
    median = ages[(density.cumsum(1) >= 0.5).double().argmax(1)]

    sex_prior = torch.tensor([1.0 - FEMALE_PROBABILITY, FEMALE_PROBABILITY], dtype=torch.float64).log()
    sex = torch.softmax(sex_prior + _log_likelihood(factors, SEX_FACTORS, sex_means(classes, config)), dim=1)
    site_prior = torch.tensor(SITE_PROBABILITIES, dtype=torch.float64).log()
    site = site_prior + _log_likelihood(factors, SITE_FACTORS, site_means(config.site_separation))
    return BayesPosterior(
        age_mean=mean,
        age_median=median,
        age_std=variance.sqrt(),
        sex=sex[:, 1],
        site=torch.softmax(site, dim=1),
        finding=joint[:, 1].sum(1),
    )
