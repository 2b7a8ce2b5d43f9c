"""Training of the image mechanism: a causal flow given attributes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed

from ...attributes import AttributeSchema
from ...images.grey_levels import image_grid
from ...models.causal_flow import CausalFlowConfig, CausalFlowModel
from ..augmentation import CXRAugmentation
from ..loop.arguments import DataArguments, parse_arguments
from ..loop.batches import load_schema, make_datasets
from ..loop.old_arguments import TrainerArguments
from ..loop.old_trainer import CXRTrainer, build_accelerator
from ..loop.usual_films import record_after_training

#: patch side and widths by resolution
PRESETS: dict[int, dict[str, Any]] = {
    16: {"patch_size": 2, "block_out_channels": [16, 32]},
    32: {"patch_size": 2, "block_out_channels": [32, 64]},
    64: {"patch_size": 4, "block_out_channels": [64, 128, 192]},
    128: {"patch_size": 4, "block_out_channels": [48, 64, 128, 192]},
    192: {"patch_size": 4, "block_out_channels": [64, 96, 128, 256]},
}


@dataclass
class FlowArguments:
    """Architecture and objective of the causal flow; what is left out comes from the resolution's preset."""

    _argument_group_name = "Causal flow"

    patch_size: int | None = field(
        default=None, metadata={"help": "Side of the pixel blocks that become channels."}
    )
    block_out_channels: list[int] | None = field(
        default=None, metadata={"help": "Widths of the U-Net, highest resolution first."}
    )
    attribute_dropout: float = field(
        default=0.1, metadata={"help": "Probability with which an attribute is hidden, each on its own."}
    )
    augmentation: str = field(
        default="none",
        metadata={
            "help": "Random geometry of the training images: small rotations, shifts and zoom.",
            "choices": ["none", "geometry"],
        },
    )
    init_from: str | None = field(
        default=None,
        metadata={"help": "Start from the weights of this trained CausalFlowModel folder or Hub name."},
    )
    num_sample_images: int = field(default=8, metadata={"help": "Images per row of the sample pictures."})


def build_flow_config(args: FlowArguments, resolution: int, schema: AttributeSchema) -> CausalFlowConfig:
    """Configuration from arguments, completed by the preset of the resolution.

    Raises:
        ValueError: no preset for this resolution and not both of patch and widths given, or they do not fit.
    """
    settings = dict(PRESETS.get(resolution, {}))
    for name in ("patch_size", "block_out_channels"):
        if getattr(args, name) is not None:
            settings[name] = getattr(args, name)
        elif name not in settings:
            raise ValueError(
                f"There is no preset for --resolution {resolution} (only {', '.join(map(str, PRESETS))}): give "
                "--patch_size and --block_out_channels."
            )
    return CausalFlowConfig(
        attribute_names=list(schema.names),
        attribute_sizes=[a.size for a in schema],
        image_size=resolution,
        attribute_dropout=args.attribute_dropout,
        **settings,
    )


def opposite(raw: torch.Tensor, schema: AttributeSchema, name: str) -> torch.Tensor:
    """Raw attributes with another value of one: the next class, or the far fifth of a continuous range.

    Args:
        raw: `(B, n)`, NaN where unknown.
        name: of the attribute.

    Returns:
        A changed copy.
    """
    attribute, changed = schema[name], raw.clone()
    column = raw[:, schema.index(name)]
    if attribute.is_discrete:
        value = torch.where(column.isnan(), 0, column + 1) % attribute.n_classes
    else:
        low, width = attribute.minimum, attribute.maximum - attribute.minimum
        value = torch.where(column < low + width / 2, low + 0.8 * width, low + 0.2 * width)
    changed[:, schema.index(name)] = value
    return changed


class FlowTrainer(CXRTrainer):
    """Minimises the conditional flow matching loss (Lipman et al., ICLR 2023, eq. 23). Unknown attributes are hidden."""

    def __init__(self, *args: Any, schema: AttributeSchema, stage_args: FlowArguments, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.schema, self.stage_args = schema, stage_args
        self.augment = None if stage_args.augmentation == "none" else CXRAugmentation(stage_args.augmentation)

    def compute_loss(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Mean squared error of the velocity at random times."""
        pixels = batch["pixel_values"]
        if self.augment is not None and self.model.training:
            pixels = self.augment(pixels)
        return self.model(pixels, self.schema.encode(batch["attributes"], keep_unknown=True)).loss, {}

    def sample_images(self) -> dict[str, np.ndarray]:
        """Rows: validation images, then the counterfactual of each under a change of one attribute after the other."""
        source = self.val_dataset if self.val_dataset is not None else self.train_dataset
        count = min(self.stage_args.num_sample_images, len(source))
        batch = self.prepare_batch(self.collate_fn(source.__getitems__(list(range(count)))))
        pixels, raw = batch["pixel_values"], batch["attributes"]
        with self.accelerator.autocast():
            noise = self.model.abduct(pixels, self.schema.encode(raw, keep_unknown=True))
            rows = [
                self.model.decode(
                    noise, self.schema.encode(opposite(raw, self.schema, name), keep_unknown=True)
                )
                for name in self.schema.names
            ]
        return {"samples": image_grid([pixels, *rows])}


def main(argv: Sequence[str] | None = None) -> CausalFlowModel:
    """Train from command-line arguments; returns the model with its last (not averaged) weights."""
    stage, data, loop = parse_arguments(
        (FlowArguments, DataArguments, TrainerArguments),
        argv,
        defaults={
            "output_dir": "outputs/flow",
            "per_device_batch_size": 32,
            "learning_rate": 3e-4,
            "adam_beta2": 0.99,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "skip_threshold": 0.0,
            "ema_decay": 0.9995,
            "sample_steps": 500,
        },
        description="Train the image mechanism p(image | attributes), a causal flow.",
    )
    accelerator = build_accelerator(loop)
    schema, _ = load_schema(data)
    with accelerator.main_process_first():
        train, validation, processor, info = make_datasets(data, schema, progress=accelerator.is_main_process)
    set_seed(loop.seed)
    if stage.init_from:
        model = CausalFlowModel.from_pretrained(stage.init_from)
    else:
        model = CausalFlowModel(build_flow_config(stage, data.resolution, schema))
    trainer = FlowTrainer(
        model,
        loop,
        train,
        validation,
        accelerator=accelerator,
        processor=processor,
        num_workers=data.num_workers,
        run_info={"stage": dataclasses.asdict(stage), **info},
        schema=schema,
        stage_args=stage,
    )
    trainer.train()
    record_after_training(trainer)
    return model
