"""`train_explainer.py`: from a classifier, of whatever kind, and images to a trained explainer."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from ...black_box import ImageClassifier, StudentClassifier
from ...black_box.adapters import is_reference, load_black_box, made_object
from ...data.loading import cache_folder
from ...models.anatomy_segmenter import AnatomySegmenterModel
from ...models.complete_loading import load_complete, load_config
from ...models.progressive_explainer import (
    ExplainerDiscriminator,
    ExplainerDiscriminatorConfig,
    ProgressiveExplainerConfig,
    ProgressiveExplainerModel,
)
from ...models.progressive_explainer.conditional_norm import ConditionalNorm2d
from ..loop.arguments import DataArguments, parse_arguments
from ..loop.batches import MASK_COLUMNS, first_process, load_schema, make_datasets
from .arguments import ExplainerConfig
from .caches import (
    QUESTION_IMAGES,
    ExplainerBatches,
    cached_masks,
    cached_posterior,
    cached_student,
    describe_empty_bins,
)
from .losses import MahalanobisPrior
from .trainer import ExplainerTrainer

logger = logging.getLogger(__name__)

CONDITION_SPREAD = 0.5
_CHECKED_IMAGES = 32
_PRIOR_IMAGES = 4000  # give the covariance of 256 means


def build_explainer(
    args: ExplainerConfig, classifier: ImageClassifier, resolution: int
) -> ProgressiveExplainerModel:
    """A generator that knows whose decisions it will explain, new or from `init_from`.

    Its configuration has the classifier's class, threshold and fingerprint and, where that is a student, the
    `black_box_fingerprint` of the original.

    Raises:
        ValueError: for widths that do not fit the resolution, or an `init_from` that is no explainer.
    """
    explained = {
        "class_name": classifier.class_name,
        "classifier_fingerprint": classifier.fingerprint(),
        "threshold": classifier.threshold,
        "operating_point": classifier.operating_point,
        "black_box_fingerprint": getattr(classifier, "black_box_fingerprint", None),
    }
    if args.init_from is None:
        model = ProgressiveExplainerModel(
            ProgressiveExplainerConfig(
                image_size=resolution,
                widths=args.widths_at(resolution),
                residual_output=args.residual_output,
                # the squares of the prior: no change escapes it
                change_stride=max(1, resolution // 16) if args.residual_output else 1,
                **explained,
            )
        )
        spread_conditions(model)
        return model
    config = load_config(args.init_from)
    if not isinstance(config, ProgressiveExplainerConfig):
        raise ValueError(f"--init_from {args.init_from} holds a {config.model_type} model, no explainer.")
    for name, value in {"image_size": resolution, **explained}.items():
        setattr(config, name, value)
    return ProgressiveExplainerModel.from_pretrained(args.init_from, config=config)


@torch.no_grad()
def spread_conditions(model: ProgressiveExplainerModel, spread: float = CONDITION_SPREAD) -> None:
    """Moves the shift of bin k in every conditional norm to spread * (2 centre_k - 1) * r, with r random, N(0, 1).

    Rows that start alike and a residual output that starts at zero are a saddle point, which a training hardly leaves.
    """
    place = 2 * model.bins.centres - 1
    for norm in model.modules():
        if isinstance(norm, ConditionalNorm2d) and len(norm.beta) == len(place):
            norm.beta += spread * place[:, None] * torch.randn(norm.beta.shape[1])


def load_segmenter(name: str | None) -> Any:
    """A trained `AnatomySegmenterModel`, anything with `segment` of the user's own code, or None.

    Raises:
        ValueError: for an object without `segment`.
    """
    if name is None:
        return None
    segmenter = made_object(name) if is_reference(name) else load_complete(AnatomySegmenterModel, name)
    if not callable(getattr(segmenter, "segment", None)):
        raise ValueError(
            f"--segmenter {name!r} is a {type(segmenter).__name__} without segment(pixel_values); see "
            "AnatomySegmenterModel."
        )
    return segmenter


def evenly_spaced(batches: Any, count: int) -> Tensor:
    """At most `count` images of a data set, from all over it."""
    step = max(1, len(batches) // count)
    return batches.__getitems__(list(range(0, len(batches), step))[:count])["pixel_values"]


def main(argv: Sequence[str] | None = None) -> ProgressiveExplainerModel:
    """Train from command-line arguments; returns the generator with its final weights."""
    args, data = parse_arguments(
        (ExplainerConfig, DataArguments),
        argv,
        description="Train a progressive explainer of a black-box classifier (Singla et al., 2023).",
    )
    # all questions are asked before the processes of a training meet, so that none waits for another there
    device = _own_device(args)
    black_box = load_black_box(args.classifier, args.class_name, args.classifier_options).to(device)
    masks_found = args.segmenter not in ("none", "own")
    segmenter = load_segmenter(args.segmenter) if masks_found else None
    schema, _ = load_schema(data)
    labels = MASK_COLUMNS if args.segmenter == "own" else ()
    train, validation, processor, info = make_datasets(data, schema, tuple(labels))
    checked = evenly_spaced(train, _CHECKED_IMAGES).to(device)
    black_box.validate(checked, QUESTION_IMAGES)
    cache_dir, classifier = cache_folder(data.cache_dir), black_box
    if not black_box.differentiable:
        classifier = cached_student(
            black_box, train, cache_dir, force=args.force_student, seed=args.seed, device=device
        )
        classifier.to(device).validate(checked, QUESTION_IMAGES)

    def explained(batches: Any) -> ExplainerBatches | None:
        if batches is None:
            return None
        masks = cached_masks(segmenter, batches, cache_dir, device) if masks_found else (None, None)
        return ExplainerBatches(batches, cached_posterior(classifier, batches, cache_dir), *masks)

    train, validation = explained(train), explained(validation)
    set_seed(args.seed)
    model = build_explainer(args, classifier, data.resolution)
    counts = torch.bincount(model.bins.index(train.posterior), minlength=model.bins.num_bins).tolist()
    if first_process():
        print(f"Training images per bin of the posterior: {counts}")
        for text in describe_empty_bins(counts, classifier.threshold):
            logger.warning(text)
    prior = MahalanobisPrior(evenly_spaced(train, _PRIOR_IMAGES)) if args.mahalanobis_weight else None
    discriminator = None
    if args.discriminator_steps:
        config = ExplainerDiscriminatorConfig.for_explainer(model.config, widths=model.config.widths)
        discriminator = ExplainerDiscriminator(config)
    ExplainerTrainer(
        model,
        args,
        train,
        validation,
        processing_class=processor,
        run_info={"explained": describe_classifier(black_box, classifier), "images_per_bin": counts, **info},
        classifier=classifier,
        discriminator=discriminator,
        prior=prior,
        black_box=black_box,
    ).train()
    return model


def describe_classifier(black_box: ImageClassifier, classifier: ImageClassifier) -> dict[str, Any]:
    """What `run.json` says about the black box, and about its student if there is one."""
    described = {
        "class_name": black_box.class_name,
        "threshold": black_box.threshold,
        "operating_point": black_box.operating_point,
        "fingerprint": black_box.fingerprint(),
        "adapter": type(black_box).__name__,
        "differentiable": black_box.differentiable,
    }
    if isinstance(classifier, StudentClassifier):
        fidelity = classifier.fidelity.to_dict()
        described["student"] = {"fingerprint": classifier.fingerprint(), "fidelity": fidelity}
    return described


def _own_device(args: ExplainerConfig) -> torch.device:
    """Where this process will compute."""
    accelerator = None if args.use_cpu else torch.accelerator.current_accelerator()
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", 0)))
