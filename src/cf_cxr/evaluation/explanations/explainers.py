"""Which explainer the arguments name, and what it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...black_box import ImageClassifier, StudentClassifier
from ...black_box.adapters import is_reference, made_object
from ...explaining.causal import CausalExplainer
from ...explaining.explained_classifier import check_explains
from ...explaining.explanation import Explainer
from ...explaining.latent_shift import ExplainerAutoencoder, LatentShiftExplainer, MechanismAutoencoder
from ...explaining.progressive import ProgressiveExplainer
from ...models.complete_loading import load_complete, load_config
from ...models.deep_scm import DeepSCMConfig, DeepSCMModel
from ...models.progressive_explainer import ProgressiveExplainerConfig, ProgressiveExplainerModel
from ...training.loop.run_folder import MANIFEST_FILE
from ..counterfactuals.command import aligned
from ..judges import weights_fingerprint
from .arguments import ExplanationEvaluationArguments


def load_explainer(
    args: ExplanationEvaluationArguments, classifier: ImageClassifier, device: torch.device
) -> tuple[Explainer, int, dict[str, Any]]:
    """The explainer that the arguments name, the side of its images, and what it is.

    Returns:
        explainer; image size; `method`, `fingerprint`, `path` and, where there is something to say, `warning`.

    Raises:
        ExplainerMismatchError: it was trained for another classifier, unless `force`.
        ValueError: a method that the explainer does not have, weights that are damaged or missing, or nothing says
            the size of its images.
    """
    if is_reference(args.explainer):
        return _own_explainer(args)
    config = load_config(args.explainer)
    if not isinstance(config, (ProgressiveExplainerConfig, DeepSCMConfig)):
        raise ValueError(
            f"--explainer {args.explainer!r} is a {config.model_type}; give a progressive explainer or a DeepSCM."
        )
    is_causal = isinstance(config, DeepSCMConfig)
    own = "causal" if is_causal else "progressive"
    method = own if args.method == "auto" else args.method
    if method not in (own, "latent_shift"):
        raise ValueError(
            f"--method {method} does not fit --explainer {args.explainer!r}, a {config.model_type}; use {own} or "
            "latent_shift."
        )
    warning = None
    if method == "progressive":
        warning = check_explains(config, classifier, args.force)
        check_division_of_data(args)
    model_class = DeepSCMModel if is_causal else ProgressiveExplainerModel
    model = aligned(load_complete(model_class, args.explainer).eval().to(device))
    described = {
        "method": method,
        "path": args.explainer,
        "model_type": config.model_type,
        "fingerprint": weights_fingerprint(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "warning": warning,
    }
    size = config.image_config.image_size if is_causal else config.image_size
    if method == "progressive":
        return ProgressiveExplainer(model), size, described
    if method == "causal":
        return CausalExplainer(model, args.variable, args.seed), size, described
    student = None
    if args.student is not None:
        student = StudentClassifier.from_pretrained(args.student).to(device)
        described["student"] = student.fingerprint()
    described["shift"] = {"radius": args.shift_radius, "steps": args.shift_steps}
    autoencoder = MechanismAutoencoder(model) if is_causal else ExplainerAutoencoder(model)
    explainer = LatentShiftExplainer(
        autoencoder, gradient_classifier=student, radius=args.shift_radius, steps=args.shift_steps
    )
    return explainer, size, described


def _own_explainer(args: ExplanationEvaluationArguments) -> tuple[Explainer, int, dict[str, Any]]:
    explainer = made_object(args.explainer)
    if not callable(getattr(explainer, "series", None)):
        raise ValueError(
            f"--explainer {args.explainer!r} is a {type(explainer).__name__} without "
            "series(pixel_values, classifier, targets)."
        )
    size = args.resolution or getattr(explainer, "image_size", None)
    if size is None:
        raise ValueError(
            f"--explainer {args.explainer!r} has no image_size: say --resolution, the side of its images in pixels."
        )
    described = {"method": "own", "path": args.explainer, "fingerprint": object_fingerprint(explainer)}
    return explainer, int(size), {**described, "warning": None}


def object_fingerprint(thing: Any) -> str:
    """Of weights where there are any, else only of what it is called: code is not looked into."""
    if isinstance(thing, nn.Module) and next(iter(thing.state_dict()), None) is not None:
        return weights_fingerprint(thing)
    name = f"{type(thing).__module__}.{type(thing).__qualname__}"
    return hashlib.sha256(name.encode()).hexdigest()


def check_division_of_data(args: ExplanationEvaluationArguments) -> None:
    """Refuses a split by patient other than the explainer's, where its folder says how it was trained.

    With another seed the same films are divided otherwise, and patients of the training are among those tested.

    Raises:
        ValueError: naming both seeds, unless `force`. (A phantom's seeds share no patient.)
    """
    try:
        manifest = json.loads((Path(args.explainer) / MANIFEST_FILE).read_text(encoding="utf-8"))
        data = manifest["data"]
        seed = data["data_seed"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    same = data.get("dataset") == args.dataset != "phantom"
    if same and seed != args.data_seed and not args.force:
        raise ValueError(
            f"The explainer {args.explainer!r} was trained on {args.dataset} divided by patient with --data_seed {seed}, "
            f"but the evaluation divides it with {args.data_seed}: patients of the training would be among those "
            "tested. Give the same seed (or --force, where the source has a division of its own)."
        )


__all__ = [
    "check_division_of_data",
    "load_explainer",
    "object_fingerprint",
]
