"""Training of the causal mechanisms among the attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from ...models.attribute_scm import AttributeSCMConfig, AttributeSCMModel
from ..loop.arguments import CXRTrainingArguments, DataArguments, _option, parse_arguments
from ..loop.batches import AttributeBatches, describe_data, load_schema, load_splits
from ..loop.trainer import CXRTrainer


@dataclass
class SCMConfig(CXRTrainingArguments):
    """Sizes of the mechanisms p(variable | parents), and how they are trained."""

    _argument_group_name = "Attribute SCM"

    output_dir: str = "outputs/scm"
    max_steps: int = 1000
    per_device_train_batch_size: int = 1024
    learning_rate: float = 5e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 50
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    ema_decay: float = 0.99
    eval_steps: float | None = 100
    logging_steps: float = 100
    hidden_sizes: list[int] = _option([32, 32], "Hidden widths of each mechanism's network.")
    num_transforms: int = _option(2, "Splines composed for a continuous variable.")
    num_bins: int = _option(8, "Bins of each spline.")
    metric_for_best_model: str | None = field(default="loss", init=False)
    greater_is_better: bool | None = field(default=False, init=False)


class SCMTrainer(CXRTrainer):
    """Minimises the negative log-likelihood of the known attributes, summed over variables (nats)."""

    def batch_loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """NLL of a batch of attributes; logs it per variable, over the rows that know the variable."""
        output = model(batch["attributes"])
        known = (~batch["attributes"].isnan()).sum(0).clamp_min(1)
        nll = -output.log_prob.sum(0) / known
        return output.loss, {f"nll_{name}": value for name, value in zip(self.schema.names, nll, strict=True)}


def main(argv: Sequence[str] | None = None) -> AttributeSCMModel:
    """Train from command-line arguments; returns the trained model."""
    data, args = parse_arguments(
        (DataArguments, SCMConfig),
        argv,
        description="Train the causal mechanisms p(variable | parents) among the attributes.",
    )
    schema, graph = load_schema(data)
    splits = load_splits(data, schema)
    train, validation = (
        AttributeBatches(splits[name], schema) if name in splits else None for name in ("train", "validation")
    )
    share = len(train) // (args.gradient_accumulation_steps * args.world_size)
    args.per_device_train_batch_size = max(1, min(args.per_device_train_batch_size, share))
    set_seed(args.seed)
    model = AttributeSCMModel(
        AttributeSCMConfig(
            attributes=schema.to_list(),
            graph=graph.to_dict(),
            hidden_sizes=args.hidden_sizes,
            num_transforms=args.num_transforms,
            num_bins=args.num_bins,
        )
    )
    info = {"graph": graph.to_dict(), **describe_data(data, schema, splits)}
    SCMTrainer(model, args, train, validation, schema=schema, run_info=info).train()
    return model
