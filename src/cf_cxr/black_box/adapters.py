"""`as_image_classifier`: whatever classifies radiographs, behind one interface."""

from __future__ import annotations

import os
from typing import Any

from torch import nn
from transformers import Pipeline, PreTrainedModel

from ..models.attribute_classifier import AttributeClassifierModel
from .attribute_adapter import AttributeImageClassifier, attribute_of_class, from_attribute_classifier
from .callable_adapter import CallableImageClassifier, from_callable
from .classifier import ImageClassifier
from .errors import BlackBoxError, same_name
from .module_adapter import ModuleImageClassifier, from_module
from .torchxrayvision_adapter import TorchXRayVisionClassifier, from_torchxrayvision
from .transformers_adapter import TransformersImageClassifier, from_transformers


def as_image_classifier(classifier: Any, class_name: str | None = None, **options: Any) -> ImageClassifier:
    """An `ImageClassifier` of one class of anything that classifies images.

    Args:
        classifier: an `ImageClassifier` (returned as it is); an `AttributeClassifierModel`; a transformers
            image-classification model or pipeline; a network with `pathologies`, as TorchXRayVision's; any other
            `torch.nn.Module`; any function from numpy to numpy; or a folder or Hub repository, as
            `load_image_classifier` reads.
        class_name: the class: `"finding"`, `"finding=effusion"` or `"effusion"` of an attribute classifier, a label,
            a pathology; for a network or function without names, what to call the class.
        **options: `operating_point`, a posterior that becomes 1/2 (`ImageClassifier.at_operating_point`), and further
            arguments of the adapter: `from_attribute_classifier`, `from_transformers`, `from_torchxrayvision`,
            `from_module` or `from_callable`.

    Raises:
        BlackBoxError: for something that is no classifier, an unknown class (with the known ones), a class name
            where there should be one, options that the adapter does not have, or an `ImageClassifier` of another
            class than asked for.
    """
    if (point := options.pop("operating_point", None)) is not None:
        return as_image_classifier(classifier, class_name, **options).at_operating_point(point)
    if isinstance(classifier, ImageClassifier):
        return _as_it_is(classifier, class_name, options)
    if isinstance(classifier, (str, os.PathLike)):
        from .loading import load_image_classifier  # it reads this module

        return load_image_classifier(classifier, class_name, **options)
    try:
        if isinstance(classifier, AttributeClassifierModel):
            if "attribute" in options:
                return from_attribute_classifier(classifier, class_name=class_name, **options)
            attribute, value = attribute_of_class(classifier, class_name)
            return from_attribute_classifier(classifier, attribute, value, **options)
        if isinstance(classifier, (Pipeline, PreTrainedModel)):
            label = options.pop("label", class_name)
            if label is None:
                model = getattr(classifier, "model", classifier)
                names = ", ".join(map(repr, getattr(model.config, "id2label", {}).values()))
                raise BlackBoxError(f"Say which class is explained: class_name= one of {names}.")
            return from_transformers(classifier, label, **options)
        if hasattr(classifier, "pathologies") and isinstance(classifier, nn.Module):
            if class_name is None:
                names = ", ".join(repr(n) for n in classifier.pathologies if n)
                raise BlackBoxError(f"Say which class is explained: class_name= one of {names}.")
            return from_torchxrayvision(classifier, class_name, **options)
        if isinstance(classifier, nn.Module):
            return from_module(classifier, class_name=class_name, **options)
        if callable(classifier):
            if class_name is None:
                raise BlackBoxError(
                    "A function has no names of classes: give class_name= for the one it scores."
                )
            return from_callable(classifier, class_name, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise BlackBoxError(
            f"The adapter of {type(classifier).__name__} has no such option: {error}."
        ) from error
    raise BlackBoxError(
        f"{type(classifier).__name__} cannot be asked about images: give a model, a pipeline, a torch.nn.Module, a "
        "function, or a subclass of ImageClassifier."
    )


def _as_it_is(classifier: ImageClassifier, class_name: str | None, options: dict) -> ImageClassifier:
    if class_name is not None and not same_name(class_name, classifier.class_name):
        raise BlackBoxError(
            f"This classifier gives the posterior of {classifier.class_name!r}, not of {class_name!r}; make another "
            "adapter for that."
        )
    if options:
        raise BlackBoxError(f"An ImageClassifier takes no further options, got {', '.join(sorted(options))}.")
    return classifier


__all__ = [
    "AttributeImageClassifier",
    "CallableImageClassifier",
    "ModuleImageClassifier",
    "TorchXRayVisionClassifier",
    "TransformersImageClassifier",
    "as_image_classifier",
    "from_attribute_classifier",
    "from_callable",
    "from_module",
    "from_torchxrayvision",
    "from_transformers",
]
