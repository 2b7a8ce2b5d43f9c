"""What the arguments name: the explainer, and the network whose embedding says who is who."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...black_box import ImageClassifier, StudentClassifier
from ...black_box.adapters import is_reference, made_object
from ...explaining.causal import CausalExplainer
from ...explaining.explained_classifier import check_explains
from ...explaining.explanation import Explainer
from ...explaining.latent_shift import ExplainerAutoencoder, LatentShiftExplainer, MechanismAutoencoder
from ...explaining.progressive import ProgressiveExplainer
from ...models.attribute_classifier import AttributeClassifierModel
from ...models.complete_loading import load_complete, load_config
from ...models.deep_scm import DeepSCMConfig, DeepSCMModel
from ...models.progressive_explainer import ProgressiveExplainerConfig, ProgressiveExplainerModel
from ...training.loop.run_folder import MANIFEST_FILE
from ..judges import object_fingerprint, weights_fingerprint
from ..run import aligned


def load_explainer(
    args: Any, classifier: ImageClassifier, device: torch.device
) -> tuple[Explainer, int, dict[str, Any]]:
    """The explainer that the arguments name, the side of its images, and what it is.

    Returns:
        explainer; image size; `method`, `fingerprint`, `path` and `warning`, which may be None.

    Raises:
        ExplainerMismatchError: it was trained for another classifier, unless `force`.
        ValueError: a method that the explainer does not have, weights that are damaged or missing, or nothing says
            the size of its images.
    """
    name = f"--explainer {args.explainer!r}"
    if is_reference(args.explainer):
        explainer = made_object(args.explainer)
        if not callable(getattr(explainer, "series", None)):
            raise ValueError(
                f"{name} is a {type(explainer).__name__} without series(pixel_values, classifier, targets)."
            )
        size = args.resolution or getattr(explainer, "image_size", None)
        if size is None:
            raise ValueError(f"{name} has no image_size: say --resolution, the side of its images in pixels.")
        fingerprint = object_fingerprint(explainer)
        described = {"method": "own", "path": args.explainer, "fingerprint": fingerprint, "warning": None}
        return explainer, int(size), described
    config = load_config(args.explainer)
    is_causal = isinstance(config, DeepSCMConfig)
    if not (is_causal or isinstance(config, ProgressiveExplainerConfig)):
        raise ValueError(f"{name} is a {config.model_type}; give a progressive explainer or a DeepSCM.")
    own = "causal" if is_causal else "progressive"
    method = own if args.method == "auto" else args.method
    if method not in (own, "latent_shift"):
        raise ValueError(
            f"--method {method} does not fit {name}, a {config.model_type}; use {own} or latent_shift."
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
    size = (config.image_config if is_causal else config).image_size
    if method == "progressive":
        return ProgressiveExplainer(model), size, described
    if method == "causal":
        return CausalExplainer(model, args.variable, args.seed), size, described
    student = None
    if args.student is not None:
        student = StudentClassifier.from_pretrained(args.student).to(device)
        described["student"] = student.fingerprint()
    autoencoder = MechanismAutoencoder(model) if is_causal else ExplainerAutoencoder(model)
    return LatentShiftExplainer(autoencoder, gradient_classifier=student), size, described


def check_division_of_data(args: Any) -> None:
    """Refuses a split by patient other than the explainer's, where its folder says how it was trained.

    With another seed the same films are divided otherwise, and patients of the training are among those tested.

    Raises:
        ValueError: naming both seeds, unless `force`. (A phantom's seeds share no patient.)
    """
    try:
        data = json.loads((Path(args.explainer) / MANIFEST_FILE).read_text(encoding="utf-8"))["data"]
        seed, dataset = data["data_seed"], data.get("dataset")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if dataset == args.dataset != "phantom" and seed != args.data_seed and not args.force:
        raise ValueError(
            f"The explainer {args.explainer!r} was trained on {args.dataset} divided by patient with --data_seed {seed}, "
            f"but the evaluation divides it with {args.data_seed}: patients of the training would be among those "
            "tested. Give the same seed (or --force, where the source has a division of its own)."
        )


@dataclass
class Embedder:
    """Where identity and Fréchet distances are measured.

    Args:
        function: images `(N, 1, H, W)` in [-1, 1] to features `(N, D)`.
        words: what it is, for the reader.
        fingerprint: of its weights.
        warning: a reason for doubt, or None.
    """

    function: Callable[[Tensor], Tensor]
    words: str
    fingerprint: str
    warning: str | None = None


def load_embedder(
    args: Any, explainer: Any, classifier: ImageClassifier, size: int, device: torch.device
) -> Embedder | None:
    """The judge's embedding, else that of a network inside the explainer, else none.

    Raises:
        ValueError: a judge of images of another size.
    """

    def pooled(network: AttributeClassifierModel, words: str, warning: str | None) -> Embedder:
        return Embedder(
            lambda images: network(images, return_dict=True).embedding.float(),
            f"pooled embedding of {words}",
            weights_fingerprint(network),
            warning,
        )

    if args.judge is not None:
        judge = aligned(AttributeClassifierModel.from_pretrained(args.judge).eval().to(device))
        if judge.config.image_size not in (None, size):
            raise ValueError(
                f"The judge {args.judge!r} is trained for images of {judge.config.image_size} pixels, the explanations "
                f"have {size}: give a judge of that size."
            )
        explained = [m for m in classifier.modules() if isinstance(m, AttributeClassifierModel)]
        same = weights_fingerprint(judge) in map(weights_fingerprint, explained)
        warning = "The judge is the explained classifier: where explanations change what it sees, its embedding moves."
        return pooled(judge, f"the judge {args.judge}", warning if same else None)
    model = getattr(getattr(explainer, "autoencoder", explainer), "model", None)
    warning = "Identity and Fréchet distances are measured by a part of the explainer itself (no --judge)."
    if callable(getattr(model, "encode", None)):
        words = "pooled bottleneck of the explainer itself"
        return Embedder(
            lambda images: model.encode(images).float().mean((2, 3)),
            words,
            weights_fingerprint(model),
            warning,
        )
    inner = getattr(model, "classifier", None)
    if isinstance(inner, AttributeClassifierModel):
        return pooled(inner, "the classifier inside the causal model", warning)
    return None
