"""Random geometry and exposure for radiographs, batched and differentiable.

Used in two places: on the images a classifier is trained on, and between the decoded counterfactual and the
frozen classifier in counterfactual fine-tuning, where gradients pass through it. There it keeps the generator
from satisfying one classifier with patterns or exposure shifts that convince nobody else (design 4, "seen in a
trial"). Radiographs are never mirrored unless asked: the heart lies on one side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

# Offset inside the gamma curve that keeps its slope finite at black.
_GAMMA_OFFSET = 0.02
# Control points per side of the bias field.
_BIAS_GRID = 4


@dataclass(frozen=True)
class AugmentationConfig:
    """Strengths; 0 switches a transform off. Parameters are drawn per image, uniformly unless said otherwise.

    Args:
        rotation: largest rotation, degrees, either way.
        translation: largest shift, fraction of the side, per axis.
        scale: largest |log| of the zoom factor.
        flip_probability: of mirroring left and right, in [0, 1].
        gamma: largest |log gamma|, on intensities in [0, 1].
        contrast: largest |log| of the gain about the image's mean.
        brightness: largest shift of intensities in [0, 1].
        bias_field: standard deviation of the log gain at the control points of a smooth field.
        blur: largest weight of a 3x3 binomial blur, in [0, 1].
        noise: largest standard deviation of white noise on intensities in [0, 1].
        erasing_probability: of a rectangle replaced by the image's mean, in [0, 1].
        erasing_size: largest side of the rectangle, fraction of the image's side, in [0, 1].

    Raises:
        ValueError: for a strength that is negative, not finite, or above 1 where it is a fraction.
    """

    rotation: float = 0.0
    translation: float = 0.0
    scale: float = 0.0
    flip_probability: float = 0.0
    gamma: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    bias_field: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    erasing_probability: float = 0.0
    erasing_size: float = 0.3

    HIGHEST: ClassVar[dict[str, float]] = dict.fromkeys(
        ("translation", "flip_probability", "blur", "erasing_probability", "erasing_size"), 1.0
    )

    def __post_init__(self):
        for field in fields(self):
            value, high = getattr(self, field.name), self.HIGHEST.get(field.name, math.inf)
            if not (math.isfinite(value) and 0 <= value <= high):
                allowed = f"in [0, {high:g}]" if math.isfinite(high) else "finite and not negative"
                raise ValueError(f"Augmentation strength {field.name} must be {allowed}, got {value}.")

    @classmethod
    def from_preset(cls, name: str) -> AugmentationConfig:
        """`"none"`, `"geometry"`, `"light"` or `"strong"`; raises ValueError for another name."""
        if name not in AUGMENTATION_PRESETS:
            raise ValueError(
                f"Unknown augmentation preset {name!r}; choose one of {', '.join(AUGMENTATION_PRESETS)}."
            )
        return AUGMENTATION_PRESETS[name]


AUGMENTATION_PRESETS: dict[str, AugmentationConfig] = {
    "none": AugmentationConfig(),
    "geometry": AugmentationConfig(rotation=2.0, translation=0.025, scale=0.02),  # leaves intensities alone
    "light": AugmentationConfig(
        rotation=5.0, translation=0.03, scale=0.05, gamma=0.2, contrast=0.15, brightness=0.05, bias_field=0.05,
        blur=0.3, noise=0.01,
    ),
    "strong": AugmentationConfig(
        rotation=12.0, translation=0.08, scale=0.15, gamma=0.5, contrast=0.4, brightness=0.15, bias_field=0.2,
        blur=0.8, noise=0.02, erasing_probability=0.3, erasing_size=0.3,
    ),
}  # fmt: skip


class CXRAugmentation:
    """Applies an `AugmentationConfig` to a batch of radiographs.

    Args:
        config: strengths, or the name of a preset.

    Raises:
        ValueError: for an unknown preset.
    """

    def __init__(self, config: AugmentationConfig | str = "strong"):
        self.config = AugmentationConfig.from_preset(config) if isinstance(config, str) else config

    def __repr__(self) -> str:
        return f"CXRAugmentation({self.config})"

    def __call__(self, pixel_values: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Augments every image with parameters of its own.

        Args:
            pixel_values: `(B, C, H, W)` floating point in [-1, 1], on any device.
            generator: makes the draw reproducible; may live on the CPU while the images do not.

        Returns:
            A tensor of the same shape and dtype in [-1, 1], differentiable in `pixel_values`. The input itself if
            every strength is 0.

        Raises:
            ValueError: for a tensor that is not a floating-point batch of images.
        """
        if pixel_values.ndim != 4 or not pixel_values.is_floating_point():
            raise ValueError(
                "pixel_values must be a floating-point tensor (batch, channels, height, width), got "
                f"{tuple(pixel_values.shape)} of {pixel_values.dtype}."
            )
        if self.config == AugmentationConfig(erasing_size=self.config.erasing_size):
            return pixel_values
        draw = _Draw(pixel_values, generator)
        x = (pixel_values.float() + 1) / 2
        for change in (self._geometry, self._exposure, self._texture, self._erase):
            x = change(x, draw)
        return (x.clamp(0, 1) * 2 - 1).to(pixel_values.dtype)

    def _geometry(self, x: Tensor, draw: _Draw) -> Tensor:
        c = self.config
        if not (c.rotation or c.translation or c.scale or c.flip_probability):
            return x
        angle = draw.symmetric(math.radians(c.rotation))
        zoom = draw.symmetric(c.scale).exp()
        mirror = 1 - 2 * (draw.uniform() < c.flip_probability).float()
        shift_x, shift_y = draw.symmetric(2 * c.translation), draw.symmetric(2 * c.translation)
        aspect = x.shape[2] / x.shape[3]  # grid coordinates are in units of half a side of either axis
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        rows, columns = (_pixel_centres(side, x.device) * 2 - 1 for side in x.shape[2:])
        rows, columns = rows[None, :, None], columns[None, None, :] * mirror[:, None, None]
        cos, sin, shift_x, shift_y = (v[:, None, None] for v in (cos, sin, shift_x, shift_y))
        # by broadcasting: several times faster than affine_grid's batched matrix product
        across = cos * columns + (shift_x - sin * aspect * rows)
        down = sin / aspect * columns + (cos * rows + shift_y)
        grid = torch.stack([across, down], dim=-1)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _exposure(self, x: Tensor, draw: _Draw) -> Tensor:
        c = self.config
        if c.gamma:
            gamma = _per_image(draw.symmetric(c.gamma).exp())
            low = _GAMMA_OFFSET**gamma
            x = ((x.clamp(0, 1) + _GAMMA_OFFSET) ** gamma - low) / ((1 + _GAMMA_OFFSET) ** gamma - low)
        if c.bias_field:
            knots = draw.normal((x.shape[0], 1, _BIAS_GRID, _BIAS_GRID)) * c.bias_field
            x = x * F.interpolate(knots, size=x.shape[2:], mode="bicubic", align_corners=True).exp()
        if c.contrast or c.brightness:
            gain = _per_image(draw.symmetric(c.contrast).exp())
            mean = x.mean(dim=(1, 2, 3), keepdim=True)
            x = x * gain + (mean * (1 - gain) + _per_image(draw.symmetric(c.brightness)))
        return x

    def _texture(self, x: Tensor, draw: _Draw) -> Tensor:
        c = self.config
        if c.blur:
            x = torch.lerp(x, _binomial_blur(x), _per_image(draw.uniform() * c.blur))
        if c.noise:
            x = x + draw.normal(tuple(x.shape)) * _per_image(draw.uniform() * c.noise)
        return x

    def _erase(self, x: Tensor, draw: _Draw) -> Tensor:
        c = self.config
        if not (c.erasing_probability and c.erasing_size):
            return x
        chosen = draw.uniform() < c.erasing_probability
        inside = []
        for axis in (2, 3):
            length = draw.uniform() * c.erasing_size
            start = draw.uniform() * (1 - length)
            centres = _pixel_centres(x.shape[axis], x.device)
            inside.append((centres >= start[:, None]) & (centres < (start + length)[:, None]))
        rectangle = inside[0][:, None, :, None] & inside[1][:, None, None, :] & _per_image(chosen)
        return torch.where(rectangle, x.mean(dim=(1, 2, 3), keepdim=True), x)


class _Draw:
    """Random numbers per image, drawn on the generator's device and moved to the images'."""

    def __init__(self, images: Tensor, generator: torch.Generator | None):
        self.batch, self.device, self.generator = images.shape[0], images.device, generator
        self.source = generator.device if generator is not None else images.device

    def uniform(self) -> Tensor:
        return torch.rand(self.batch, generator=self.generator, device=self.source).to(self.device)

    def symmetric(self, limit: float) -> Tensor:
        return (2 * self.uniform() - 1) * limit

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.source).to(self.device)


def _pixel_centres(size: int, device: torch.device) -> Tensor:
    """Positions of pixel centres along a side of length 1."""
    return (torch.arange(size, device=device) + 0.5) / size


def _binomial_blur(x: Tensor) -> Tensor:
    """3x3 binomial blur with replicated borders; sums of slices are much faster than a 1-channel convolution."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = (x[..., :-2] + x[..., 2:]) * 0.25 + x[..., 1:-1] * 0.5
    return (x[..., :-2, :] + x[..., 2:, :]) * 0.25 + x[..., 1:-1, :] * 0.5


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
