"""`train_explainer.py`: from a classifier, of whatever kind, and images to a trained explainer."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from ...black_box import ImageClassifier, StudentClassifier, distil
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
from ...models.progressive_explainer.posterior_bins import PosteriorBins
from ..loop.arguments import DataArguments, parse_arguments
from ..loop.batches import CXRBatches, load_schema, make_datasets, make_masked_datasets
from ..loop.old_arguments import TrainerArguments
from ..loop.old_run_folder import prepare_output_dir
from ..loop.old_trainer import build_accelerator
from ..loop.usual_films import record_after_training
from .arguments import ExplainerArguments
from .caches import (
    ExplainerBatches,
    SegmentedBatches,
    bin_counts,
    cached_posterior,
    describe_empty_bins,
    segmented_batches,
)
from .losses import NaturalChange
from .trainer import ExplainerTrainer

logger = logging.getLogger(__name__)

STUDENT_FOLDER = "student"
_CHECKED_IMAGES = 32
_NATURAL_IMAGES = 4000  # give the covariance of 256 means


def build_explainer(
    args: ExplainerArguments, classifier: ImageClassifier, resolution: int
) -> ProgressiveExplainerModel:
    """A generator that knows whose decisions it will explain, new or from `init_from`.

    Its configuration has the classifier's class, threshold and fingerprint and, where that is a student, the
    `black_box_fingerprint` of the original.

    Raises:
        ValueError: for widths that do not fit the resolution, or a trained explainer of other bins.
    """
    explained = {
        "class_name": classifier.class_name,
        "classifier_fingerprint": classifier.fingerprint(),
        "threshold": classifier.threshold,
        "operating_point": classifier.operating_point,
        "black_box_fingerprint": getattr(classifier, "black_box_fingerprint", None),
    }
    if args.init_from is None:
        config = ProgressiveExplainerConfig(
            image_size=resolution,
            num_bins=args.num_bins,
            widths=args.widths,
            norm_type=args.norm_type,
            residual_output=args.residual_output,
            change_stride=args.change_stride,
            **explained,
        )
        model = ProgressiveExplainerModel(config)
        spread_conditions(model, args.condition_spread)
        return model
    config = load_config(args.init_from)
    if not isinstance(config, ProgressiveExplainerConfig):
        raise ValueError(f"--init_from {args.init_from} holds a {config.model_type} model, no explainer.")
    if config.num_bins != args.num_bins:
        raise ValueError(
            f"--init_from {args.init_from} has {config.num_bins} bins, but --num_bins is {args.num_bins}."
        )
    config.image_size = resolution
    for name, value in explained.items():
        setattr(config, name, value)
    return ProgressiveExplainerModel.from_pretrained(args.init_from, config=config)


@torch.no_grad()
def spread_conditions(model: ProgressiveExplainerModel, spread: float) -> None:
    """Moves the shift of bin k in every conditional norm to spread * (2 centre_k - 1) * r, with r random, N(0, 1)."""
    if spread == 0:
        return
    place = 2 * model.bins.centres - 1
    for norm in model.modules():
        if isinstance(norm, ConditionalNorm2d) and len(norm.beta) == len(place):
            norm.beta += spread * place[:, None] * torch.randn(norm.beta.shape[1])


def build_discriminator(
    args: ExplainerArguments, config: ProgressiveExplainerConfig
) -> ExplainerDiscriminator:
    """A new discriminator for a generator's images."""
    widths = args.discriminator_widths or config.widths
    return ExplainerDiscriminator(ExplainerDiscriminatorConfig.for_explainer(config, widths=widths))


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


def differentiable_classifier(
    black_box: ImageClassifier,
    train: CXRBatches,
    folder: Path,
    args: ExplainerArguments,
    accelerator: Accelerator,
    *,
    resumed: bool = False,
    seed: int = 0,
) -> ImageClassifier:
    """The black box itself if it has gradients, else a student of it, which is kept in `folder`.

    Args:
        train: images for the student, a fifth of which measure its fidelity.
        resumed: take the student that is in the folder, if it is one of this black box.

    Raises:
        StudentFidelityError: a student below the limits, without `force_student`.
    """
    if black_box.differentiable:
        return black_box
    with accelerator.main_process_first():
        # the first process trains and saves, the others read what it saved; so does a resumed run
        if resumed or not accelerator.is_main_process:
            student = _kept_student(black_box, folder)
            if student is not None:
                return student
        logger.warning(
            "The classifier of %r has no gradient: an explainer is trained against a student of it.",
            black_box.class_name,
        )
        student = distil(
            black_box,
            _batches(train, args.posterior_batch_size),
            epochs=args.student_epochs,
            force=args.force_student,
            seed=seed,
            device=accelerator.device,
            progress=accelerator.is_main_process,
        )
        student.save_pretrained(folder)
    accelerator.print(f"Student of the black box: {student.fidelity}")
    return student


