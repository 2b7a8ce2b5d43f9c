"""From this package's grey images in [-1, 1] to what a foreign network reads, by torch operations only."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..images.image_processing_cxr import CXRImageProcessor
from .checks import BlackBoxError
from .fingerprints import probe_images

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
        self.crop = None if crop is None else _pair(crop, "crop")
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
        size, shape = self.size, x.shape[-2:]
        if isinstance(size, int):
            size = tuple(int(size * side / min(shape)) for side in shape)
        if size is None or tuple(shape) == size:
            return x
        if self.interpolation == "nearest":
            return F.interpolate(x, size=size, mode="nearest-exact")
        x = F.interpolate(x, size=size, mode=self.interpolation, align_corners=False, antialias=True)
        return x.clamp(-1, 1) if self.interpolation == "bicubic" else x


def _center_crop(x: Tensor, crop: tuple[int, int]) -> Tensor:
    """Cuts, or adds black, with rows above the crop as transformers and torchvision count them."""
    padding = []
    for side, wanted in reversed([*zip(x.shape[-2:], crop)]):
        excess = side - wanted
        before = excess // 2 if excess >= 0 else -((1 - excess) // 2)
        padding += [-before, before - excess]
    return F.pad(x, padding, value=_BLACK)


def _pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(int(v) for v in value)
    pair = pair * 2 if len(pair) == 1 else pair
    if len(pair) != 2 or min(pair) < 1:
        raise BlackBoxError(f"{name} must be (height, width) in pixels, got {pair}.")
    return pair


def _per_channel(value: float | Sequence[float], channels: int, name: str) -> tuple[float, ...]:
    values = tuple(float(v) for v in (value if isinstance(value, (list, tuple)) else [value]))
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise BlackBoxError(f"{name} has {len(values)} values for {channels} channels: {values}.")
    return values


# Pillow's numbers of its filters, with the nearest that torch can differentiate.
_FILTERS = {0: "nearest", 1: "bicubic", 2: "bilinear", 3: "bicubic"}
_LANCZOS = 1
# Steps of transformers' processors that are repeated here, or that do nothing to a grey image.
_KNOWN_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
_CONVNEXT_FULL_SIZE = 384  # from here on ConvNeXT's processor does not crop


def as_preprocessing(source: Any, channels: int = 3) -> Callable[[Tensor], Tensor]:
    """A differentiable preprocessing from whatever says how a classifier wants its images.

    Args:
        source: None (images as they are, `(N, 1, H, W)` in [-1, 1]); a mapping with arguments of
            `RadiographPreprocessing` or with timm's `pretrained_cfg`; an image processor of transformers or of this
            package; a torchvision preset (`weights.transforms()`); or a function of torch operations that reads
            `(N, 1, H, W)` in [-1, 1], which is returned as it is.
        channels: that the network reads, for an image processor, which does not say.

    Raises:
        BlackBoxError: for settings that cannot be repeated with gradients, naming them, or a processor whose pictures
            differ from ours (both are compared on built-in ones).
    """
    if source is None:
        return RadiographPreprocessing(channels=1, value_range=(-1, 1))
    if isinstance(source, RadiographPreprocessing):
        return source
    if isinstance(source, CXRImageProcessor):
        side = source.size["height"]
        return RadiographPreprocessing((side, side), channels=channels, value_range=(-1, 1))
    if isinstance(source, Mapping):
        return _from_timm(source) if "input_size" in source else RadiographPreprocessing(**source)
    if isinstance(getattr(source, "data_config", None), Mapping):  # transformers' wrapper of timm
        return _from_timm(source.data_config)
    if hasattr(source, "resize_size") and hasattr(source, "crop_size") and hasattr(source, "mean"):
        return check_repeats(_from_torchvision(source), source)
    if hasattr(source, "preprocess") and hasattr(source, "to_dict"):
        repeated = _from_transformers(source.to_dict(), type(source).__name__, channels)
        return check_repeats(repeated, source)
    if callable(source):
        return source
    raise BlackBoxError(
        f"Cannot read a preprocessing from {type(source)}: give an image processor, a torchvision preset, a mapping "
        "of RadiographPreprocessing's arguments, or a function of torch operations."
    )


def _from_transformers(settings: Mapping, name: str, channels: int) -> RadiographPreprocessing:
    advice = "give preprocess=RadiographPreprocessing(...) or a function of torch operations instead."
    if unknown := [k for k, v in settings.items() if k.startswith("do_") and v and k not in _KNOWN_STEPS]:
        raise BlackBoxError(
            f"{name} applies {', '.join(unknown)}, which is not repeated with gradients here; {advice}"
        )

    def side(size: Any) -> int | tuple[int, int]:
        if isinstance(size, int):
            return size
        size = {k: v for k, v in dict(size or {}).items() if v is not None}
        if set(size) == {"height", "width"}:
            return size["height"], size["width"]
        if set(size) == {"shortest_edge"}:
            return size["shortest_edge"]
        raise BlackBoxError(
            f"{name} resizes to {size}, which is not repeated here (only height and width, or shortest_edge); {advice}"
        )

    resample = int(settings.get("resample", 2))
    if resample not in _FILTERS:
        raise BlackBoxError(
            f"{name} resizes with Pillow's filter {resample}, which torch does not have; {advice}"
        )
    if resample == _LANCZOS:
        warnings.warn(
            f"{name} resizes with a Lanczos filter; with gradients it is replaced by an antialiased bicubic one.",
            stacklevel=3,
        )
    resize = side(settings.get("size")) if settings.get("do_resize") else None
    crop = side(settings.get("crop_size") or settings.get("size")) if settings.get("do_center_crop") else None
    if settings.get("crop_pct") and isinstance(resize, int):  # ConvNeXT
        crop = (resize, resize)
        resize = int(resize / settings["crop_pct"]) if resize < _CONVNEXT_FULL_SIZE else crop
    rescale, normalise = settings.get("do_rescale"), bool(settings.get("do_normalize"))
    scale = settings["rescale_factor"] if rescale else 1.0
    offset = 1.0 if rescale and settings.get("rescale_offset") else 0.0
    power = normalise + bool(settings.get("include_top"))  # EfficientNet divides twice
    std = settings.get("image_std") if power else 1.0
    return RadiographPreprocessing(
        resize,
        crop,
        channels,
        (0.0 - offset, 255.0 * scale - offset),
        settings["image_mean"] if normalise else 0.0,
        [v**power for v in std] if isinstance(std, (list, tuple)) else std**power,
        _FILTERS[resample],
    )


def _from_torchvision(preset: Any) -> RadiographPreprocessing:
    resize, mean, std = list(preset.resize_size), list(preset.mean), list(preset.std)
    interpolation = getattr(preset.interpolation, "value", str(preset.interpolation))
    size = resize[0] if len(resize) == 1 else resize
    return RadiographPreprocessing(size, list(preset.crop_size), len(mean), (0, 1), mean, std, interpolation)


def _from_timm(settings: Mapping) -> RadiographPreprocessing:
    channels, *shape = settings["input_size"]
    size: Any = [math.floor(side / (settings.get("crop_pct") or 1.0)) for side in shape]
    mean, std = list(settings["mean"]), list(settings["std"])
    if channels == 1 and len(mean) == 3:  # timm keeps the colour statistics of models made with in_chans=1
        mean, std = [sum(mean) / 3], [sum(std) / 3]
    crop_mode = settings.get("crop_mode") or "center"
    if crop_mode not in ("center", "squash"):
        raise BlackBoxError(f"timm's crop_mode={crop_mode!r} is not repeated here; use 'center' or 'squash'.")
    if crop_mode == "center" and shape[0] == shape[1]:
        size = size[0]
    interpolation = settings.get("interpolation") or "bicubic"
    return RadiographPreprocessing(size, shape, channels, (0, 1), mean, std, interpolation)


# Mean difference over the standard deviation of the processor's tensors. 8-bit rounding gives 0.005, a bicubic in
# place of a Lanczos filter 0.01, a forgotten mean or crop 0.1 to 5.
TOLERANCE = 0.04
_SIZE = 128


def check_repeats(repeated: RadiographPreprocessing, processor: Any) -> RadiographPreprocessing:
    """Compares both on two built-in pictures; a step that a processor's settings do not tell shows here.

    Raises:
        BlackBoxError: where shapes or values differ.
    """
    images = probe_images(_SIZE)[[0, -1]]
    expected = _processed(processor, images, repeated.channels).float()
    got = repeated(images)
    name = type(processor).__name__
    if got.shape != expected.shape:
        raise BlackBoxError(
            f"{name} makes tensors {tuple(expected.shape)} of two square pictures, its settings say "
            f"{tuple(got.shape)}; give preprocess= a RadiographPreprocessing or a function of torch operations."
        )
    difference = float((got - expected).abs().mean() / expected.std().clamp_min(1e-6))
    if not difference <= TOLERANCE:
        raise BlackBoxError(
            f"{name} does something that its settings (size, crop, mean, std) do not tell: the tensors differ by "
            f"{difference:.2f} standard deviations. Give preprocess= a RadiographPreprocessing or a function of torch "
            "operations."
        )
    return repeated


def _processed(processor: Any, images: Tensor, channels: int) -> Tensor:
    if not hasattr(processor, "preprocess"):  # torchvision's presets read tensors in [0, 1]
        return processor(((images + 1) / 2).expand(-1, channels, -1, -1))
    grey = ((images[:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
    mode = "L" if channels == 1 else "RGB"
    pictures = [Image.fromarray(g).convert(mode) for g in grey]
    return torch.as_tensor(processor(images=pictures, return_tensors="pt")["pixel_values"])
