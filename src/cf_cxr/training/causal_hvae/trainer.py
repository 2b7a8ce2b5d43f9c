"""Training of the image mechanism: a causal HVAE given attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ...attributes import AttributeSchema
from ...images.grey_levels import image_grid
from ...models.causal_hvae import CausalHVAEConfig, CausalHVAEModel
from ..augmentation import CXRAugmentation
from ..loop.arguments import CXRTrainingArguments, _option
from ..loop.script import train_on_images
from ..loop.trainer import CXRTrainer

#: encoder blocks, decoder blocks and widths by resolution
PRESETS: dict[int, tuple[str, str, list[int]]] = {
    16: ("16b1d2,8b1d2,4b1d4,1b1", "1b1,4b1,8b1,16b1", [8, 12, 16, 24]),
    32: ("32b1d2,16b2d2,8b2d2,4b1d4,1b1", "1b1,4b2,8b2,16b2,32b1", [16, 32, 48, 64, 96]),
    64: ("64b1d2,32b2d2,16b2d2,8b2d2,4b2d4,1b1", "1b1,4b2,8b3,16b3,32b3,64b1", [32, 48, 64, 96, 128, 192]),
    96: ("96b1d2,48b2d2,24b3d2,12b3d2,6b2d6,1b1", "1b1,6b3,12b4,24b4,48b3,96b1", [32, 48, 64, 96, 128, 256]),
    128: (
        "128b1d2,64b2d2,32b3d2,16b3d2,8b2d2,4b2d4,1b1",
        "1b1,4b2,8b3,16b4,32b4,64b3,128b1",
        [24, 48, 64, 96, 128, 160, 256],
    ),
    192: (
        "192b1d2,96b3d2,48b7d2,24b11d2,12b7d2,6b3d6,1b2",
        "1b2,6b4,12b8,24b12,48b8,96b4,192b2",
        [32, 64, 96, 128, 160, 192, 512],
    ),
}


@dataclass
class HVAEConfig(CXRTrainingArguments):
    """Architecture, objective and training of the causal HVAE; blocks and widths that are left out come from the
    resolution's preset."""

    _argument_group_name = "Causal HVAE"

    output_dir: str = "outputs/hvae"
    sample_steps: int = 500
    encoder_blocks: str | None = _option(
        None, "Encoder, e.g. 64b1d2,32b2d2,...: resolution, blocks, down-sampling."
    )
    decoder_blocks: str | None = _option(None, "Decoder from 1x1 up, e.g. 1b1,4b2,8b3,...")
    widths: list[int] | None = _option(None, "Channels per encoder stage, highest resolution first.")
    z_dim: int = _option(16, "Channels of each latent.")
    bottleneck: int = _option(4, "Width over inner width of the residual blocks.")
    z_max_res: int | None = _option(None, "No latents above this resolution (default: half the image's).")
    bias_max_res: int | None = _option(
        None, "Learnt spatial bias up to this resolution (default: 64 at most)."
    )
    cond_prior: bool = _option(False, "The prior of the latents sees the parents.")
    x_like: str = _option(
        "diag_dgauss",
        "Scale of the pixel likelihood: per pixel, shared, or fixed.",
        choices=["diag_dgauss", "shared_dgauss", "fixed_dgauss"],
    )
    std_init: float = _option(0.0, "Initial scale of the likelihood; 0: random head.")
    beta: float = _option(1.0, "Weight of the KL term.")
    beta_warmup_steps: int = _option(0, "Steps over which beta rises linearly from 0.")
    free_bits: float = _option(0.0, "Unpenalised KL per latent channel in nats.")
    augmentation: str = _option(
        "none", "Random geometry and exposure of the training images.", choices=["none", "light"]
    )
    init_from: str | None = _option(
        None, "Start from the weights of this trained CausalHVAEModel folder or Hub name."
    )
    num_sample_images: int = _option(8, "Images per row of the sample pictures.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0 or self.free_bits < 0 or self.beta_warmup_steps < 0:
            raise ValueError(
                f"--beta {self.beta}, --free_bits {self.free_bits} and --beta_warmup_steps "
                f"{self.beta_warmup_steps} must not be negative."
            )


def build_hvae_config(args: HVAEConfig, resolution: int, context_dim: int) -> CausalHVAEConfig:
    """Configuration from arguments, completed by the preset of the resolution.

    Raises:
        ValueError: no preset for this resolution and not all of blocks and widths given, or they do not fit.
    """
    names = ("encoder_blocks", "decoder_blocks", "widths")
    settings = dict(zip(names, PRESETS.get(resolution, ()), strict=False))
    for name in names:
        if getattr(args, name) is not None:
            settings[name] = getattr(args, name)
        elif name not in settings:
            raise ValueError(
                f"There is no preset for --resolution {resolution} (only {', '.join(map(str, PRESETS))}): give "
                "--encoder_blocks, --decoder_blocks and --widths."
            )
    return CausalHVAEConfig(
        image_size=resolution,
        context_dim=context_dim,
        z_dim=args.z_dim,
        bottleneck=args.bottleneck,
        z_max_res=args.z_max_res or resolution // 2,
        bias_max_res=args.bias_max_res or min(resolution, 64),
        cond_prior=args.cond_prior,
        x_like=args.x_like,
        std_init=args.std_init,
        beta=args.beta,
        free_bits=args.free_bits,
        **settings,
    )


class HVAETrainer(CXRTrainer):
    """Minimises nll + beta * kl (nats per dimension; De Sousa Ribeiro et al., ICML 2023, eq. 13 with weight beta).

    Unknown attributes enter as the schema's neutral codes.
    """

    records_usual_films = True

    @property
    def beta(self) -> float:
        """Weight of the KL term at the present step."""
        warmup = self.args.beta_warmup_steps
        return self.model.config.beta * (min(1.0, (self.state.global_step + 1) / warmup) if warmup else 1.0)

    def batch_loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Free energy with the present beta; logs nll, kl, nelbo (nats per dimension) and nelbo in bits."""
        pixels = batch["pixel_values"]
        if self.model.training:
            pixels = CXRAugmentation(self.args.augmentation)(pixels)
        parents = self.schema.encode(batch["attributes"], allow_unknown=True)
        output = model(pixels, parents, sample_posterior=True)
        nelbo = output.nll + output.kl
        logs = {"nll": output.nll, "kl": output.kl, "nelbo": nelbo, "bits_per_dim": nelbo / math.log(2)}
        if self.args.beta_warmup_steps:
            logs["beta"] = self.beta
        return output.nll + self.beta * output.kl, logs

    def sample_images(self) -> dict[str, np.ndarray]:
        """Rows: validation images, their reconstructions, samples of the prior for the same attributes."""
        batch = self.first_images(self.args.num_sample_images)
        parents = self.schema.encode(batch["attributes"], allow_unknown=True)
        with self.accelerator.autocast():
            output = self.model(batch["pixel_values"], parents, sample_posterior=False)
            prior = self.model.sample(parents)
        return {"samples": image_grid([batch["pixel_values"], output.reconstruction, prior])}


def main(argv: Sequence[str] | None = None) -> CausalHVAEModel:
    """Train from command-line arguments; returns the trained model."""

    def build(args: HVAEConfig, resolution: int, schema: AttributeSchema) -> CausalHVAEModel:
        if args.init_from:
            return CausalHVAEModel.from_pretrained(args.init_from)
        return CausalHVAEModel(build_hvae_config(args, resolution, schema.dim))

    text = "Train the image mechanism p(image | attributes), a causal hierarchical VAE."
    return train_on_images(HVAETrainer, HVAEConfig, build, argv, text)