def explained_batches(
    classifier: ImageClassifier,
    batches: CXRBatches | None,
    segmenter: Any,
    args: ExplainerArguments,
    cache_dir: Path,
    accelerator: Accelerator,
) -> ExplainerBatches | None:
    """A split with the classifier's answers and, if they are to be computed in advance, the segmenter's masks."""
    if batches is None:
        return None
    with accelerator.main_process_first():
        posterior = cached_posterior(
            classifier,
            batches,
            cache_dir,
            batch_size=args.posterior_batch_size,
            progress=accelerator.is_main_process,
        )
        if args.precompute_masks and isinstance(segmenter, nn.Module):
            batches = segmented_batches(
                segmenter,
                batches,
                cache_dir,
                device=accelerator.device,
                batch_size=args.posterior_batch_size,
                progress=accelerator.is_main_process,
            )
    return ExplainerBatches(batches, posterior)


def evenly_spaced(batches: Any, count: int) -> Tensor:
    """At most `count` images of a data set, from all over it."""
    step = max(1, len(batches) // count)
    return batches.__getitems__(list(range(0, len(batches), step))[:count])["pixel_values"]


def main(argv: Sequence[str] | None = None) -> ProgressiveExplainerModel:
    """Train from command-line arguments; returns the generator with its last (not averaged) weights."""
    stage, data, loop = parse_arguments(
        (ExplainerArguments, DataArguments, TrainerArguments),
        argv,
        defaults={
            "output_dir": "outputs/explainer",
            "per_device_batch_size": 8,
            "learning_rate": 2e-4,
            "adam_beta1": 0.0,
            "adam_beta2": 0.9,
            "weight_decay": 0.0,
            "warmup_steps": 0,
            "max_steps": 20000,
            "max_grad_norm": 0.0,
            "skip_threshold": 0.0,
            "sample_steps": 500,
            "max_val_samples": 256,
        },
        description="Train a progressive explainer of a black-box classifier (Singla et al., 2023).",
    )
    accelerator = build_accelerator(loop)
    black_box = load_black_box(stage.classifier, stage.class_name, stage.classifier_options)
    black_box = black_box.to(accelerator.device)
    segmenter = None if stage.true_masks else load_segmenter(stage.segmenter)
    schema, _ = load_schema(data)
    make = make_masked_datasets if stage.true_masks else make_datasets
    with accelerator.main_process_first():
        train, validation, processor, info = make(data, schema, progress=accelerator.is_main_process)
    checked = evenly_spaced(train, _CHECKED_IMAGES).to(accelerator.device)
    black_box.validate(checked, stage.posterior_batch_size)
    prepare_output_dir(loop, accelerator)  # refuse an earlier run's folder before a student is written there
    classifier = differentiable_classifier(
        black_box,
        train,
        Path(loop.output_dir) / STUDENT_FOLDER,
        stage,
        accelerator,
        resumed=bool(loop.resume_from_checkpoint),
        seed=loop.seed,
    )
    if classifier is not black_box:
        classifier.to(accelerator.device).validate(checked, stage.posterior_batch_size)
    cache_dir = cache_folder(data.cache_dir)
    train, validation = (
        explained_batches(classifier, batches, segmenter, stage, cache_dir, accelerator)
        for batches in (train, validation)
    )
    if isinstance(train.batches, SegmentedBatches):
        segmenter = None
    counts = bin_counts(train.posterior, PosteriorBins(stage.num_bins))
    accelerator.print(f"Training images per bin of the posterior: {counts}")
    for text in describe_empty_bins(counts, classifier.threshold):
        if accelerator.is_main_process:
            logger.warning(text)
    natural = NaturalChange(evenly_spaced(train, _NATURAL_IMAGES)) if stage.natural_weight else None
    set_seed(loop.seed)
    model = build_explainer(stage, classifier, data.resolution)
    trainer = ExplainerTrainer(
        model,
        loop,
        train,
        validation,
        accelerator=accelerator,
        processor=processor,
        num_workers=data.num_workers,
        run_info={
            "stage": dataclasses.asdict(stage),
            "explained": describe_classifier(black_box, classifier),
            "images_per_bin": counts,
            **info,
        },
        classifier=classifier,
        discriminator=build_discriminator(stage, model.config),
        stage_args=stage,
        segmenter=segmenter,
        mask_labels=getattr(train.batches, "labels", ()),
        black_box=black_box,
        natural_change=natural,
    )
    trainer.train()
    record_after_training(trainer)
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
        described["student"] = {
            "fingerprint": classifier.fingerprint(),
            "fidelity": classifier.fidelity.to_dict(),
        }
    return described


def _kept_student(black_box: ImageClassifier, folder: Path) -> StudentClassifier | None:
    if not (folder / "config.json").is_file():
        return None
    student = StudentClassifier.from_pretrained(folder)
    if student.black_box_fingerprint != black_box.fingerprint():
        logger.warning("%s is a student of another black box: a new one is trained.", folder)
        return None
    return student


def _batches(batches: CXRBatches, size: int) -> Iterator[Tensor]:
    for start in range(0, len(batches), size):
        indices = list(range(start, min(start + size, len(batches))))
        yield batches.__getitems__(indices)["pixel_values"]


__all__ = [
    "build_discriminator",
    "build_explainer",
    "describe_classifier",
    "differentiable_classifier",
    "explained_batches",
    "load_segmenter",
    "main",
]
