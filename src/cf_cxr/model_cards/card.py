"""Model cards: the facts of a model, its measured numbers, its limits, as a Hub README."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open
from transformers import PreTrainedModel

from ..attributes import AttributeSchema
from ..causal_graph import CausalGraph
from .counterfactual_results import markdown_table, table
from .explanation_results import results_markdown

_PLACE = "path/to/"  # before a name in an example, until the model has a place on the Hub
INTENDED_USE = (
    "Research only: counterfactual data for fairness and robustness studies, explanation, teaching. **Not for "
    "diagnosis, and not for any decision about a patient.** A counterfactual shows what this model has learnt to "
    "associate with an attribute, not what would happen to a person."
)
# Task and example of use by type of model.
_USES = {
    "deep_scm": (
        "chest-xray-counterfactual",
        'pipe = {}\npipe("chest.png", do={{"sex": "Female"}})["image"].save("counterfactual.png")',
    ),
    "progressive_explainer": (
        "chest-xray-explanation",
        'why = {}("chest.png")\nprint(why.message)\nwhy.counterfactual.save("decided_otherwise.png")',
    ),
}
# What transformers writes where a repository has no card.
_TEMPLATE = "This model card has been automatically generated."
_PART_TAGS = {
    "attribute_classifier": "image-classification",
    "anatomy_segmenter": "image-segmentation",
    "causal_hvae": "image-to-image",
    "causal_flow": "image-to-image",
}


@dataclass
class ModelCardFacts:
    """What a card says that neither configuration nor results know.

    Args:
        name: the model's name, the title of the card.
        summary: one paragraph: what it is.
        license: SPDX-like identifier for the Hub; the owner of the weights has to say it, there is no default.
        datasets: names of the training data for the Hub's metadata.
        training_data, training_procedure, unknown_labels, examples, limits, ethics, attribution: Markdown.
        evaluation_command: how the numbers were made.
    """

    name: str = "deep-scm"
    summary: str = "A deep structural causal model of frontal chest radiographs and their attributes."
    license: str | None = None
    datasets: list[str] = field(default_factory=list)
    training_data: str = "Not described."
    training_procedure: str = "Not described."
    unknown_labels: str = ""
    examples: str = ""
    limits: str = ""
    ethics: str = ""
    attribution: str = ""
    evaluation_command: str = "accelerate launch training/evaluate_counterfactuals.py"


def model_card(
    config, facts: ModelCardFacts, results: Mapping[str, Any] | None = None, repo_id: str | None = None
) -> ModelCard:
    """The card of a `DeepSCMConfig` or a `ProgressiveExplainerConfig`.

    Args:
        results: of `evaluate_counterfactuals.py` or `evaluate_explainer.py`; without them the card says that nothing was
            measured.
        repo_id: where the model is on the Hub, for the example of its use; without it a path to fill in.
    """
    explains = config.model_type == "progressive_explainer"
    what, measured = (_explained if explains else _attributes)(config, results)
    task, use = _USES[config.model_type]
    data = ModelCardData(
        license=facts.license,
        library_name="cf_cxr",
        pipeline_tag="image-to-image",
        datasets=facts.datasets or None,
        tags=["chest-xray", *(["explainability"] if explains else []), "counterfactual",
              *([] if explains else ["causal"]), "medical-imaging", task],
        model_name=facts.name if results and not explains else None,
        eval_results=_eval_results(results, facts) if results and not explains else None,
    )  # fmt: skip
    example = use.format(f'pipeline("{task}", model="{repo_id or _PLACE + facts.name}")')
    if results is not None:
        head, tables = measured
        measured = f"{head}\n\n```\n{facts.evaluation_command}\n```\n\n{tables}"
    sections = {
        "What it explains" if explains else "Attributes and causal graph": what,
        "Use": f"```python\nimport cf_cxr\nfrom transformers import pipeline\n\n{example}\n```",
        "Intended use": INTENDED_USE,
        "Training data": facts.training_data,
        "Training": facts.training_procedure,
        "Unknown labels": facts.unknown_labels,
        "Measured": measured or "Not evaluated.",
        "Examples": facts.examples,
        "Limits": facts.limits,
        "Ethical notes": facts.ethics,
        "Attribution": facts.attribution,
    }
    return _card(data, facts.name, facts.summary, sections)


def _attributes(config, results: Mapping[str, Any] | None) -> tuple[str, tuple[str, str] | None]:
    """What a deep SCM is about, and what its numbers were measured on, with them."""
    schema = AttributeSchema(config.scm_config.attributes)
    graph = CausalGraph(config.scm_config.graph, schema.names)
    rows = [[a.name, a.kind, a.values, ", ".join(graph.parents(a.name)) or "–"] for a in schema]
    what = table(["attribute", "kind", "values", "caused by"], rows) + "\n\nAll attributes cause the image."
    if results is None:
        return what, None
    who = results["identity"]
    judge = "an independent judge"
    if who.get("judge_is_training_classifier", False):
        judge = "**a classifier of its own training, which is no independent judge**"
    head = (
        f"On the {who['split']} split ({who['images']} images of {who['patients']} patients with all attributes known), by "
        f"{judge}. Seed {who['seed']}, {who['n_resamples']} bootstrap resamples of patients, 95 % intervals, "
        f"code at commit `{who['commit']}`."
    )
    return what, (head, markdown_table(results, schema))


def _explained(config, results: Mapping[str, Any] | None) -> tuple[str, tuple[str, str] | None]:
    """Whose decisions an explainer explains, and what its numbers were measured on, with them."""
    moved = ""
    if config.operating_point is not None:
        moved = f", whose posterior {config.operating_point:g} is moved to 0.5 along the log odds"
    what = (
        f"The decision explained is that of {config.class_name!r}, from {config.threshold:g} on, of the classifier with "
        f"the fingerprint `{config.classifier_fingerprint}`{moved}. Other classifiers are refused unless forced. "
        f"{config.image_size} x {config.image_size} pixels, {config.num_bins} bins of the posterior."
    )
    if results is None:
        return what, None
    head = f"Code at commit `{results['identity']['commit']}`, seed {results['identity']['seed']}."
    return what, (head, results_markdown(results))


def _part_card(model: PreTrainedModel, repo_id: str) -> ModelCard:
    """The card of a part: whatever is no `DeepSCMModel` and no explainer."""
    kind, name = model.config.model_type, type(model).__name__
    tags = ["chest-xray", "medical-imaging", kind.replace("_", "-")]
    data = ModelCardData(library_name="cf_cxr", pipeline_tag=_PART_TAGS.get(kind), tags=tags)
    usage = f'```python\nimport cf_cxr\n\nmodel = cf_cxr.{name}.from_pretrained("{repo_id}")\n```'
    sections = {"Use": usage, "Intended use": INTENDED_USE}
    return _card(data, repo_id.split("/")[-1], f"A `{name}` of cf_cxr.", sections)


def _card(data: ModelCardData, name: str, summary: str, sections: Mapping[str, str]) -> ModelCard:
    """Metadata, title, summary and those sections that are not empty."""
    body = "\n\n".join(f"## {title}\n\n{text.strip()}" for title, text in sections.items() if text.strip())
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n{summary.strip()}\n\n{body}\n")


class PushesOwnCard:
    """Mixin: `push_to_hub` uploads the model's card where transformers would upload an empty template.

    That is the README.md beside the weights, if the weights are still those; else one that says what the configuration
    knows. A card that is on the Hub already stays.
    """

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any):
        readme = Path(working_dir) / "README.md"
        if readme.is_file() and _TEMPLATE in readme.read_text(encoding="utf-8"):
            tags = ModelCard.load(readme).data.tags or []
            card = own_card(getattr(self, "model", self), repo_id)
            card.data.tags = [*(card.data.tags or []), *(t for t in tags if t not in (card.data.tags or []))]
            card.save(readme)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)


def own_card(model: PreTrainedModel, repo_id: str) -> ModelCard:
    """The card of a model for a repository: its README.md, or a new one."""
    source = Path(model.config.name_or_path or os.devnull)
    if (source / "README.md").is_file() and _has_weights_of(model, source / "model.safetensors"):
        text = (source / "README.md").read_text(encoding="utf-8")
        return ModelCard(re.sub(rf'(["\']){_PLACE}[^"\']+\1', f'"{repo_id}"', text))
    facts = ModelCardFacts(name=repo_id.split("/")[-1])
    if model.config.model_type not in _USES:
        return _part_card(model, repo_id)
    if model.config.model_type == "progressive_explainer":
        facts.summary = (
            "Explains one classifier of chest radiographs: the image, changed until it is decided otherwise."
        )
    return model_card(model.config, facts, repo_id=repo_id)


def _has_weights_of(model: PreTrainedModel, file: Path) -> bool:
    """Whether a model has the weights of a file, at the file's precision: it was not trained further."""
    if not file.is_file():
        return False
    state = model.state_dict()
    with safe_open(file, framework="pt") as stored:
        return all(
            name in state and torch.equal(state[name].cpu().to(tensor.dtype), tensor)
            for name, tensor in ((name, stored.get_tensor(name)) for name in stored.keys())
        )


def _eval_results(results: Mapping[str, Any], facts: ModelCardFacts) -> list[EvalResult]:
    dataset = facts.datasets[0] if facts.datasets else "unknown"
    split = results["identity"]["split"]
    common = {
        "task_type": "image-to-image",
        "dataset_type": dataset,
        "dataset_name": dataset,
        "dataset_split": split,
    }
    scores = {name: row["effectiveness"][0] for name, row in results["do"].items()}
    return [
        EvalResult(
            metric_type="effectiveness", metric_name=f"effectiveness of do({name})", metric_value=round(score, 2),
            **common,
        )
        for name, score in scores.items() if score is not None
    ]  # fmt: skip
