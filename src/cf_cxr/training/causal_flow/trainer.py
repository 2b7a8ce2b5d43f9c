"""Training of the image mechanism: a causal flow given attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...attributes import AttributeSchema
from ...images.grey_levels import image_grid
from ...models.causal_flow import CausalFlowConfig, CausalFlowModel
from ..augmentation import CXRAugmentation
from ..loop.arguments import CXRTrainingArguments, _choice, _option
from ..loop.script import train_on_images
from ..loop.trainer import CXRTrainer

_SAMPLES = 8  # images per row of the sample pictures
#: patch side and widths by resolution
PRESETS: dict[int, dict[str, Any]] = {
    16: {"patch_size": 2, "block_out_channels": [16, 32]},
    32: {"patch_size": 2, "block_out_channels": [32, 64]},
    64: {"patch_size": 4, "block_out_channels": [64, 128, 192]},
    128: {"patch_size": 4, "block_out_channels": [48, 64, 128, 192]},
    192: {"patch_size": 4, "block_out_channels": [64, 96, 128, 256]},
}


@dataclass
class FlowConfig(CXRTrainingArguments):
    """Architecture, objective and training of the causal flow; patches and widths that are left out come from the
    resolution's preset."""

    _argument_group_name = "Causal flow"

    output_dir: str = "outputs/flow"
    per_device_train_batch_size: int = 32
    learning_rate: float = 3e-4
    adam_beta2: float = 0.99
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    skip_threshold: float = 0.0
    ema_decay: float = 0.9995
    sample_steps: int = 500
    patch_size: int | None = _option(None, "Side of the pixel blocks that become channels.")
    block_out_channels: list[int] | None = _option(None, "Widths of the U-Net, highest resolution first.")
    attribute_dropout: float = _option(0.1, "Probability with which an attribute is hidden, each on its own.")
    augmentation: str = _choice(
        "none",
        ("none", "geometry"),
        "Random geometry of the training images: small rotations, shifts and zoom.",
    )
    init_from: str | None = _option(
        None, "Start from the weights of this trained CausalFlowModel folder or Hub name."
    )


def build_flow_config(args: FlowConfig, resolution: int, schema: AttributeSchema) -> CausalFlowConfig:
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


def opposite(raw: Tensor, schema: AttributeSchema, name: str) -> Tensor:
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

    records_usual_films = True

    def batch_loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Mean squared error of the velocity at random times."""
        pixels = batch["pixel_values"]
        if self.model.training:
            pixels = CXRAugmentation(self.args.augmentation)(pixels)
        return model(pixels, self.schema.encode(batch["attributes"], keep_unknown=True)).loss, {}

    def sample_images(self) -> dict[str, np.ndarray]:
        """Rows: validation images, then the counterfactual of each under a change of one attribute after the other."""
        batch = self.first_images(_SAMPLES)
        pixels, raw = batch["pixel_values"], batch["attributes"]
        with self.accelerator.autocast():
            noise = self.model.abduct(pixels, self.schema.encode(raw, keep_unknown=True))
            worlds = (opposite(raw, self.schema, name) for name in self.schema.names)
            rows = [self.model.decode(noise, self.schema.encode(w, keep_unknown=True)) for w in worlds]
        return {"samples": image_grid([pixels, *rows])}


def main(argv: Sequence[str] | None = None) -> CausalFlowModel:
    """Train from command-line arguments; returns the trained model."""

    def build(args: FlowConfig, resolution: int, schema: AttributeSchema) -> CausalFlowModel:
        if args.init_from:
            return CausalFlowModel.from_pretrained(args.init_from)
        return CausalFlowModel(build_flow_config(args, resolution, schema))

    text = "Train the image mechanism p(image | attributes), a causal flow."
    return train_on_images(FlowTrainer, FlowConfig, build, argv, text)
