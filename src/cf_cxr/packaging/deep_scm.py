"""Assembles trained parts into one DeepSCM repository with its model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoModel, PreTrainedModel

from ..evaluation.judges import weights_fingerprint
from ..images.image_processing_cxr import CXRImageProcessor
from ..models.attribute_classifier import AttributeClassifierModel
from ..models.attribute_scm import AttributeSCMModel
from ..models.complete_loading import load_complete
from ..models.deep_scm import DeepSCMModel
from ..training.loop import checkpointing
from ..training.loop.arguments import parse_arguments
from .folder import DTYPES, FolderArguments


@dataclass
class PackagingArguments(FolderArguments):
    """The parts, where they go, and what the card says."""

    attribute_scm: str = field(default="outputs/scm", metadata={"help": "Trained attribute SCM."})
    image_mechanism: str = field(
        default="outputs/hvae_soft_cft",
        metadata={
            "help": "Image mechanism, fine-tuned as a rule; or one checkpoint of its finished training "
            "(DIR/checkpoint-00000100), whose averaged weights are taken."
        },
    )
    classifier: str = field(
        default="outputs/classifier", metadata={"help": "Attribute classifier that goes into the package."}
    )
    training_classifiers: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further classifiers that steered the fine-tuning; none of them may judge the model."
        },
    )
    output_dir: str = field(default="outputs/deep_scm", metadata={"help": "Where the model goes."})
    dtype: str = field(
        default="float32",
        metadata={"help": "Precision in which the model loads and computes.", "choices": DTYPES},
    )


def load_image_mechanism(path: str | Path) -> PreTrainedModel:
    """An image mechanism from a folder or the Hub, or from a checkpoint inside the folder of a finished training.

    Raises:
        CheckpointError: the checkpoint is damaged, or the folder around it holds no finished model.
    """
    folder = Path(path)
    if folder not in checkpointing.list_checkpoints(folder.parent):
        return load_complete(AutoModel, path)
    if not (folder.parent / "config.json").is_file():
        raise checkpointing.CheckpointError(
            f"{str(folder.parent)!r} has no config.json, which a training writes at its end; let it finish first."
        )
    model = load_complete(AutoModel, folder.parent)
    averaged, _, _ = checkpointing.load_checkpoint(folder, model)
    model.load_state_dict(averaged or {}, strict=False)  # parameters that were not trained have no average
    return model


def load_image_processor(path: str | Path, size: int) -> CXRImageProcessor:
    """The processor that was saved with an image mechanism, which knows its usual films; else one of this size."""
    folder = Path(path)
    if folder in checkpointing.list_checkpoints(folder.parent):
        path = folder.parent
    try:
        return CXRImageProcessor.from_pretrained(path)
    except OSError:
        return CXRImageProcessor(size=size)


def assemble(args: PackagingArguments) -> DeepSCMModel:
    """The DeepSCM of the parts; raises ValueError where they do not fit together."""
    scm = AttributeSCMModel.from_pretrained(args.attribute_scm)
    image = load_image_mechanism(args.image_mechanism)
    classifier = AttributeClassifierModel.from_pretrained(args.classifier)
    model = DeepSCMModel.from_parts(scm, image, classifier)
    others = [AttributeClassifierModel.from_pretrained(path) for path in args.training_classifiers]
    model.config.training_classifiers = sorted({weights_fingerprint(c) for c in [classifier, *others]})
    return model.to(getattr(torch, args.dtype))


def main(argv: Sequence[str] | None = None) -> Path:
    """Assembles from command-line arguments; returns the folder."""
    description = "Assemble a DeepSCM from its trained parts, with a model card."
    (args,) = parse_arguments((PackagingArguments,), argv, description=description)
    args.check_folder()
    facts, results = args.read_card()
    model = assemble(args)
    processor = load_image_processor(args.image_mechanism, model.config.image_config.image_size)
    return args.write(model, processor, facts, results)
