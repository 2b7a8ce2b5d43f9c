"""A classifier with gradients that repeats a black box without: knowledge distillation (Hinton et al., 2015).

An explainer is trained through the gradient of its classifier. A service or a Python function has none; a small
network that was taught its posteriors has. What is explained then is the student: its fidelity says how far that
is the black box, and the explanation should be confirmed by asking the black box about the explaining images.
"""

from __future__ import annotations

import os
from typing import Any

from ..models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from ..models.complete_loading import load_complete, load_config
from .attribute_adapter import AttributeImageClassifier
from .errors import BlackBoxError
from .fidelity import FidelityReport

ATTRIBUTE = "black_box"
RECORD = "distillation"  # entry of the configuration that holds the fidelity


class StudentClassifier(AttributeImageClassifier):
    """A student of a black box: differentiable, with its fidelity on record.

    Args:
        model: a trained `AttributeClassifierModel` with the binary attribute `"black_box"`, whose configuration has
            the record of `distil`.

    Raises:
        BlackBoxError: for a model that is no student.
    """

    def __init__(self, model: AttributeClassifierModel) -> None:
        record = getattr(model.config, RECORD, None)
        if not record:
            raise BlackBoxError(
                "This model's configuration has no record of a distillation: it is no student of a black box. Use "
                "from_attribute_classifier for it, or train a student with distil()."
            )
        super().__init__(model, ATTRIBUTE, None, record["class_name"], record["threshold"])
        self.fidelity = FidelityReport.from_dict(record["fidelity"])

    @property
    def black_box_fingerprint(self) -> str:
        """Fingerprint of the classifier this is a student of; `fingerprint()` is the student's own."""
        return self.fidelity.black_box_fingerprint

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Writes weights (safetensors) and configuration, which holds the fidelity; see `PreTrainedModel`."""
        self.model.save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **kwargs: Any) -> StudentClassifier:
        """A student of a folder or a Hub repository.

        Args:
            name_or_path: written by `save_pretrained` or `push_to_hub`.
            **kwargs: as for `PreTrainedModel.from_pretrained`.

        Raises:
            BlackBoxError: for a model that is no student, or weights that are damaged or missing.
            OSError: for a folder without a model.
        """
        config = load_config(name_or_path, BlackBoxError)
        if not is_student_config(config):
            raise BlackBoxError(
                f"{name_or_path} holds a {config.model_type} model, no student of a black box."
            )
        return cls(load_complete(AttributeClassifierModel, name_or_path, BlackBoxError, **kwargs))

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Uploads what `save_pretrained` writes; see `PreTrainedModel.push_to_hub`."""
        return self.model.push_to_hub(repo_id, **kwargs)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.fidelity}"


def is_student_config(config: Any) -> bool:
    """Whether a configuration belongs to a student."""
    return isinstance(config, AttributeClassifierConfig) and bool(getattr(config, RECORD, None))


__all__ = ["StudentClassifier", "is_student_config"]
