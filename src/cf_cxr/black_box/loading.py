"""Loads a classifier of a folder or a Hub repository, whichever kind it is."""

from __future__ import annotations

import os
from typing import Any

from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from ..models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from ..models.complete_loading import load_complete, load_config
from .adapters import as_image_classifier
from .classifier import ImageClassifier
from .errors import BlackBoxError
from .student import StudentClassifier, is_student_config


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
        return as_image_classifier(StudentClassifier.from_pretrained(name_or_path), class_name, **options)
    if isinstance(config, AttributeClassifierConfig):
        model = load_complete(AttributeClassifierModel, name_or_path, BlackBoxError)
        return as_image_classifier(model, class_name, **options)
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise BlackBoxError(
            f"{name_or_path} holds a {config.model_type} model, which classifies no images. Give an attribute "
            "classifier, a student, or a transformers image-classification model."
        )
    options.setdefault("processor", None)
    if options["processor"] is None:
        options["processor"] = AutoImageProcessor.from_pretrained(name_or_path)
    model = load_complete(AutoModelForImageClassification, name_or_path, BlackBoxError)
    return as_image_classifier(model, class_name, **options)


__all__ = ["load_image_classifier"]
