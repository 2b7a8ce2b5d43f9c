"""A causal model as explainer: the query on its way from the world with a finding to the world without, or back.

The classifier decides that a finding is present or absent. The explanation holds the patient fixed (all exogenous
noise is abducted once, with the finding as the classifier decided) and moves the finding to its other value:
do(finding). Between the two worlds the images are decoded from **interpolated parents**,

    x_t = g(u, (1 - t) pa + t pa*),    t from 0 to 1,

with pa the parent vector of the image in the factual world, pa* in the counterfactual one (descendants of the finding
included) and u the image's noise. The other choice, a cross-fade x + t (x* - x), has the same ends, but its images
between are double exposures: half a shadow at full height rather than a shadow of half the height, which no radiograph
shows and no classifier was trained on. Decoding costs one decoder pass per step and stays on the generator's images.
The mechanisms here take parents through linear layers and meet intermediate values in training too (0.5 is the code of
an unknown class), so the path is continuous. Because composition is exact, x_0 is the query itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .explanation import ExplanationSeries

if TYPE_CHECKING:
    from ..models.deep_scm import DeepSCMModel

# Where the targets end: the centres of paper B's outermost bins, so that both kinds of explanation share an axis.
LOWEST_TARGET, HIGHEST_TARGET = 0.05, 0.95


def explained_value(model: DeepSCMModel, class_name: str) -> tuple[str, int]:
    """The binary variable of a causal model that a class is a value of, and the index of that value.

    Args:
        class_name: `"finding"`, `"finding=Effusion"` or `"Effusion"`; case does not matter.

    Raises:
        ValueError: where no binary variable has such a value, with those that there are.
    """
    binary = [a for a in model.schema if a.kind == "binary"]
    wanted = class_name.strip().casefold()
    found = [(a.name, 1) for a in binary if a.name.casefold() == wanted]
    found += [
        (a.name, index)
        for a in binary
        for index, value in enumerate(a.categories)
        if wanted in (value.casefold(), f"{a.name}={value}".casefold())
    ]
    if len(set(found)) == 1:
        return found[0]
    known = ", ".join(f"{a.name}={c}" for a in binary for c in a.categories) or "none"
    raise ValueError(
        f"The causal model has no binary variable for the class {class_name!r}; it has {known}. Say which of these the "
        "classifier's class is: variable='finding=Effusion', for example."
    )


@torch.no_grad()
def causal_series(
    model: DeepSCMModel,
    pixel_values: Tensor,
    attributes: Tensor,
    posteriors: Tensor,
    variable: tuple[str, int],
    *,
    threshold: float = 0.5,
    steps: int = 10,
    target: float | None = None,
    generators: Sequence[torch.Generator | None] | None = None,
) -> list[ExplanationSeries]:
    """The explaining images of each query; abduction runs once per query.

    A causal model has no notion of a target posterior. `targets` are a straight line from the query's posterior to the
    target: what a classifier would say whose posterior follows the finding evenly.

    Args:
        model: in evaluation mode.
        pixel_values: `(B, 1, H, W)` in [-1, 1].
        attributes: raw `(B, n)`; what is NaN is inferred from the image by the model's own classifier. The explained
            variable is set to what the explained classifier decides, whatever is given: its decision is explained.
        posteriors: `(B,)` in [0, 1], the explained classifier's answers.
        variable: from `explained_value`: its name, and the index of the value that the class is.
        threshold: decision boundary.
        steps: S, at least 2.
        target: posterior in [0, 1]; it only says which side of the threshold is asked for. Default: the other one.
        generators: one per image, for the noise of discrete variables that depend on the explained one.

    Returns:
        B series; a query that is on the target's side already has one image, itself.
    """
    name, index = variable
    column = model.schema.index(name)
    posteriors = posteriors.to(pixel_values.device).float()
    present = posteriors >= threshold
    wanted = ~present if target is None else torch.full_like(present, target >= threshold)
    ends = torch.where(wanted, HIGHEST_TARGET, LOWEST_TARGET) if target is None else target

    attributes = attributes.to(pixel_values.device).float().clone()
    if attributes.isnan().any():
        guess = model.predict(pixel_values).mode().to(attributes)
        attributes = torch.where(attributes.isnan(), guess, attributes)
    attributes[:, column] = _value(present, index).to(attributes)
    noise = model.abduct(pixel_values, attributes)
    draws = generators if generators is not None else [None] * len(attributes)
    changed = torch.cat(
        [
            model.attribute_scm.counterfactual(row[None], {name: float(value)}, generator=generator)
            for row, value, generator in zip(attributes, _value(wanted, index), draws)
        ]
    )
    before = model.schema.encode(attributes).to(pixel_values.device)
    after = model.schema.encode(changed).to(pixel_values.device)
    times = torch.linspace(0, 1, steps, device=pixel_values.device)
    images = torch.stack(
        [model.image_mechanism.decode(noise.image, torch.lerp(before, after, t)) for t in times], dim=1
    ).float()
    targets = torch.lerp(
        posteriors[:, None], torch.as_tensor(ends).to(posteriors).expand(len(posteriors))[:, None], times
    )
    return [
        ExplanationSeries(images[i], targets[i].clamp(0, 1))
        if wanted[i] != present[i]
        else ExplanationSeries(images[i, :1], targets[i, -1:].clamp(0, 1), at_target=True)
        for i in range(len(images))
    ]


def _value(positive: Tensor, index: int) -> Tensor:
    """Index of the class's value where positive, of the other one of the two elsewhere."""
    return torch.where(positive, index, 1 - index)


__all__ = ["causal_series", "explained_value"]
