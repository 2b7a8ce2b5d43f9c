"""The anatomy segmenter: diffusers' U-Net, one sigmoid per label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import capture_outputs

from ...tensor_checks import check_pixel_values, check_probabilities
from ..attribute_classifier.modeling_attribute_classifier import standardize_images
from ..forward_arguments import check_forward_arguments
from ..unet import UNetCheckpointingMixin, UNetResnetBlock, make_unet
from ..weight_files import CXRPreTrainedModel
from .configuration_anatomy_segmenter import AnatomySegmenterConfig
from .segmentation_loss import binary_cross_entropy, soft_dice_loss


@dataclass
class AnatomySegmenterOutput(ModelOutput):
    """
    Args:
        loss (`()`, float32, given `masks`): mean of `losses`.
        losses (`(L,)`, float32, given `masks`): binary cross-entropy + dice_weight * soft Dice loss per label.
        logits (`(B, L, H, W)`, float32): in the order of `config.labels`.
        hidden_states (tuple, with `output_hidden_states=True`): before and after every residual block.
    """

    loss: Tensor | None = None
    losses: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class AnatomySegmenterModel(UNetCheckpointingMixin, CXRPreTrainedModel):
    """Masks of lungs, heart and devices in a radiograph, independent of each other.

    The network is the U-Net of diffusers (residual blocks, group normalisation, no attention) at a constant time step;
    nothing in it depends on the other images of a batch.
    """

    config_class = AnatomySegmenterConfig
    config: AnatomySegmenterConfig
    base_model_prefix = "anatomy_segmenter"
    _can_record_outputs = {"hidden_states": UNetResnetBlock}

    def __init__(self, config: AnatomySegmenterConfig):
        super().__init__(config)
        stages = len(config.widths)
        self.unet = make_unet(
            in_channels=config.num_channels,
            out_channels=len(config.labels),
            down_block_types=("DownBlock2D",) * stages,
            up_block_types=("UpBlock2D",) * stages,
            block_out_channels=tuple(config.widths),
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_groups,
            time_embedding_dim=config.widths[0],  # there is one time step only
            add_attention=False,
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Kaiming-uniform convolutions and linear layers, zero biases; the library's defaults elsewhere."""
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            init.kaiming_uniform_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @capture_outputs
    def forward(
        self, pixel_values: Tensor, masks: Tensor | None = None, **kwargs
    ) -> AnatomySegmenterOutput | tuple:
        """Logits of every label at every pixel, and the loss where masks are given.

        Args:
            pixel_values: `(B, C, H, W)` in [-1, 1]; H and W multiples of `config.total_stride`.
            masks: `(B, L, H, W)`, bool or in [0, 1], in the order of `config.labels`.

        Raises:
            ValueError: for images of another shape, size or range, or masks of another shape or range.
        """
        check_forward_arguments(self, kwargs)
        check_pixel_values(pixel_values, self.config.num_channels, self.config.total_stride)
        if self.config.standardize:
            pixel_values = standardize_images(pixel_values)
        logits = self.unet(pixel_values.to(self.dtype), timestep=0).sample.float()
        losses = None if masks is None else self._losses(logits, masks)
        return AnatomySegmenterOutput(
            loss=None if losses is None else losses.mean(), losses=losses, logits=logits
        )

    @torch.no_grad()
    def segment(
        self, pixel_values: Tensor, threshold: float | Mapping[str, float] = 0.5
    ) -> dict[str, Tensor]:
        """Binary masks by label, bool `(B, H, W)`: the pixels whose probability is above the threshold.

        Args:
            pixel_values: `(B, C, H, W)` in [-1, 1].
            threshold: in (0, 1); one for all labels, or one per label.

        Raises:
            ValueError: for images of another shape, size or range, a threshold out of range or not for every label.
        """
        thresholds = thresholds_by_label(threshold, self.config.labels)
        probabilities = self(pixel_values, return_dict=True).logits.sigmoid()
        return {label: probabilities[:, i] > thresholds[label] for i, label in enumerate(self.config.labels)}

    def _losses(self, logits: Tensor, masks: Tensor) -> Tensor:
        if masks.shape != logits.shape:
            raise ValueError(
                f"masks must have shape {tuple(logits.shape)} for the labels {', '.join(self.config.labels)}, got "
                f"{tuple(masks.shape)}."
            )
        masks = masks.float()
        check_probabilities(masks, "masks")
        return binary_cross_entropy(logits, masks) + self.config.dice_weight * soft_dice_loss(logits, masks)


def thresholds_by_label(threshold: float | Mapping[str, float], labels: list[str]) -> dict[str, float]:
    """One probability threshold per label.

    Raises:
        ValueError: for a threshold outside (0, 1), or a mapping that does not name every label.
    """
    if not isinstance(threshold, Mapping):
        threshold = dict.fromkeys(labels, threshold)
    if set(threshold) != set(labels):
        raise ValueError(
            f"threshold must be one number, or one for each of {labels}; got {sorted(threshold)}."
        )
    for label, value in threshold.items():
        if not 0 < value < 1:
            raise ValueError(f"threshold of {label!r} must be in (0, 1), got {value}.")
    return {label: float(threshold[label]) for label in labels}
