"""diffusers' U-Net as part of a transformers model: its residual blocks are transformers' layers.

Gradient checkpointing and `output_hidden_states` then work on them as on any layer.
"""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from transformers.modeling_layers import GradientCheckpointingLayer


class UNetResnetBlock(GradientCheckpointingLayer, ResnetBlock2D):
    """diffusers' residual block, checkpointed in training as a layer of transformers."""


class UNetCheckpointingMixin:
    """For `PreTrainedModel`s with such a U-Net somewhere inside: nothing is checkpointed twice."""

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        super()._set_gradient_checkpointing(*args, **kwargs)
        for module in self.modules():
            if hasattr(module, "resnets"):  # diffusers' own checkpointing, around the layers
                module._gradient_checkpointing_func = _call


def make_unet(**kwargs: Any) -> UNet2DModel:
    """A `UNet2DModel`, with the same weights' names, whose residual blocks are `UNetResnetBlock`s."""
    unet = UNet2DModel(**kwargs)
    for module in unet.modules():
        if type(module) is ResnetBlock2D:
            module.__class__ = UNetResnetBlock
    return unet


def _call(layer: Any, *inputs: Any) -> Any:
    return layer(*inputs)
