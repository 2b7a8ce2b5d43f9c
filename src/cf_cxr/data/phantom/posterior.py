"""What an ideal observer of the image factors knows: exact posteriors, the ceiling for any judge of images."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .config import PhantomConfig
from .factors import (
    AGE_FACTORS,
    FACTORS,
    FINDING_FACTORS,
    SEX_FACTORS,
    SITE_FACTORS,
    age_means,
    finding_means,
    sex_means,
    site_means,
)
from .scm import (
    AGE_MAXIMUM,
    AGE_MINIMUM,
    FEMALE_PROBABILITY,
    SITE_PROBABILITIES,
    age_log_density,
    finding_probability,
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
