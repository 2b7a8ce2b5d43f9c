"""The attribute classifier q(attributes | image) (paper A, section 2: one trunk, a head per attribute)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ...attributes import AttributeSchema
from ..forward_arguments import check_forward_arguments
from ..weight_files import CXRPreTrainedModel
from .configuration_attribute_classifier import AttributeClassifierConfig
from .heads import attribute_heads, split_attribute_logits

# Variance below which an image counts as constant; one 8-bit grey level in one pixel of 128x128 has 4e-9.
_MIN_VARIANCE = 1e-10


@dataclass
class AttributeClassifierOutput(ModelOutput):
    """
    Args:
        loss (`()`, float32, given labels): sum of `losses`, in nats.
        losses (`(n,)`, float32, given labels): mean negative log-likelihood per attribute in schema order over
            the known labels; 0 where the batch has none.
        logits (`(B, L)`): raw, uncalibrated head outputs, concatenated in schema order: 1 for a binary, C for a
            categorical, 2 (mean, log standard deviation, on the range mapped to [-1, 1]) for a continuous one.
        embedding (`(B, D)`): pooled features that the heads read.
        hidden_states (tuple, with `output_hidden_states=True`): the backbone's.
    """

    loss: Tensor | None = None
    losses: Tensor | None = None
    logits: Tensor | None = None
    embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class AttributePosterior(dict):
    """Calibrated posterior per attribute, a dictionary by name.

    - binary: probability of class 1, `(B,)`;
    - categorical: probabilities `(B, C)`;
    - continuous: `(mean, std)`, each `(B,)`, in the attribute's unit. The mean may lie outside the range.
    """

    def __init__(self, values: dict[str, Tensor | tuple[Tensor, Tensor]], schema: AttributeSchema):
        super().__init__(values)
        self.schema = schema

    def mode(self) -> Tensor:
        """Most probable raw values `(B, n)`: class index, or the mean clamped to the attribute's range."""
        heads = attribute_heads(self.schema)
        return torch.stack([head.mode(self[name]) for name, head in heads.items()], dim=1)

    def records(self) -> list[dict[str, dict[str, float]]]:
        """One dictionary per image, by attribute: `{class: probability}`, or `{"mean", "std"}` in units."""
        columns = {name: head.records(self[name]) for name, head in attribute_heads(self.schema).items()}
        return [dict(zip(columns, row)) for row in zip(*columns.values())]


def standardize_images(pixel_values: Tensor) -> Tensor:
    """Zero mean and unit variance per image; a constant image becomes zeros up to rounding.

    Makes whatever follows invariant to x -> a·x + b with a > 0, that is to global exposure. A classifier that can
    read exposure uses it as a shortcut for sex or view, and a generator steered by such a classifier learns to
    change exposure in place of anatomy (design 4, "seen in a trial", 2). The variance is bounded from below
    rather than padded by an epsilon, so the invariance is exact up to rounding.
    """
    x = pixel_values.float() if pixel_values.dtype in (torch.float16, torch.bfloat16) else pixel_values
    x = x - x.mean(dim=(1, 2, 3), keepdim=True)
    return x * x.square().mean(dim=(1, 2, 3), keepdim=True).clamp_min(_MIN_VARIANCE).rsqrt()


