"""`as_image_classifier`: whatever classifies radiographs, behind one interface; and black boxes that a command names."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, Pipeline, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from ..models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from ..models.complete_loading import load_complete, load_config
from ..models.deep_scm import DeepSCMConfig, DeepSCMModel
from .attribute_adapter import AttributeImageClassifier, attribute_of_class
from .callable_adapter import CallableImageClassifier
from .checks import BlackBoxError, same_name
from .classifier import ImageClassifier
from .module_adapter import ModuleImageClassifier
from .student import StudentClassifier, is_student_config
from .torchxrayvision_adapter import TorchXRayVisionClassifier
from .transformers_adapter import TransformersImageClassifier


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
        if class_name is not None and not same_name(class_name, classifier.class_name):
            raise BlackBoxError(
                f"This classifier gives the posterior of {classifier.class_name!r}, not of {class_name!r}; make another "
                "adapter for that."
            )
        if options:
            raise BlackBoxError(
                f"An ImageClassifier takes no further options, got {', '.join(sorted(options))}."
            )
        return classifier
    if isinstance(classifier, (str, os.PathLike)):
        return load_image_classifier(classifier, class_name, **options)
    try:
        return _adapted(classifier, class_name, options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise BlackBoxError(
            f"The adapter of {type(classifier).__name__} has no such option: {error}."
        ) from error


def _adapted(classifier: Any, class_name: str | None, options: dict[str, Any]) -> ImageClassifier:
    if isinstance(classifier, AttributeClassifierModel):
        if "attribute" in options:
            return AttributeImageClassifier(classifier, class_name=class_name, **options)
        return AttributeImageClassifier(classifier, *attribute_of_class(classifier, class_name), **options)
    if isinstance(classifier, (Pipeline, PreTrainedModel)):
        return TransformersImageClassifier(classifier, options.pop("label", class_name), **options)
    if isinstance(classifier, nn.Module):
        if hasattr(classifier, "pathologies"):
            return TorchXRayVisionClassifier(classifier, class_name, **options)
        return ModuleImageClassifier(classifier, class_name=class_name, **options)
    if callable(classifier):
        if class_name is None:
            raise BlackBoxError("A function has no names of classes: give class_name= for the one it scores.")
        return CallableImageClassifier(classifier, class_name, **options)
    raise BlackBoxError(
        f"{type(classifier).__name__} cannot be asked about images: give a model, a pipeline, a torch.nn.Module, a "
        "function, or a subclass of ImageClassifier."
    )


def load_image_classifier(
    name_or_path: str | os.PathLike, class_name: str | None = None, **options: Any
) -> ImageClassifier:
    """A saved student, attribute classifier, or transformers image-classification model with its processor.

    Args:
        name_or_path: a folder, or a repository on the Hub. Weights must be safetensors.
        class_name: the class; see `as_image_classifier`. A student knows its own.
        **options: of the adapter.

    Raises:
        BlackBoxError: for an unknown class, a model that is no classifier, or weights that are damaged or missing.
        OSError: where there is no model.
    """
    config = load_config(name_or_path, BlackBoxError)
    if is_student_config(config):
        model: Any = StudentClassifier.from_pretrained(name_or_path)
    elif isinstance(config, AttributeClassifierConfig):
        model = load_complete(AttributeClassifierModel, name_or_path, BlackBoxError)
    elif type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        if options.get("processor") is None:
            options["processor"] = AutoImageProcessor.from_pretrained(name_or_path)
        model = load_complete(AutoModelForImageClassification, name_or_path, BlackBoxError)
    else:
        raise BlackBoxError(
            f"{name_or_path} holds a {config.model_type} model, which classifies no images. Give an attribute "
            "classifier, a student, or a transformers image-classification model."
        )
    return as_image_classifier(model, class_name, **options)


_REFERENCE = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")


def is_reference(text: str) -> bool:
    """Whether a text has the form `package.module:name` (and is no file that exists)."""
    return bool(_REFERENCE.match(text)) and not os.path.exists(text)


def import_object(reference: str) -> Any:
    """The object of `package.module:name`; modules of the current folder are found too.

    Raises:
        ValueError: no such module or name in it.
    """
    module_name, _, name = reference.partition(":")
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        found: Any = import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{reference!r}: {error}; run from the folder of the module, or install it."
        ) from error
    except AttributeError as error:
        raise ValueError(f"{reference!r}: the module {module_name} has no {name!r}.") from error
    finally:
        if added:
            sys.path.remove(folder)
    return found


def made_object(reference: str) -> Any:
    """As `import_object`; a function or class that can be called without arguments is a factory, and is called."""
    found = import_object(reference)
    return found() if _is_factory(found) else found


def load_black_box(
    name: str, class_name: str | None = None, options: str | Mapping[str, Any] | None = None
) -> ImageClassifier:
    """The classifier that a command names.

    Args:
        name: a folder or Hub repository (one of this package's classifiers, a student, a `DeepSCMModel`, whose own
            classifier is meant, or a transformers model), or `package.module:name`: a function from images to
            probabilities, a network, a pipeline, an `ImageClassifier`, or a factory without arguments that returns one
            of these.
        class_name: see `as_image_classifier`.
        options: of the adapter, as a mapping or as JSON, for instance `{"index": 3, "activation": "softmax"}`.

    Raises:
        BlackBoxError: for a classifier, class or option that does not fit.
        ValueError: options that are no JSON object, or an import that fails.
    """
    try:
        options = json.loads(options) if isinstance(options, str) else options or {}
    except json.JSONDecodeError as error:
        raise ValueError(f"--classifier_options {options!r} is no JSON ({error}).") from error
    if not isinstance(options, Mapping):
        raise ValueError(
            f'--classifier_options must be a JSON object such as {{"index": 3}}, got {options!r}.'
        )
    chosen: Any = name
    if is_reference(name):
        chosen = made_object(name)
        if isinstance(chosen, str):
            raise BlackBoxError(f"{name!r} is a text ({chosen!r}), no classifier.")
    elif isinstance(load_config(name, BlackBoxError), DeepSCMConfig):
        chosen = load_complete(DeepSCMModel, name, BlackBoxError)
    if isinstance(chosen, DeepSCMModel):
        chosen = chosen.classifier
    return as_image_classifier(chosen, class_name, **options)


def _is_factory(found: Any) -> bool:
    if isinstance(found, nn.Module) or not (inspect.isroutine(found) or inspect.isclass(found)):
        return False
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return False
    optional = inspect.Parameter.VAR_KEYWORD  # *args would take images
    return all(p.kind is optional or (p.default is not p.empty) for p in parameters)
