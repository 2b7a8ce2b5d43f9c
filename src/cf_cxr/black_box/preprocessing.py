"""From this package's grey images in [-1, 1] to what a foreign network reads, by torch operations only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import BlackBoxError

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
_BLACK = -1.0


class RadiographPreprocessing(nn.Module):
    """Resizes, crops, rescales, repeats the grey channel and normalises: differentiable with respect to the image.

    Args:
        size: what to resize to: `(height, width)`, or one number for the shorter side, with the proportions kept.
            None keeps the size. Antialiased, as Pillow does it.
        crop: `(height, width)` cut from the centre afterwards; black is added where the image is smaller.
        channels: of the result; all equal before normalisation.
        value_range: what black and white become: `(0, 1)` for most networks, `(0, 255)` for some of Keras',
            `(-1024, 1024)` for TorchXRayVision, `(-1, 1)` for this package's.
        mean, std: per channel (or one number for all), in units of `value_range`: (x - mean) / std.
        interpolation: `"bilinear"`, `"bicubic"` or `"nearest"`.

    Raises:
        BlackBoxError: for settings that cannot be.
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        crop: int | Sequence[int] | None = None,
        channels: int = 3,
        value_range: Sequence[float] = (0.0, 1.0),
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__()
        if channels < 1:
            raise BlackBoxError(f"channels must be at least 1, got {channels}.")
        if interpolation not in INTERPOLATIONS:
            raise BlackBoxError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}."
            )
        self.size = size if size is None or isinstance(size, int) else _pair(size, "size")
        self.crop = None if crop is None else _pair((crop, crop) if isinstance(crop, int) else crop, "crop")
        self.channels, self.interpolation = channels, interpolation
        self.value_range = (float(value_range[0]), float(value_range[1]))
        if self.value_range[0] >= self.value_range[1]:
            raise BlackBoxError(f"value_range must go from black up to white, got {value_range}.")
        self.mean, self.std = _per_channel(mean, channels, "mean"), _per_channel(std, channels, "std")
        if min(self.std) <= 0:
            raise BlackBoxError(f"std must be positive, got {self.std}.")

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(N, 1, H, W)` in [-1, 1] to `(N, channels, h, w)`."""
        x = self._resized(pixel_values)
        if self.crop is not None and tuple(x.shape[-2:]) != self.crop:
            x = _center_crop(x, self.crop)
        low, high = self.value_range
        half = (high - low) / 2
        x = (x * half + (low + half)).expand(-1, self.channels, -1, -1)
        mean, std = (torch.tensor(v, device=x.device, dtype=x.dtype) for v in (self.mean, self.std))
        return (x - mean[:, None, None]) / std[:, None, None]

    def to_dict(self) -> dict[str, Any]:
        """All settings, in JSON's types."""
        names = ("size", "crop", "channels", "value_range", "mean", "std", "interpolation")
        return {n: list(v) if isinstance(v := getattr(self, n), tuple) else v for n in names}

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.to_dict().items())

    def _resized(self, x: Tensor) -> Tensor:
        size = self.size
        if size is None:
            return x
        if isinstance(size, int):
            height, width = x.shape[-2:]
            short = min(height, width)
            size = (int(size * height / short), int(size * width / short))
        if tuple(x.shape[-2:]) == tuple(size):
            return x
        if self.interpolation == "nearest":
            return F.interpolate(x, size=size, mode="nearest-exact")
        x = F.interpolate(x, size=size, mode=self.interpolation, align_corners=False, antialias=True)
        return x.clamp(-1, 1) if self.interpolation == "bicubic" else x


def _center_crop(x: Tensor, crop: tuple[int, int]) -> Tensor:
    height, width = x.shape[-2:]
    top, left = _half(height - crop[0]), _half(width - crop[1])
    bottom, right = height - crop[0] - top, width - crop[1] - left
    return F.pad(x, (-left, -right, -top, -bottom), value=_BLACK)


def _half(excess: int) -> int:
    """Rows above the crop as transformers and torchvision count them; negative: rows of black."""
    return excess // 2 if excess >= 0 else -((1 - excess) // 2)


def _pair(value: Sequence[int], name: str) -> tuple[int, int]:
    pair = tuple(int(v) for v in value)
    if len(pair) == 1:
        pair = pair * 2
    if len(pair) != 2 or min(pair) < 1:
        raise BlackBoxError(f"{name} must be (height, width) in pixels, got {tuple(value)}.")
    return pair


def _per_channel(value: float | Sequence[float], channels: int, name: str) -> tuple[float, ...]:
    values = tuple(float(v) for v in value) if isinstance(value, (list, tuple)) else (float(value),)
    if len(values) == 1:
        values = values * channels
    if len(values) != channels:
        raise BlackBoxError(f"{name} has {len(values)} values for {channels} channels: {values}.")
    return values


__all__ = ["INTERPOLATIONS", "RadiographPreprocessing"]