class AttributeClassifierModel(CXRPreTrainedModel):
    """Posterior over all attributes given a radiograph.

    `forward` trains and gives raw logits; `predict` gives calibrated posteriors, `infer` most probable values.
    Put the model in evaluation mode for those: a BatchNorm backbone otherwise mixes the images of a batch.

    Args:
        config: with at least one attribute.

    Raises:
        ValueError: for a configuration without attributes, or a backbone of unknown width.
    """

    config_class = AttributeClassifierConfig
    config: AttributeClassifierConfig
    base_model_prefix = "attribute_classifier"
    supports_gradient_checkpointing = False  # that of the backbone, see below

    def __init__(self, config: AttributeClassifierConfig):
        super().__init__(config)
        self.schema = config.schema
        self.attribute_heads = attribute_heads(self.schema)  # what the outputs of `heads` mean
        # In the type that everything else is built in, whatever the backbone was saved in.
        self.backbone = AutoModel.from_config(config.backbone_config).to(torch.get_default_dtype())
        # The convolutional backbones of transformers have no checkpointing hooks; ViT and Swin do.
        self.supports_gradient_checkpointing = bool(self.backbone.supports_gradient_checkpointing)
        width = (config.embedding_dim or _embedding_dim(self.backbone)) * config.pool_grid**2
        self.norm = nn.LayerNorm(width) if config.layer_norm else nn.Identity()
        self.projection = nn.Identity()
        if config.projection_dim:
            self.projection = nn.Sequential(
                nn.Dropout(config.dropout), nn.Linear(width, config.projection_dim), nn.GELU()
            )
            width = config.projection_dim
        self.dropout = nn.Dropout(config.dropout)
        self.heads = nn.ModuleList(nn.Linear(width, h.width) for h in self.attribute_heads.values())
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):  # small weights: the first posteriors are close to uniform
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> AttributeClassifierOutput | tuple:
        """Raw logits, and the loss where labels are given.

        Args:
            pixel_values: `(B, num_channels, H, W)`, in [-1, 1].
            labels: `(B, n)` raw attribute values in schema order, NaN where unknown.
            output_hidden_states: also return the backbone's hidden states.

        Raises:
            ValueError: for the wrong number of channels, images smaller than the backbone's stride, or labels of
                the wrong shape.
        """
        check_forward_arguments(self, kwargs)
        self._check_pixel_values(pixel_values)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if self.config.standardize:
            pixel_values = standardize_images(pixel_values)
        features = self.backbone(
            pixel_values.to(self.heads[0].weight.dtype),
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        # Heads leave autocast: half precision would round ages to about half a year.
        with torch.autocast(pixel_values.device.type, enabled=False):
            embedding = self.norm(_pool(features, self.config.pool_grid).to(self.heads[0].weight.dtype))
            embedding = self.projection(embedding)
            dropped = self.dropout(embedding)
            logits = torch.cat([head(dropped) for head in self.heads], dim=1)
            losses = None if labels is None else self._losses(logits, labels)
        return AttributeClassifierOutput(
            loss=None if losses is None else losses.sum(),
            losses=losses,
            logits=logits,
            embedding=embedding,
            hidden_states=features.hidden_states if output_hidden_states else None,
        )

    def split_logits(self, logits: Tensor) -> dict[str, Tensor]:
        """Uncalibrated logits by attribute; see `split_attribute_logits`."""
        return split_attribute_logits(logits, self.schema)

    def calibrated_logits(self, logits: Tensor) -> dict[str, Tensor]:
        """As `split_logits`, with `config.temperature` applied; differentiable.

        Discrete logits are divided by T; log T is added to a continuous attribute's log standard deviation.
        """
        out = self.split_logits(logits)
        for name, value in self.config.temperature.items():
            out[name] = self.attribute_heads[name].calibrate(out[name], value)
        return out

    def posterior_from_logits(self, logits: Tensor) -> AttributePosterior:
        """Calibrated posterior of raw logits `(B, L)`; differentiable."""
        parts = self.calibrated_logits(logits)
        posterior = {name: self.attribute_heads[name].posterior(part) for name, part in parts.items()}
        return AttributePosterior(posterior, self.schema)

    @torch.no_grad()
    def predict(self, pixel_values: Tensor) -> AttributePosterior:
        """Calibrated posterior given images `(B, num_channels, H, W)` in [-1, 1], without gradient."""
        return self.posterior_from_logits(self(pixel_values).logits)

    @torch.no_grad()
    def infer(self, pixel_values: Tensor) -> Tensor:
        """Most probable raw attribute values `(B, n)`, float32; continuous ones clamped to their range."""
        return self.predict(pixel_values).mode()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        if labels.shape != (logits.shape[0], self.schema.n):
            raise ValueError(
                f"labels must have shape ({logits.shape[0]}, {self.schema.n}) for "
                f"{', '.join(self.schema.names)}, got {tuple(labels.shape)}."
            )
        losses = []
        for (name, part), value in zip(self.split_logits(logits).items(), labels.unbind(1)):
            known = (~value.isnan()).sum().clamp_min(1)
            losses.append(self.attribute_heads[name].nll(part, value).sum() / known)
        return torch.stack(losses)

    def _check_pixel_values(self, pixel_values: Tensor) -> None:
        channels, stride = self.config.num_channels, self.config.total_stride
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
            raise ValueError(
                f"pixel_values must have shape (batch, {channels}, height, width), got "
                f"{tuple(pixel_values.shape)}; CXRImageProcessor makes such tensors."
            )
        if min(pixel_values.shape[2:]) < stride:
            raise ValueError(
                f"Images of {pixel_values.shape[2]}x{pixel_values.shape[3]} pixels are smaller than the "
                f"backbone's total stride {stride}: resize them to at least {stride}x{stride}."
            )


def _pool(features: ModelOutput, grid: int = 1) -> Tensor:
    """Average `(B, D)` of the last feature map, through the backbone's own pooler where it has one; with a grid,
    averages of its cells `(B, D * grid * grid)`, each weighted by its share of the map, so that a head starts and
    learns as fast as one that reads the global average."""
    pooled = getattr(features, "pooler_output", None)
    if pooled is not None and grid == 1:
        return pooled.flatten(1)
    maps = getattr(features, "feature_maps", None)
    last = maps[-1] if maps else features.last_hidden_state
    if grid > 1:
        if last.ndim != 4:
            raise ValueError(
                f"pool_grid={grid} needs a backbone with feature maps (B, D, H, W); this one gives a sequence "
                f"{tuple(last.shape)}. Use pool_grid=1."
            )
        return F.adaptive_avg_pool2d(last, grid).flatten(1) / grid**2
    return last.mean(dim=(2, 3)) if last.ndim == 4 else last.mean(dim=1)


def _embedding_dim(backbone: PreTrainedModel) -> int:
    """Width of the pooled features, from the backbone or its configuration."""
    config = backbone.config
    if config.model_type == "timm_backbone":
        return backbone.channels[-1]
    if config.model_type == "timm_wrapper":
        return backbone.timm_model.num_features
    sizes = getattr(config, "hidden_sizes", None)
    width = sizes[-1] if sizes else getattr(config, "hidden_size", None)
    if width is None:
        raise ValueError(
            f"The width of backbone {config.model_type!r} is not in its configuration: give embedding_dim."
        )
    return width
