"""Turns a trained explainer into a repository: weights at the precision asked for, processor, model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..image_processing_cxr import CXRImageProcessor
from ..model_cards import INTENDED_USE, ModelCardFacts
from ..models.progressive_explainer import ProgressiveExplainerConfig, ProgressiveExplainerModel
from .arguments import parse_arguments, read_config
from .explanation_evaluation.tables import results_markdown
from .packaging import stored_weights
from .trainer import OutputDirectoryError


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


def explainer_card(
    config: ProgressiveExplainerConfig, facts: ModelCardFacts, results: Mapping[str, Any] | None = None
) -> ModelCard:
    """The card of an explainer; without results of `evaluate_explainer.py` it says that nothing was measured."""
    data = ModelCardData(
        license=facts.license,
        library_name="cf_cxr",
        pipeline_tag="image-to-image",
        tags=["chest-xray", "explainability", "counterfactual", "medical-imaging", "chest-xray-explanation"],
        datasets=facts.datasets or None,
    )
    moved = ""
    if config.operating_point is not None:
        moved = f", whose posterior {config.operating_point:g} is moved to 0.5 along the log odds"
    explained = (
        f"The decision explained is that of {config.class_name!r}, from {config.threshold:g} on, of the classifier with "
        f"the fingerprint `{config.classifier_fingerprint}`{moved}. Other classifiers are refused unless forced. "
        f"{config.image_size} x {config.image_size} pixels, {config.num_bins} bins of the posterior."
    )
    usage = (
        "```python\nimport cf_cxr\nfrom transformers import pipeline\n\n"
        f'why = pipeline("chest-xray-explanation", model="cf-cxr/{facts.name}")("chest.png")\n'
        'print(why.message)\nwhy.counterfactual.save("decided_otherwise.png")\n```'
    )
    measured = "Not evaluated."
    if results is not None:
        command = facts.evaluation_command
        measured = (
            f"Code at commit `{results['identity']['commit']}`, seed {results['identity']['seed']}.\n\n```\n{command}\n```"
            f"\n\n{results_markdown(results)}"
        )
    sections = {
        "What it explains": explained,
        "Use": usage,
        "Intended use": INTENDED_USE,
        "Training data": facts.training_data,
        "Training": facts.training_procedure,
        "Measured": measured,
        "Examples": facts.examples,
        "Limits": facts.limits,
        "Ethical notes": facts.ethics,
        "Attribution": facts.attribution,
    }
    body = "\n\n".join(f"## {title}\n\n{text.strip()}" for title, text in sections.items() if text.strip())
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {facts.name}\n\n{facts.summary.strip()}\n\n{body}\n")


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
    model = ProgressiveExplainerModel.from_pretrained(args.explainer).eval()
    processor = CXRImageProcessor.from_pretrained(args.explainer)
    facts = ModelCardFacts(**(read_config(args.card) if args.card else {"name": "explainer"}))
    results = json.loads(Path(args.results).read_text(encoding="utf-8")) if args.results else None
    model.save_pretrained(folder, state_dict=stored_weights(model, args.storage_dtype))
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(str(explainer_card(model.config, facts, results)), encoding="utf-8")
    if args.push_to_hub:
        model.push_to_hub(args.push_to_hub)
        processor.push_to_hub(args.push_to_hub)
    print(f"{folder}: {sum(p.numel() for p in model.parameters())} parameters")
    return folder


__all__ = ["ExplainerPackagingArguments", "explainer_card", "main"]
