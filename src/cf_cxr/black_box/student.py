"""A classifier with gradients that repeats a black box without: knowledge distillation (Hinton et al., 2015).

An explainer is trained through the gradient of its classifier. A service or a Python function has none; a small
network that was taught its posteriors has. What is explained then is the student: its fidelity says how far that
is the black box, and the explanation should be confirmed by asking the black box about the explaining images.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from ..models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from ..models.complete_loading import load_complete, load_config
from .attribute_adapter import AttributeImageClassifier
from .checks import BlackBoxError


@dataclass(frozen=True)
class FidelityReport:
    """Agreement of a student with its black box on held-out images.

    Args:
        mean_difference: mean |student - black box| of the posteriors, in [0, 1]; ideal 0.
        max_difference: the largest of those.
        correlation: Pearson's, of the posteriors; None where one of them is constant.
        agreement: share of images with the same decision; easily high where one decision is rare.
        balanced_agreement: mean of that share over the images the black box says yes and no to; None where it
            says only one of them.
        n_train, n_held_out: images trained on and measured on; of different patients where those are known.
        black_box_fingerprint: of the black box.
        by_patient: whether the split was by patient.
        seed: of the split and the training.
    """

    mean_difference: float
    max_difference: float
    correlation: float | None
    agreement: float
    balanced_agreement: float | None
    n_train: int
    n_held_out: int
    black_box_fingerprint: str
    by_patient: bool
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FidelityReport:
        """The report whose fields a dictionary holds; keys of later versions are left out."""
        return cls(**{f.name: values[f.name] for f in fields(cls)})

    def __str__(self) -> str:
        correlation, balanced = (
            "undefined" if value is None else f"{value:.3f}"
            for value in (self.correlation, self.balanced_agreement)
        )
        return (
            f"mean |difference| {self.mean_difference:.3f}, correlation {correlation}, same decision "
            f"{self.agreement:.3f} (balanced {balanced}) on {self.n_held_out} held-out images, after "
            f"{self.n_train} for training"
        )


@dataclass(frozen=True)
class FidelityLimits:
    """What a student must reach to stand in for its black box.

    Args:
        mean_difference: at most; one bin of ten by default.
        correlation, balanced_agreement: at least.
    """

    mean_difference: float = 0.1
    correlation: float = 0.9
    balanced_agreement: float = 0.85

    def failures(self, report: FidelityReport) -> list[str]:
        """What falls short, in words; empty for a faithful student."""
        failed = []
        if not report.mean_difference <= self.mean_difference:
            failed.append(
                f"mean |difference| {report.mean_difference:.3f} (at most {self.mean_difference:g})"
            )
        for name in ("correlation", "balanced_agreement"):
            value, limit = getattr(report, name), getattr(self, name)
            if value is None:
                failed.append(f"{name.replace('_', ' ')} undefined (at least {limit:g})")
            elif not value >= limit:
                failed.append(f"{name.replace('_', ' ')} {value:.3f} (at least {limit:g})")
        return failed


def measure_fidelity(student: Tensor, black_box: Tensor, threshold: float = 0.5) -> dict[str, float | None]:
    """The measures of `FidelityReport` for posteriors `(N,)` of the same images.

    Raises:
        BlackBoxError: for shapes that differ, or no images.
    """
    if student.shape != black_box.shape or student.ndim != 1 or len(student) == 0:
        raise BlackBoxError(
            "Fidelity compares posteriors (N,) of the same images, at least one, got "
            f"{tuple(student.shape)} and {tuple(black_box.shape)}."
        )
    a, b = (values.detach().double().cpu().numpy() for values in (student, black_box))
    said, truth = a >= threshold, b >= threshold
    varies = a.std() * b.std() > 1e-12
    return {
        "mean_difference": float(np.abs(a - b).mean()),
        "max_difference": float(np.abs(a - b).max()),
        "correlation": float(np.corrcoef(a, b)[0, 1]) if varies else None,
        "agreement": float((said == truth).mean()),
        "balanced_agreement": float(balanced_accuracy_score(truth, said)) if 0 < truth.mean() < 1 else None,
    }


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
