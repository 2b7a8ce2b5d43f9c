"""Temperature calibration of the attribute classifier; its measure comes from `cf_cxr.metrics.calibration`.

Soft targets of counterfactual fine-tuning are the classifier's posteriors, so they are only as good as its
calibration (design 4). One scale per attribute is fitted on held-out data after training and stored in
`AttributeClassifierConfig.temperature`; it changes no decision.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ...attributes import AttributeSchema
from ...metrics.calibration import expected_calibration_error
from ...models.attribute_classifier.heads import TEMPERATURE_RANGE, attribute_heads, split_attribute_logits


@torch.no_grad()
def fit_temperature(logits: Tensor, labels: Tensor, schema: AttributeSchema) -> dict[str, float]:
    """Scale per attribute that minimises the negative log-likelihood of held-out data.

    Discrete: logits / T (temperature scaling, Guo et al., ICML 2017), by bounded scalar search on log T, where
    the likelihood has one optimum. Continuous: sigma * T with T = sqrt(mean(((y - mu) / sigma)²)) in closed form.

    Args:
        logits: `(N, L)` uncalibrated head outputs.
        labels: `(N, n)` raw attribute values, NaN where unknown.
        schema: the attributes of both.

    Returns:
        name to T, within `TEMPERATURE_RANGE`. An attribute without a known label is left out, with a warning.

    Raises:
        ValueError: for shapes that do not fit each other and the schema.
    """
    if labels.shape != (logits.shape[0], schema.n):
        raise ValueError(
            f"labels must have shape ({logits.shape[0]}, {schema.n}), got {tuple(labels.shape)}."
        )
    temperatures, heads = {}, attribute_heads(schema)
    for (name, part), value in zip(split_attribute_logits(logits, schema).items(), labels.unbind(1)):
        known = ~value.isnan()
        if not known.any():
            warnings.warn(f"No known label of {name!r}: its temperature stays 1.", stacklevel=2)
            continue
        part, value = part[known], value[known].to(part.device)
        temperatures[name] = heads[name].temperature(part, value)
    return temperatures


__all__ = ["TEMPERATURE_RANGE", "expected_calibration_error", "fit_temperature"]
