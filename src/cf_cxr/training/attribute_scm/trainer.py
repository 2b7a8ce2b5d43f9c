"""Training of the causal mechanisms among the attributes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import set_seed

from ...attributes import AttributeSchema
from ...models.attribute_scm import AttributeSCMConfig, AttributeSCMModel
from ..loop.arguments import DataArguments, TrainerArguments, parse_arguments
from ..loop.batches import AttributeBatches, describe_data, load_schema, load_splits
from ..loop.trainer import CXRTrainer, build_accelerator


@dataclass
class SCMArguments:
    """Sizes of the mechanisms p(variable | parents)."""

    _argument_group_name = "Attribute SCM"

    hidden_sizes: list[int] = field(
        default_factory=lambda: [32, 32], metadata={"help": "Hidden widths of each mechanism's network."}
    )
    num_transforms: int = field(default=2, metadata={"help": "Splines composed for a continuous variable."})
    num_bins: int = field(default=8, metadata={"help": "Bins of each spline."})


class SCMTrainer(CXRTrainer):
    """Minimises the negative log-likelihood of the known attributes, summed over variables (nats)."""

    best_metric = "loss"

    def __init__(self, *args: Any, schema: AttributeSchema, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.schema = schema

    def compute_loss(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """NLL of a batch of attributes; logs it per variable, over the rows that know the variable."""
        output = self.model(batch["attributes"])
        known = (~batch["attributes"].isnan()).sum(0).clamp_min(1)
        nll = -output.log_prob.sum(0) / known
        return output.loss, {f"nll_{name}": value for name, value in zip(self.schema.names, nll, strict=True)}


def main(argv: Sequence[str] | None = None) -> AttributeSCMModel:
    """Train from command-line arguments; returns the model with its last (not averaged) weights."""
    stage, data, loop = parse_arguments(
        (SCMArguments, DataArguments, TrainerArguments),
        argv,
        defaults={
            "output_dir": "outputs/scm",
            "max_steps": 1000,
            "per_device_batch_size": 1024,
            "learning_rate": 5e-3,
            "lr_scheduler": "cosine",
            "warmup_steps": 50,
            "weight_decay": 0.0,
            "adam_beta2": 0.999,
            "ema_decay": 0.99,
            "eval_steps": 100,
            "logging_steps": 100,
        },
        description="Train the causal mechanisms p(variable | parents) among the attributes.",
    )
    accelerator = build_accelerator(loop)
    schema, graph = load_schema(data)
    with accelerator.main_process_first():
        splits = load_splits(data, schema)
    train, validation = (
        AttributeBatches(splits[name], schema) if name in splits else None for name in ("train", "validation")
    )
    share = len(train) // (loop.gradient_accumulation_steps * accelerator.num_processes)
    loop.per_device_batch_size = max(1, min(loop.per_device_batch_size, share))
    set_seed(loop.seed)
    config = AttributeSCMConfig(
        attributes=schema.to_list(),
        graph=graph.to_dict(),
        hidden_sizes=stage.hidden_sizes,
        num_transforms=stage.num_transforms,
        num_bins=stage.num_bins,
    )
    model = AttributeSCMModel(config)
    info = {
        "stage": dataclasses.asdict(stage),
        "graph": graph.to_dict(),
        **describe_data(data, schema, splits),
    }
    trainer = SCMTrainer(
        model, loop, train, validation, accelerator=accelerator, run_info=info, schema=schema
    )
    trainer.train()
    return model
