"""Assembles trained parts into one DeepSCM repository with its model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel, PreTrainedModel

from ..evaluation.judges import weights_fingerprint
from ..images.image_processing_cxr import CXRImageProcessor
from ..models.attribute_classifier import AttributeClassifierModel
from ..models.attribute_scm import AttributeSCMModel
from ..models.complete_loading import load_complete
from ..models.deep_scm import DeepSCMModel
from ..training.loop import checkpointing
from ..training.loop.arguments import _choice, _option, parse_arguments
from .folder import DTYPES, FolderArguments


@dataclass
class PackagingArguments(FolderArguments):
    """The parts, where they go, and what the card says."""

    attribute_scm: str = _option("outputs/scm", "Trained attribute SCM.")
    image_mechanism: str = _option(
        "outputs/hvae_soft_cft",
        "Image mechanism, fine-tuned as a rule; or one checkpoint of its training "
        "(DIR/checkpoint-100), whose averaged weights are taken.",
    )
    classifier: str = _option("outputs/classifier", "Attribute classifier that goes into the package.")
    training_classifiers: list[str] = _option(
        [], "Further classifiers that steered the fine-tuning; none of them may judge the model."
    )
    output_dir: str = _option("outputs/deep_scm", "Where the model goes.")
    dtype: str = _choice("float32", DTYPES, "Precision in which the model loads and computes.")


def load_image_mechanism(path: str | Path) -> PreTrainedModel:
    """An image mechanism from a folder or the Hub, or with the averaged weights of a training's checkpoint.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    folder = Path(path)
    checkpoint = folder in checkpointing.list_checkpoints(folder.parent)
    if checkpoint:
        checkpointing.verify_checkpoint(folder)
    model = load_complete(AutoModel, path)
    if checkpoint and (folder / checkpointing.EMA_FILE).is_file():  # what was not trained has no average
        model.load_state_dict(load_file(folder / checkpointing.EMA_FILE), strict=False)
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
