"""Configuration of the attribute classifier: which attributes, which backbone, which temperatures."""

import copy
import math
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ...attributes import AttributeSchema
from ..configuration import MAX_SIZE, CXRConfig, bounded, check_backbone, checked_config, nested_config

# Sized so that a training step of 32 images at 128x128 stays below half a second on one CPU thread.
BACKBONE_PRESETS: dict[str, dict[str, Any]] = {
    # Pre-activation residual net with GroupNorm and weight standardisation: no batch statistics, so it behaves
    # the same when it steers a generator with small batches (paper A: ResNet-18 with GroupNorm). 1.3 M.
    "bit-small": {
        "model_type": "bit",
        "embedding_size": 32,
        "hidden_sizes": [64, 128, 320, 640],
        "depths": [2, 2, 2, 2],
        "num_groups": 8,
    },
    # LayerNorm, large depth-wise kernels, GELU: a second opinion for ensembles. 1.1 M.
    "convnextv2-small": {
        "model_type": "convnextv2",
        "patch_size": 4,
        "hidden_sizes": [32, 64, 128, 192],
        "depths": [2, 2, 2, 2],
    },
    # Classic BatchNorm ResNet-18 layout, narrow: the independent judge. 2.3 M.
    "resnet-small": {
        "model_type": "resnet",
        "embedding_size": 32,
        "hidden_sizes": [32, 64, 128, 224],
        "depths": [2, 2, 2, 2],
        "layer_type": "basic",
    },
}
_DEFAULT_PRESET = "bit-small"


@checked_config
class AttributeClassifierConfig(CXRConfig):
    r"""
    Configuration of [`AttributeClassifierModel`].

    Args:
        attributes (`list[dict]`):
            The attribute schema, as `AttributeSchema.to_list` gives it.
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Any transformers vision backbone, e.g. `{"model_type": "bit", ...}`, `ResNetConfig(...)`, or
            `{"model_type": "timm_backbone", "backbone": "resnet18"}` where timm is installed. Its `num_channels`
            is set to this configuration's. Defaults to the `"bit-small"` preset.
        num_channels (`int`): channels of `pixel_values`.
        image_size (`int`, *optional*): side length in pixels the model is meant for. Any size that the
            backbone's strides allow is accepted by the model.
        standardize (`bool`): bring every image to zero mean and unit variance inside the model.
        layer_norm (`bool`): LayerNorm between the pooled features and the heads.
        dropout (`float`): dropout between the pooled features and the heads, in [0, 1).
        pool_grid (`int`): the last feature map is averaged over the cells of a grid of this many rows and columns,
            whose averages are concatenated; 1 is global average pooling. More cells tell where a feature lies, which
            small findings at known places need.
        projection_dim (`int`): width of a hidden layer with GELU between the pooled features and the heads, which then
            read this embedding; 0 for none.
        embedding_dim (`int`, *optional*): width of the pooled features, only needed for a backbone whose
            configuration does not tell.
        temperature (`dict[str, float]`): calibration per attribute name; logits are divided by it, and the
            standard deviation of a continuous attribute is multiplied by it. Absent means 1.

    Raises:
        ValueError: for an unknown `model_type`, a temperature that is not positive or not of a known attribute,
            an `image_size` below the backbone's total stride.
    """

    model_type = "attribute_classifier"
    keys_to_ignore_at_inference = ["losses", "embedding", "hidden_states"]
    sub_configs = {"backbone_config": AutoConfig}

    attributes: list | tuple = ()
    backbone_config: dict | PreTrainedConfig | None = None
    num_channels: int = bounded(1, 1, MAX_SIZE)
    image_size: int | None = bounded(None, 1, MAX_SIZE)
    standardize: bool = True
    layer_norm: bool = False
    dropout: float | int = 0.0
    pool_grid: int = bounded(1, 1, 32)
    projection_dim: int = bounded(0, 0, MAX_SIZE)
    embedding_dim: int | None = bounded(None, 1, MAX_SIZE)
    temperature: dict[str, float | int] | None = None
    initializer_range: float | int = bounded(0.02, 0, 10)

    def __post_init__(self, **kwargs):
        self.backbone_config = _backbone_config(self.backbone_config, self.num_channels)
        self.temperature = {k: float(v) for k, v in (self.temperature or {}).items()}
        if self.attributes:
            self.attributes = AttributeSchema(self.attributes).to_list()
        self._check_values()
        super().__post_init__(**kwargs)

    @property
    def schema(self) -> AttributeSchema:
        """The attributes as an `AttributeSchema`; raises ValueError where there are none."""
        return AttributeSchema(self.attributes)

    @property
    def total_stride(self) -> int:
        """Down-sampling factor of the backbone, 1 where its configuration does not tell."""
        backbone = self.backbone_config
        stem = getattr(backbone, "patch_size", None)
        depths = getattr(backbone, "depths", None)
        if isinstance(stem, (list, tuple)):
            stem = max(stem)
        if depths is None:
            return stem or 1
        stride = (stem or 4) * 2 ** (len(depths) - 1)
        return min(stride, getattr(backbone, "output_stride", None) or stride)

    @classmethod
    def from_preset(
        cls, preset: str, schema: AttributeSchema, image_size: int | None = None, **kwargs
    ) -> "AttributeClassifierConfig":
        """A ready-made small backbone for radiographs of 64 to 256 pixels.

        Args:
            preset: `"bit-small"` (GroupNorm, 1.3 M parameters), `"convnextv2-small"` (LayerNorm, 1.1 M) or
                `"resnet-small"` (BatchNorm, 2.3 M).
            schema: the attributes to predict.
            image_size: side length in pixels.
            **kwargs: further fields of the configuration.

        Raises:
            ValueError: for an unknown preset.
        """
        if preset not in BACKBONE_PRESETS:
            raise ValueError(
                f"Unknown classifier preset {preset!r}; choose one of {', '.join(BACKBONE_PRESETS)}, or pass "
                "backbone_config."
            )
        return cls(
            attributes=schema.to_list(),
            backbone_config=copy.deepcopy(BACKBONE_PRESETS[preset]),
            image_size=image_size,
            **kwargs,
        )

    def _check_values(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")
        names = [a["name"] for a in self.attributes]
        for name, value in self.temperature.items():
            if name not in names:
                raise ValueError(f"temperature for unknown attribute {name!r}; the attributes are {names}.")
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"temperature[{name!r}] must be positive and finite, got {value}.")
        if self.image_size is not None and self.image_size < self.total_stride:
            raise ValueError(
                f"image_size={self.image_size} is smaller than the backbone's total stride "
                f"{self.total_stride}: use larger images or a backbone with fewer stages."
            )


def _backbone_config(given: dict | PreTrainedConfig | None, num_channels: int) -> PreTrainedConfig:
    """A backbone configuration object of its own for `num_channels` inputs, never the caller's object."""
    if given is None:
        given = BACKBONE_PRESETS[_DEFAULT_PRESET]
    if isinstance(given, PreTrainedConfig):
        config = copy.deepcopy(given)
    else:
        if given.get("model_type") is None:
            raise ValueError(f"backbone_config needs a 'model_type' such as 'bit', got keys {sorted(given)}.")
        config = nested_config("backbone_config", copy.deepcopy(given))
    check_backbone("backbone_config", config)
    if hasattr(config, "num_channels"):
        config.num_channels = num_channels
    elif config.model_type == "timm_wrapper":
        config.model_args = {**(config.model_args or {}), "in_chans": num_channels}
    return config
