"""Structural causal model of the phantom's attributes, all in closed form.

age ~ N(57, 18^2) truncated to 18..95 years; sex ~ Bernoulli; site ~ Categorical; and
finding = [u < sigmoid(-1.1 + 0.045 (age - 57))] with u ~ Uniform(0, 1). For a binary variable this threshold
is the Gumbel-max mechanism: the difference of two standard Gumbels is logistic.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...attributes import Attribute, AttributeSchema
from ...causal_graph import CausalGraph
from ..sources import NO_FINDING, SHARED, default_graph

AGE_MEAN, AGE_SD, AGE_MINIMUM, AGE_MAXIMUM = 57.0, 18.0, 18.0, 95.0
FEMALE_PROBABILITY = 0.48
SITE_PROBABILITIES = (0.40, 0.35, 0.25)
FINDING_INTERCEPT, FINDING_SLOPE = -1.1, 0.045  # log odds at 57 years, and per year


def phantom_schema(finding: str = "Effusion") -> tuple[AttributeSchema, CausalGraph]:
    """Attributes in column order (age in years, sex, site, finding) and the graph, in which age causes the finding."""
    site = Attribute("site", "categorical", categories=("A", "B", "C"))
    found = Attribute("finding", "binary", categories=(NO_FINDING, finding))
    schema = AttributeSchema([SHARED["age"], SHARED["sex"], site, found])
    return schema, default_graph(schema.names)


def finding_probability(age: torch.Tensor) -> torch.Tensor:
    """P(finding = 1 | age in years), float64, of the shape of ``age``."""
    return torch.sigmoid(FINDING_INTERCEPT + FINDING_SLOPE * (age.double() - AGE_MEAN))


def _age_quantiles() -> torch.Tensor:
    """Shares of the untruncated normal below the least and the largest age, ``(2,)`` float64."""
    bounds = torch.tensor([AGE_MINIMUM, AGE_MAXIMUM], dtype=torch.float64)
    return torch.special.ndtr((bounds - AGE_MEAN) / AGE_SD)


def age_log_density(age: torch.Tensor) -> torch.Tensor:
    """Log density of age (per year), float64; minus infinity outside 18..95 years."""
    low, high = _age_quantiles()
    inside = (age >= AGE_MINIMUM) & (age <= AGE_MAXIMUM)
    density = torch.distributions.Normal(AGE_MEAN, AGE_SD).log_prob(age.double()) - torch.log(high - low)
    return torch.where(inside, density, -torch.inf)


def attributes_from_uniform(uniform: torch.Tensor) -> torch.Tensor:
    """Push uniforms ``(n, 4)`` in (0, 1) through the mechanisms; raw attributes ``(n, 4)`` float32."""
    low, high = _age_quantiles()
    age = AGE_MEAN + AGE_SD * torch.special.ndtri(low + (high - low) * uniform[:, 0])
    age = age.clamp(AGE_MINIMUM, AGE_MAXIMUM).float()
    sex = uniform[:, 1] < FEMALE_PROBABILITY
    edges = torch.tensor(SITE_PROBABILITIES, dtype=torch.float64).cumsum(0)[:-1]
    site = torch.bucketize(uniform[:, 2].contiguous(), edges, right=True)
    finding = uniform[:, 3] < finding_probability(age)
    return torch.stack([age, sex.float(), site.float(), finding.float()], dim=1)


def abduct_finding(age: torch.Tensor, finding: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    """The finding's exogenous u given what was observed, ``(n,)`` float64.

    Given age and finding, u is uniform on (0, p) or on (p, 1); ``rank`` in (0, 1), an independent uniform
    kept with the image's noise, says where in that interval, so that abduction is deterministic per image.
    """
    probability, rank = finding_probability(age), rank.double()
    return torch.where(finding > 0.5, rank * probability, probability + rank * (1.0 - probability))


def counterfactual_attributes(
    attributes: torch.Tensor, rank: torch.Tensor, do: Mapping[str, object], attribute_schema: AttributeSchema
) -> torch.Tensor:
    """Abduct, act, predict on the attributes.

    Args:
        attributes: raw factual values ``(n, 4)``.
        rank: the finding's rank noise ``(n,)`` in (0, 1), see :func:`abduct_finding`.
        do: values by name: human values (``"Female"``), or tensors ``(n,)`` of raw values.
        attribute_schema: the schema that names the columns.

    Returns:
        Raw values ``(n, 4)``; columns that are neither set nor descendants of a set one are bit-identical.
    """
    scalars = {name: value for name, value in do.items() if not isinstance(value, torch.Tensor)}
    values: dict[str, object] = dict(attribute_schema.validate_do(scalars))
    values.update({name: value for name, value in do.items() if isinstance(value, torch.Tensor)})
    result = attributes.clone()
    for name, value in values.items():
        column = torch.as_tensor(value, dtype=attributes.dtype).flatten()
        if column.numel() not in (1, len(attributes)):
            raise ValueError(
                f"do({name}) has {column.numel()} values; give one, or one per image ({len(attributes)})."
            )
        result[:, attribute_schema.index(name)] = column
    if "age" in values and "finding" not in values:
        u = abduct_finding(attributes[:, 0], attributes[:, 3], rank)
        moved = result[:, 0] != attributes[:, 0]
        response = (u < finding_probability(result[:, 0])).to(result.dtype)
        result[:, 3] = torch.where(moved, response, attributes[:, 3])
    return result
