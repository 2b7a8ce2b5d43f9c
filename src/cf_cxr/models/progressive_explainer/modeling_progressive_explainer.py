"""The generator of paper B: an encoder, and a decoder conditional on the bin that the posterior should reach.

B = Singla et al., "Explaining the black-box smoothly: a counterfactual approach", Medical Image Analysis 84, 2023.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import capture_outputs

from ...tensor_checks import check_pixel_values
from ..forward_arguments import check_forward_arguments
from ..weight_files import CXRPreTrainedModel
from .conditional_norm import ConditionalNorm2d, count_batches_once
from .configuration_progressive_explainer import ProgressiveExplainerConfig
from .posterior_bins import PosteriorBins


@dataclass
class ProgressiveExplainerOutput(ModelOutput):
    """
    Args:
        loss (`()`, float32, given `labels`): mean absolute difference to them.
        pixel_values (`(B, C, H, W)`, float32, in [-1, 1]): the explanation x_delta.
        embedding (`(B, D, H / s, W / s)`): the bottleneck E(x), which does not depend on the target.
        hidden_states (tuple, with `output_hidden_states=True`): after the first convolution and after every block.
    """

    loss: Tensor | None = None
    pixel_values: Tensor | None = None
    embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class ExplainerBlock(GradientCheckpointingLayer):
    """Pre-activation residual block: norm, ReLU, resample, 3x3, norm, ReLU, 3x3; the skip is resampled by a 1x1.

    Args:
        in_channels, out_channels: of the block.
        num_conditions: rows of its two normalisations.
        resample: `"down"` (2x2 average) or `"up"` (nearest, factor 2).
        **norm: further arguments of `ConditionalNorm2d`.
    """

    def __init__(self, in_channels: int, out_channels: int, num_conditions: int, resample: str, **norm):
        super().__init__()
        self.resample = resample
        self.norm1 = ConditionalNorm2d(in_channels, num_conditions, **norm)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = ConditionalNorm2d(out_channels, num_conditions, **norm)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, hidden: Tensor, condition: Tensor | None = None) -> Tensor:
        """`(B, in, H, W)` and the condition `(B,)` to `(B, out, H / 2, W / 2)` or `(B, out, 2 H, 2 W)`."""
        residual = F.relu(self.norm1(hidden, condition))
        if self.resample == "down":
            residual, skip = F.avg_pool2d(residual, 2), self.skip(F.avg_pool2d(hidden, 2))
        else:
            # a 1x1 convolution and nearest up-sampling commute: this order costs a quarter
            residual, skip = _double(residual), _double(self.skip(hidden))
        residual = F.relu(self.norm2(self.conv1(residual), condition))
        return skip + self.conv2(residual)


class ProgressiveExplainerModel(CXRPreTrainedModel):
    """x_delta = G(E(x), c): the query x changed so that a classifier's posterior falls into bin c (paper B, section 3).

    A convolution, n down-sampling blocks, n mirrored up-sampling blocks, tanh; the bottleneck is the embedding. The
    target bin enters by the conditional batch normalisation of every up-sampling block and of the output. The
    encoder is not told the target: B writes E(x), and the embedding loss, which compares E(x) with E(x_delta), has a
    meaning only then. (Released code gives the target to the encoder too.)

    Use evaluation mode for explanations: batch normalisation otherwise mixes the images of a batch.
    """

    config_class = ProgressiveExplainerConfig
    config: ProgressiveExplainerConfig
    base_model_prefix = "progressive_explainer"
    _no_split_modules = ["ExplainerBlock"]
    _can_record_outputs = {"hidden_states": ExplainerBlock}

    def __init__(self, config: ProgressiveExplainerConfig):
        super().__init__(config)
        self.bins = PosteriorBins(config.num_bins)
        norm = {
            "norm_type": config.norm_type,
            "momentum": float(config.norm_momentum),
            "groups": config.norm_groups,
        }
        widths = config.widths
        steps = list(zip(widths[:-1], widths[1:]))
        self.conv_in = nn.Conv2d(config.num_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(ExplainerBlock(a, b, 1, "down", **norm) for a, b in steps)
        self.up_blocks = nn.ModuleList(
            ExplainerBlock(b, a, config.num_bins, "up", **norm) for a, b in reversed(steps)
        )
        self.norm_out = ConditionalNorm2d(widths[0], config.num_bins, **norm)
        self.conv_out = nn.Conv2d(widths[0], config.num_channels, 3, padding=1)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Glorot-uniform convolutions; scale 1 and shift 0 in every bin; a residual output starts at no change."""
        if isinstance(module, nn.Conv2d):
            if module is self.conv_out and self.config.residual_output:
                init.zeros_(module.weight)
            else:
                init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, ConditionalNorm2d):
            init.ones_(module.gamma)
            init.zeros_(module.beta)
        else:
            super()._init_weights(module)

    @capture_outputs
    def forward(
        self,
        pixel_values: Tensor,
        target_bins: Tensor | int | None = None,
        target_posterior: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs,
    ) -> ProgressiveExplainerOutput | tuple:
        """The explanation of each image for one target.

        Args:
            pixel_values: `(B, C, H, W)` in [-1, 1]; H and W multiples of the total stride.
            target_bins: `(B,)` bins, or one for all.
            target_posterior: `(B,)` in [0, 1], in place of `target_bins`.
            labels: `(B, C, H, W)` images the output should equal, e.g. `pixel_values` for self-reconstruction at
                the query's own bin; adds `loss`.

        Raises:
            ValueError: for images of another shape, size or range; for both or neither kind of target; for a bin
                or posterior that does not exist.
        """
        check_forward_arguments(self, kwargs)
        target_bins = self._targets(target_bins, target_posterior, len(pixel_values))
        embedding = self.encode(pixel_values)
        explained = self.decode(embedding, target_bins, pixel_values)
        return ProgressiveExplainerOutput(
            loss=None if labels is None else F.l1_loss(explained, labels.float()),
            pixel_values=explained,
            embedding=embedding,
        )

    def encode(self, pixel_values: Tensor) -> Tensor:
        """The embedding E(x) `(B, D, H / s, W / s)` of images `(B, C, H, W)` in [-1, 1]; s is the total stride.

        Raises:
            ValueError: for images of another shape, size or range.
        """
        check_pixel_values(pixel_values, self.config.num_channels, self.config.total_stride)
        with self._counting():
            hidden = self.conv_in(pixel_values.to(self.conv_in.weight.dtype))
            for block in self.down_blocks:
                hidden = block(hidden)
        return hidden

    def decode(
        self, embedding: Tensor, target_bins: Tensor | int, pixel_values: Tensor | None = None
    ) -> Tensor:
        """The explanation G(E(x), c) `(B, C, H, W)`, float32, in [-1, 1].

        Args:
            embedding: from `encode`.
            target_bins: `(B,)` bins, or one for all.
            pixel_values: `(B, C, H, W)`, the encoded images; only a residual output needs them.

        Raises:
            ValueError: for a bin that does not exist, or a residual output without images.
        """
        if self.config.residual_output and pixel_values is None:
            raise ValueError(
                "This model decodes a change of the image (residual_output): give pixel_values too."
            )
        condition = self._targets(target_bins, None, len(embedding)).to(embedding.device)
        hidden = embedding
        with self._counting():
            for block in self.up_blocks:
                hidden = block(hidden, condition)
            hidden = self.conv_out(F.relu(self.norm_out(hidden, condition)))
        if (stride := self.config.change_stride) > 1:
            coarse = F.avg_pool2d(hidden.float(), stride)
            hidden = F.interpolate(coarse, size=hidden.shape[2:], mode="bilinear", align_corners=False)
        decoded = torch.tanh(hidden.float())
        return move_towards(pixel_values.float(), decoded) if self.config.residual_output else decoded

    def series(self, pixel_values: Tensor, target_bins: Tensor | None = None) -> Tensor:
        """Explanations of each image for several targets, with one encoder pass.

        Args:
            pixel_values: `(B, C, H, W)` in [-1, 1].
            target_bins: `(S,)` bins, the same for all images; None is every bin in order.

        Returns:
            `(B, S, C, H, W)`, float32.
        """
        target_bins = self.bins.check_index(
            torch.arange(self.config.num_bins) if target_bins is None else target_bins
        )
        embedding = self.encode(pixel_values)
        return torch.stack([self.decode(embedding, k, pixel_values) for k in target_bins.reshape(-1)], dim=1)

    def _targets(self, target_bins, target_posterior, batch: int) -> Tensor:
        """The target bins `(batch,)`."""
        if (target_bins is None) == (target_posterior is None):
            raise ValueError("Give either target_bins or target_posterior, to say which decision to aim at.")
        if target_bins is None:
            target_bins = self.bins.index(target_posterior)
        target_bins = self.bins.check_index(target_bins).to(self.device)
        if target_bins.ndim == 0:
            return target_bins.expand(batch)
        if target_bins.shape != (batch,):
            raise ValueError(
                f"There must be one target for each of {batch} images, got shape {tuple(target_bins.shape)}."
            )
        return target_bins

    def _counting(self):
        return count_batches_once(self) if self.training else nullcontext()


def move_towards(pixel_values: Tensor, change: Tensor) -> Tensor:
    """Moves pixels in [-1, 1] by the share |change| <= 1 of their way to 1 (positive) or -1 (negative)."""
    return pixel_values + change * torch.where(change >= 0, 1 - pixel_values, 1 + pixel_values)


def _double(hidden: Tensor) -> Tensor:
    return F.interpolate(hidden, scale_factor=2, mode="nearest")
