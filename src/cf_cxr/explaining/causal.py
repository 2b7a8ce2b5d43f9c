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

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..black_box import ImageClassifier
from ..models.deep_scm import DeepSCMModel
from .explanation import ExplanationSeries, as_series, straight_path

_ROWS = 64  # images that the classifier is asked about at a time


def explained_value(model: DeepSCMModel, class_name: str) -> tuple[str, int]:
    """The binary variable of a causal model that a class is a value of, and the index of that value.

    Args:
        class_name: `"finding"`, `"finding=Effusion"` or `"Effusion"`; case does not matter.

    Raises:
        ValueError: where no binary variable has such a value, with those that there are.
    """
    binary = [a for a in model.schema if a.scored_as == "binary"]
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


class CausalExplainer:
    """A causal model swept by do(); see `Explainer`. Abduction runs once per query.

    A causal model has no notion of a posterior: targets say how far the image is on its way between the two worlds.
    `series` reads the lowest target as the world without the class and the highest as the one with it; `explain` starts
    in the query's own world, and its targets are what a classifier would say whose posterior follows evenly.

    The noise of each image is abducted with the class as the classifier decides (its decision is explained, whatever
    is given), and the other attributes as they are given or the model's own classifier reads them.

    Args:
        model: in evaluation mode.
        variable: the class, as `explained_value` takes it; None is the name of the classifier's class.
        seed: of the noise of discrete variables that depend on the explained one, where no generators are given.
    """

    method = "causal"

    def __init__(self, model: DeepSCMModel, variable: str | None = None, seed: int = 0) -> None:
        self.model, self.variable, self.seed = model, variable, seed

    def explained_value(self, classifier: ImageClassifier) -> tuple[str, int]:
        """The variable and the value that the classifier's class is; see the function of that name."""
        return explained_value(self.model, self.variable or classifier.class_name)

    @torch.no_grad()
    def series(
        self, pixel_values: Tensor, classifier: ImageClassifier, targets: Tensor
    ) -> tuple[Tensor, None]:
        """See `Explainer`."""
        present = classifier.decision(classifier.posterior(pixel_values, _ROWS))
        generators = [torch.Generator().manual_seed(self.seed)] * len(pixel_values)
        noise, own, other = self._worlds(pixel_values, classifier, present, None, generators)
        without, with_it = (torch.where(side[:, None], other, own) for side in (present, ~present))
        low, high = targets.min(), targets.max()
        shares = ((float(t - low) / (float(high - low) or 1.0)) for t in targets)
        return self._between(noise, without, with_it, shares), None

    @torch.no_grad()
    def explain(
        self, pixel_values, classifier, posteriors, *, steps=10, target=None, attributes=None, generators=None
    ) -> list[ExplanationSeries]:
        """See `Explainer`; one decoder pass per step."""
        posteriors = posteriors.to(pixel_values.device).float()
        targets, stays = straight_path(posteriors, classifier.threshold, steps, target)
        present = classifier.decision(posteriors)
        worlds = self._worlds(pixel_values, classifier, present, attributes, generators)
        times = torch.linspace(0, 1, steps, device=pixel_values.device)
        return as_series(self._between(*worlds, times), targets, stays)

    def _worlds(
        self, pixel_values, classifier, present, attributes, generators
    ) -> tuple[Any, Tensor, Tensor]:
        """Noise of the images, and parents `(N, dim)` in their own world and in that with the other decision."""
        model = self.model
        name, index = self.explained_value(classifier)
        if attributes is None:
            attributes = torch.full((len(pixel_values), model.schema.n), torch.nan)
        attributes = attributes.to(pixel_values.device).float().clone()
        if attributes.isnan().any():
            guess = model.infer_attributes(pixel_values).to(attributes)
            attributes = torch.where(attributes.isnan(), guess, attributes)
        value = torch.where(present, index, 1 - index).to(attributes)
        attributes[:, model.schema.index(name)] = value
        changed = [
            model.attribute_scm.counterfactual(row[None], {name: other}, generator=generator)
            for row, other, generator in zip(
                attributes, (1 - value).tolist(), generators or [None] * len(attributes)
            )
        ]
        own, other = (
            model.schema.encode(a).to(pixel_values.device) for a in (attributes, torch.cat(changed))
        )
        return model.image_mechanism.abduct(pixel_values, own), own, other

    def _between(self, noise: Any, start: Tensor, end: Tensor, shares: Iterable[float | Tensor]) -> Tensor:
        """Images `(N, S, 1, H, W)` at shares of the way between two worlds."""
        decode = self.model.image_mechanism.decode
        return torch.stack([decode(noise, torch.lerp(start, end, s)) for s in shares], dim=1).float()


__all__ = ["CausalExplainer", "explained_value"]
