"""Adapter to this package's attribute classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..models.attribute_classifier import AttributeClassifierModel
from .checks import BlackBoxError, find_name
from .classifier import ImageClassifier
from .fingerprints import module_digest
from .preprocessing import RadiographPreprocessing


class AttributeImageClassifier(ImageClassifier):
    """The calibrated posterior of one value of a binary or categorical attribute of an `AttributeClassifierModel`.

    Args:
        model: on any device, in any mode.
        attribute: its name, e.g. `"finding"`.
        value: a class name; the second ("positive") one of a binary attribute if absent.
        class_name: what to call it; `"attribute=value"` if absent.
        threshold: decision boundary.

    Raises:
        BlackBoxError: for an unknown attribute or value (with the known ones), a continuous attribute, or a
            categorical one without a value.
    """

    def __init__(
        self,
        model: AttributeClassifierModel,
        attribute: str,
        value: str | None = None,
        class_name: str | None = None,
        threshold: float = 0.5,
    ) -> None:
        schema = model.config.schema
        found = schema[schema.names[find_name(attribute, schema.names, "attribute")]]
        if not found.is_discrete:
            raise BlackBoxError(
                f"{found.name!r} is continuous: it has a mean, not the posterior of a class. Choose a binary or "
                "categorical attribute."
            )
        if value is None and found.scored_as != "binary":
            raise BlackBoxError(
                f"{found.name!r} has several classes; give value= one of {', '.join(found.categories)}."
            )
        index = 1 if value is None else find_name(value, found.categories, f"value of {found.name!r}")
        super().__init__(class_name or f"{found.name}={found.categories[index]}", threshold)
        self.model, self.attribute, self.value_index = model, found.name, index
        side, channels = model.config.image_size, model.config.num_channels
        size = (side, side) if side else None
        self.preprocess = RadiographPreprocessing(size, channels=channels, value_range=(-1, 1))

    def compute_posterior(self, pixel_values: Tensor) -> Tensor:
        """Posterior of the value; images are resized to the size the model is meant for."""
        pixels = self.preprocess(pixel_values).to(self.model.dtype)
        posterior = self.model.posterior_from_logits(self.model(pixels, return_dict=True).logits)[
            self.attribute
        ]
        if posterior.ndim == 2:
            return posterior[:, self.value_index]
        return posterior if self.value_index == 1 else 1 - posterior

    def describe(self) -> dict[str, Any]:
        return {
            "module": module_digest(self.model),
            "attribute": [self.attribute, self.value_index],
            "preprocess": self.preprocess.to_dict(),
        }


from_attribute_classifier = AttributeImageClassifier


def attribute_of_class(model: AttributeClassifierModel, class_name: str | None) -> tuple[str, str | None]:
    """Attribute and value of `"finding"`, `"finding=effusion"` or `"effusion"`.

    Raises:
        BlackBoxError: for a name that is none of those, or is several, with the names that there are.
    """
    discrete = [a for a in model.config.schema if a.is_discrete]
    pairs = {f"{a.name}={c}": (a.name, c) for a in discrete for c in a.categories}
    pairs |= {a.name: (a.name, None) for a in discrete}
    if class_name is None:
        if len(discrete) == 1 and discrete[0].scored_as == "binary":
            return discrete[0].name, None
        raise BlackBoxError(f"Say which class is explained: class_name= one of {', '.join(sorted(pairs))}.")
    plain = class_name.strip().casefold()
    values = [(a.name, c) for a in discrete for c in a.categories if c.casefold() == plain]
    if len(values) == 1 and class_name not in pairs:
        return values[0]
    names = sorted(pairs)
    return pairs[names[find_name(class_name, names, "class")]]
