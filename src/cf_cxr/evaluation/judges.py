"""Who is evaluated by whom: fingerprints of models, and the refusal of judges that took part in training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from ..models.attribute_classifier import AttributeClassifierModel
from ..models.deep_scm import DeepSCMModel


class SameJudgeError(ValueError):
    """The judge is the classifier that the model was trained with or carries."""


def weights_fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights in float32, independent of where they are stored."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_judge(
    model: DeepSCMModel, judge: AttributeClassifierModel, paths: Mapping[str, str], allow: bool
) -> dict[str, Any]:
    """Fingerprints of model, judge and the model's own classifier, and whether the judge took part in training.

    Args:
        paths: `model` and `judge` as the user named them, for messages.
        allow: accept a judge that took part in training.

    Raises:
        ValueError: judge and model have different attributes or image sizes.
        SameJudgeError: the judge took part in training, and that is not allowed.
    """
    if judge.schema != model.schema:
        raise ValueError(
            f"The judge {paths['judge']!r} knows {judge.schema}, the model {paths['model']!r} {model.schema}; "
            "the judge must be trained with the model's attributes, in the same order and with the same classes."
        )
    parts = {"model": model, "judge": judge, "model_classifier": model.classifier}
    prints = {name: weights_fingerprint(part) for name, part in parts.items()}
    used = prints["judge"] in {prints["model_classifier"], *(model.config.training_classifiers or [])}
    if used and not allow:
        raise SameJudgeError(
            f"The judge {paths['judge']!r} is a classifier that {paths['model']!r} was trained with or carries; it "
            "cannot grade itself. Train another (architecture, seed), or pass --allow_training_judge to see its opinion."
        )
    return {"fingerprints": prints, "judge_is_training_classifier": used}


def object_fingerprint(thing: Any) -> str:
    """Of weights where there are any, else only of what it is called: code is not looked into."""
    if isinstance(thing, torch.nn.Module) and next(iter(thing.state_dict()), None) is not None:
        return weights_fingerprint(thing)
    name = f"{type(thing).__module__}.{type(thing).__qualname__}"
    return hashlib.sha256(name.encode()).hexdigest()
