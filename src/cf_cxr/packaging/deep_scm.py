"""Assembles trained parts into one DeepSCM repository with its model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import AutoModel, PreTrainedModel

from ..evaluation.judges import weights_fingerprint
from ..images.image_processing_cxr import CXRImageProcessor
from ..model_cards.card import ModelCardFacts, write_model_card
from ..models.attribute_classifier import AttributeClassifierModel
from ..models.attribute_scm import AttributeSCMModel
from ..models.complete_loading import load_complete
from ..models.deep_scm import DeepSCMModel
from ..training.loop import checkpointing
from ..training.loop.arguments import parse_arguments, read_config
from ..training.loop.trainer import OutputDirectoryError


@dataclass
class PackagingArguments:
    """The parts, where they go, and what the card says."""

    _argument_group_name = "Packaging"

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
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace a model that is there."})
    card: str | None = field(
        default=None,
        metadata={"help": "YAML or JSON file with the card's facts: name, license, training_data, ..."},
    )
    results: str | None = field(
        default=None, metadata={"help": "results.json of evaluate_counterfactuals.py, for the card."}
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Precision in which the model loads and computes.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    storage_dtype: str | None = field(
        default=None,
        metadata={
            "help": "Precision of the numbers in the file, --dtype unless given. float16 halves a float32 model's "
            "file; it still loads and computes in --dtype, with weights rounded to 11 bits.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    push_to_hub: str | None = field(default=None, metadata={"help": "Upload to this Hub repository."})


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


def stored_weights(model: PreTrainedModel, dtype: str) -> dict[str, torch.Tensor]:
    """The state dict with floating-point tensors rounded to `dtype`.

    Raises:
        ValueError: a weight is too large for it.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        state[name] = tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
        if not torch.isfinite(state[name]).all():
            raise ValueError(f"Weight {name!r} reaches {tensor.abs().max():g}, too large for {dtype}.")
    return state


def read_facts(path: str | Path | None, **defaults: Any) -> ModelCardFacts:
    """The facts of a YAML or JSON file; without a file those given.

    Raises:
        ValueError: the file cannot be read, or has a key that a card does not know.
    """
    given = defaults if path is None else read_config(path)
    known = [f.name for f in fields(ModelCardFacts)]
    if unknown := [key for key in given if key not in known]:
        raise ValueError(
            f"{path}: a card knows no {', '.join(map(str, unknown))}; it knows {', '.join(known)}."
        )
    return ModelCardFacts(**given)


def read_results(path: str | Path | None) -> dict[str, Any] | None:
    """An evaluation's results.json; ValueError where it is no JSON."""
    try:
        return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"--results {path} is no JSON ({error}); give results.json of an evaluation."
        ) from error


def push_folder(folder: Path, repo_id: str) -> None:
    """Uploads a packaged model as it lies there: weights at their stored precision, processor and card."""
    api = HfApi()
    api.create_repo(repo_id, exist_ok=True)
    api.upload_folder(
        repo_id=repo_id, folder_path=folder, allow_patterns=["*.json", "*.safetensors", "README.md"]
    )


def main(argv: Sequence[str] | None = None) -> Path:
    """Assembles from command-line arguments; returns the folder."""
    (args,) = parse_arguments(
        (PackagingArguments,),
        argv,
        description="Assemble a DeepSCM from its trained parts, with a model card.",
    )
    folder = Path(args.output_dir)
    if (folder / "config.json").exists() and not args.overwrite_output_dir:
        raise OutputDirectoryError(
            f"{args.output_dir!r} already holds a model; use another --output_dir or --overwrite_output_dir."
        )
    facts, results = read_facts(args.card), read_results(args.results)
    model = assemble(args)
    processor = load_image_processor(args.image_mechanism, model.config.image_config.image_size)
    model.save_pretrained(folder, state_dict=stored_weights(model, args.storage_dtype or args.dtype))
    processor.save_pretrained(folder)
    write_model_card(folder / "README.md", model.config, facts, results, args.push_to_hub)
    if args.push_to_hub:
        push_folder(folder, args.push_to_hub)
    print(f"{folder}: {sum(p.numel() for p in model.parameters())} parameters")
    return folder
