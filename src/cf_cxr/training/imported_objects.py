"""Objects of the user's own code, named on the command line as `package.module:name`."""

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

from ..black_box import BlackBoxError, ImageClassifier, as_image_classifier
from ..models.complete_loading import load_complete, load_config
from ..models.deep_scm import DeepSCMConfig, DeepSCMModel

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
            classifier is meant, or a transformers model), or `package.module:name`: a function from images to probabilities, a network, a pipeline, an
            `ImageClassifier`, or a factory without arguments that returns one of these.
        class_name: see `as_image_classifier`.
        options: of the adapter, as a mapping or as JSON, for instance `{"index": 3, "activation": "softmax"}`.

    Raises:
        BlackBoxError: for a classifier, class or option that does not fit.
        ValueError: options that are no JSON object, or an import that fails.
    """
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except json.JSONDecodeError as error:
            raise ValueError(f"--classifier_options {options!r} is no JSON ({error}).") from error
    if options is not None and not isinstance(options, Mapping):
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
    return as_image_classifier(chosen, class_name, **(options or {}))


def _is_factory(found: Any) -> bool:
    if isinstance(found, nn.Module) or not (inspect.isroutine(found) or inspect.isclass(found)):
        return False
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return False
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p for p in parameters if p.default is p.empty and p.kind not in variable]
    takes_images = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    return not needed and not takes_images


__all__ = ["import_object", "is_reference", "load_black_box", "made_object"]
