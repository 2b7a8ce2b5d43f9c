"""Model cards: the facts of a model, its measured numbers, its limits, as a Hub README."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .attributes import AttributeSchema
from .causal_graph import CausalGraph

INTENDED_USE = (
    "Research only: counterfactual data for fairness and robustness studies, explanation, teaching. **Not for "
    "diagnosis, and not for any decision about a patient.** A counterfactual shows what this model has learnt to "
    "associate with an attribute, not what would happen to a person."
)


@dataclass
class ModelCardFacts:
    """What a card says that neither configuration nor results know.

    Args:
        name: the model's name on the Hub.
        summary: one paragraph: what it is.
        license: SPDX-like identifier for the Hub.
        datasets: names of the training data for the Hub's metadata.
        training_data, training_procedure, unknown_labels, examples, limits, ethics, attribution: Markdown.
        evaluation_command: how the numbers were made.
    """

    name: str = "deep-scm"
    summary: str = "A deep structural causal model of frontal chest radiographs and their attributes."
    license: str = "apache-2.0"
    datasets: list[str] = field(default_factory=list)
    training_data: str = "Not described."
    training_procedure: str = "Not described."
    unknown_labels: str = ""
    examples: str = ""
    limits: str = ""
    ethics: str = ""
    attribution: str = ""
    evaluation_command: str = "accelerate launch training/evaluate_counterfactuals.py"


def attribute_table(schema: AttributeSchema, graph: CausalGraph) -> str:
    """Markdown table of attributes, values and parents in the causal graph."""
    lines = ["| attribute | kind | values | caused by |", "|---|---|---|---|"]
    for a in schema:
        values = (
            ", ".join(a.categories) if a.is_discrete else f"{a.minimum:g} to {a.maximum:g} {a.unit}".strip()
        )
        lines.append(f"| {a.name} | {a.kind} | {values} | {', '.join(graph.parents(a.name)) or '–'} |")
    return "\n".join(lines)


def results_section(results: Mapping[str, Any] | None, schema: AttributeSchema, command: str) -> str:
    """The measured numbers with intervals, and what they were measured on."""
    if results is None:
        return "Not evaluated."
    from .reports import markdown_table

    who = results["identity"]
    itself = who.get("judge_is_training_classifier", False)
    judge = (
        "**a classifier of its own training, which is no independent judge**"
        if itself
        else "an independent judge"
    )
    return (
        f"On the {who['split']} split ({who['images']} images of {who['patients']} patients with all attributes known), by "
        f"{judge}. Seed {who['seed']}, {who['n_resamples']} bootstrap resamples of patients, 95 % intervals, "
        f"code at commit `{who['commit']}`.\n\n```\n{command}\n```\n\n{markdown_table(results, schema)}"
    )


def write_model_card(
    path: str | Path, config, facts: ModelCardFacts, results: Mapping[str, Any] | None = None
) -> ModelCard:
    """Writes the card of a `DeepSCMConfig` and returns it.

    Args:
        results: of `evaluate_counterfactuals.py`; without them the card says that nothing was measured.
    """
    schema = AttributeSchema(config.scm_config.attributes)
    graph = CausalGraph(config.scm_config.graph, schema.names)
    data = ModelCardData(
        license=facts.license,
        library_name="cf_cxr",
        pipeline_tag="image-to-image",
        tags=["chest-xray", "counterfactual", "causal", "medical-imaging", "chest-xray-counterfactual"],
        datasets=facts.datasets or None,
        model_name=facts.name if results else None,
        eval_results=_eval_results(results, facts) if results else None,
    )
    sections = {
        "Attributes and causal graph": attribute_table(schema, graph) + "\n\nAll attributes cause the image.",
        "Use": _usage(facts.name),
        "Intended use": INTENDED_USE,
        "Training data": facts.training_data,
        "Training": facts.training_procedure,
        "Unknown labels": facts.unknown_labels,
        "Measured": results_section(results, schema, facts.evaluation_command),
        "Examples": facts.examples,
        "Limits": facts.limits,
        "Ethical notes": facts.ethics,
        "Attribution": facts.attribution,
    }
    body = "\n\n".join(f"## {title}\n\n{text.strip()}" for title, text in sections.items() if text.strip())
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {facts.name}\n\n{facts.summary.strip()}\n\n{body}\n")
    Path(path).write_text(str(card), encoding="utf-8")
    return card


def _usage(name: str) -> str:
    return (
        "```python\nimport cf_cxr\nfrom transformers import pipeline\n\n"
        f'pipe = pipeline("chest-xray-counterfactual", model="cf-cxr/{name}")\n'
        'pipe("chest.png", do={"sex": "Female"})["image"].save("counterfactual.png")\n```'
    )


def _eval_results(results: Mapping[str, Any], facts: ModelCardFacts) -> list[EvalResult]:
    dataset = facts.datasets[0] if facts.datasets else "unknown"
    common = {
        "task_type": "image-to-image",
        "dataset_type": dataset,
        "dataset_name": dataset,
        "dataset_split": results["identity"]["split"],
    }
    return [
        EvalResult(
            metric_type="effectiveness",
            metric_name=f"effectiveness of do({name})",
            metric_value=round(row["effectiveness"][0], 2),
            **common,
        )
        for name, row in results["do"].items()
        if row["effectiveness"][0] is not None
    ]
