"""Loads a classifier of a folder or a Hub repository, whichever kind it is."""

from __future__ import annotations

import os
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from ..models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from .adapters import as_image_classifier
from .classifier import ImageClassifier
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
        BlackBoxError: for an unknown class, or a model that is no classifier.
        OSError: where there is no model.
    """
    config = AutoConfig.from_pretrained(name_or_path)
    if is_student_config(config):
        return as_image_classifier(StudentClassifier.from_pretrained(name_or_path), class_name, **options)
    if isinstance(config, AttributeClassifierConfig):
        return as_image_classifier(
            AttributeClassifierModel.from_pretrained(name_or_path), class_name, **options
        )
    options.setdefault("processor", None)
    if options["processor"] is None:
        options["processor"] = AutoImageProcessor.from_pretrained(name_or_path)
    model = AutoModelForImageClassification.from_pretrained(name_or_path, use_safetensors=True)
    return as_image_classifier(model, class_name, **options)


__all__ = ["load_image_classifier"]
