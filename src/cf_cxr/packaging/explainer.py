"""Turns a trained explainer into a repository: weights at the precision asked for, processor, model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..images.image_processing_cxr import CXRImageProcessor
from ..model_cards.card import explainer_card
from ..models.progressive_explainer import ProgressiveExplainerModel
from ..training.loop.arguments import parse_arguments
from ..training.loop.run_folder import OutputDirectoryError
from .deep_scm import push_folder, read_facts, read_results, stored_weights


@dataclass
class ExplainerPackagingArguments:
    """The explainer, where it goes, and what the card says."""

    _argument_group_name = "Packaging"

    explainer: str = field(default="outputs/explainer", metadata={"help": "Trained progressive explainer."})
    output_dir: str = field(default="outputs/packaged_explainer", metadata={"help": "Where it goes."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace a model that is there."})
    card: str | None = field(
        default=None, metadata={"help": "YAML or JSON file with the card's facts: name, training_data, ..."}
    )
    results: str | None = field(
        default=None, metadata={"help": "results.json of evaluate_explainer.py, for the card."}
    )
    storage_dtype: str = field(
        default="float32",
        metadata={
            "help": "Precision of the numbers in the file. It loads and computes in float32 all the same.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    push_to_hub: str | None = field(default=None, metadata={"help": "Upload to this Hub repository."})


def main(argv: Sequence[str] | None = None) -> Path:
    """Packages from command-line arguments; returns the folder.

    Raises:
        OutputDirectoryError: there is a model already.
        ValueError: a weight is too large for `storage_dtype`.
    """
    (args,) = parse_arguments(
        (ExplainerPackagingArguments,), argv, description="Package a trained explainer with a model card."
    )
    folder = Path(args.output_dir)
    if (folder / "config.json").exists() and not args.overwrite_output_dir:
        raise OutputDirectoryError(
            f"{args.output_dir!r} already holds a model; use another --output_dir or --overwrite_output_dir."
        )
    facts = read_facts(args.card, name="explainer")
    results = read_results(args.results)
    model = ProgressiveExplainerModel.from_pretrained(args.explainer).eval()
    processor = CXRImageProcessor.from_pretrained(args.explainer)
    model.save_pretrained(folder, state_dict=stored_weights(model, args.storage_dtype))
    processor.save_pretrained(folder)
    card = explainer_card(model.config, facts, results, args.push_to_hub)
    (folder / "README.md").write_text(str(card), encoding="utf-8")
    if args.push_to_hub:
        push_folder(folder, args.push_to_hub)
    print(f"{folder}: {sum(p.numel() for p in model.parameters())} parameters")
    return folder


__all__ = ["ExplainerPackagingArguments", "main"]
