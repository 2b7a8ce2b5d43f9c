"""Losses of counterfactual fine-tuning (A, sections 2.3 and 2.4): targets, auxiliary loss, Lagrangian.

A = Xia et al., "Mitigating attribute amplification in counterfactual image generation", MICCAI 2024.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ...attributes import AttributeSchema
from ...causal_graph import CausalGraph
from ...models.attribute_classifier import attribute_heads

#: What the classifiers should say of a counterfactual image; see `CFTArguments.target_labels`.
TARGET_LABELS = ("matched", "matched_draw", "soft", "hard")


def counterfactual_targets(
    target_labels: str,
    factual: Tensor,
    counterfactual: Tensor,
    do: Iterable[str],
    posterior: Mapping[str, Tensor] | None,
    schema: AttributeSchema,
    graph: CausalGraph,
) -> dict[str, Tensor]:
    """What the classifier should say of the counterfactual image.

    `hard`: every attribute's counterfactual value. `soft` (A, section 2.4): the do-variables and their descendants
    in the graph get their counterfactual value, every other discrete variable gets the classifier's own posterior
    on the factual image, and a continuous variable that is not affected keeps its value.

    Args:
        target_labels: `"soft"` or `"hard"`.
        factual, counterfactual: raw attributes `(B, n)`.
        do: names of the intervened variables.
        posterior: name -> classifier's probabilities on the *factual* image; needed for soft.

    Returns:
        name -> target: binary `(B,)` probability of class 1; categorical `(B, C)` probabilities; continuous `(B,)`
        mapped to [-1, 1] over its range. No target carries a gradient.

    Raises:
        ValueError: for another `target_labels`, or soft without posterior.
    """
    if target_labels not in ("soft", "hard"):
        raise ValueError(f"target_labels must be 'soft' or 'hard', got {target_labels!r}.")
    if target_labels == "soft" and posterior is None:
        raise ValueError("Soft targets need the classifier's posterior on the factual images.")
    do = set(do)
    affected = do | graph.descendants(do) if target_labels == "soft" else set(schema.names)
    targets = {}
    for a in schema:
        column = schema.index(a.name)
        value = (counterfactual if a.name in affected else factual)[:, column]
        if a.name in affected or not a.is_discrete:
            targets[a.name] = a.encode(value).squeeze(1)
        else:
            targets[a.name] = posterior[a.name].detach()
    return targets


def attribute_target_loss(
    logits: Mapping[str, Tensor], targets: Mapping[str, Tensor], schema: AttributeSchema
) -> dict[str, Tensor]:
    """Auxiliary loss per attribute, scalar each (A, eq. of the CFT objective).

    Binary: binary cross-entropy; categorical: cross-entropy with probability targets; continuous: squared error of
    the predicted mean, both on [-1, 1].

    Args:
        logits: per attribute, from `AttributeClassifierModel.calibrated_logits`: `(B,)`, `(B, C)`, or `(B, 2)`.
    """
    return {
        name: head.target_loss(logits[name].float(), targets[name].float())
        for name, head in attribute_heads(schema).items()
    }


@dataclass
class FreeEnergyConstraint:
    """Keeps the free energy FE at or below c while an auxiliary loss is minimised (A, eq. of the Lagrangian).

        gap = c - FE;   loss = aux - w * gap,   w = max(0, multiplier - damping * sg(gap))

    The weight w is clamped at 0: without the clamp a model that is well inside the constraint is pushed *up* to c.
    The multiplier follows gradient ascent on -multiplier * gap and stays non-negative.

    Args:
        bound: c, in nats per dimension; measure it, see `training/finetune_soft.py`.
        learning_rate, damping: A uses 0.1 and 10.
    """

    bound: float
    learning_rate: float = 0.1
    damping: float = 10.0
    multiplier: float = field(default=0.0)

    def loss(self, auxiliary: Tensor, free_energy: Tensor) -> Tensor:
        """The Lagrangian to minimise; a scalar with gradients to both terms."""
        gap = self.bound - free_energy
        return auxiliary - self.weight(gap.detach()) * gap

    def weight(self, gap: Tensor) -> Tensor:
        """max(0, multiplier - damping * gap)."""
        return (self.multiplier - self.damping * gap).clamp(min=0)

    def update(self, free_energy: float) -> None:
        """One ascent step on the multiplier, after the model's step."""
        gap = self.bound - free_energy
        self.multiplier = max(0.0, self.multiplier - self.learning_rate * gap)

    def state_dict(self) -> dict[str, float]:
        """For checkpoints."""
        return {"multiplier": self.multiplier, "bound": self.bound}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restores `state_dict`."""
        self.multiplier, self.bound = float(state["multiplier"]), float(state["bound"])
