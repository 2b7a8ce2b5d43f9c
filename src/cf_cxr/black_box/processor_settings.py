"""Reads the size, mean and standard deviation that other libraries' image processors apply."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..image_processing_cxr import CXRImageProcessor
from .errors import BlackBoxError
from .preprocessing import RadiographPreprocessing
from .processor_check import check_repeats

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
    unknown = [k for k, v in settings.items() if k.startswith("do_") and v and k not in _KNOWN_STEPS]
    if unknown:
        raise BlackBoxError(
            f"{name} applies {', '.join(unknown)}, which is not repeated with gradients here; give "
            "preprocess=RadiographPreprocessing(...) or a function of torch operations instead."
        )
    resize, crop = None, None
    if settings.get("do_resize"):
        resize = _transformers_size(settings.get("size"), name)
    if settings.get("do_center_crop"):
        crop = _transformers_size(settings.get("crop_size") or settings.get("size"), name)
        crop = (crop, crop) if isinstance(crop, int) else crop
    if settings.get("crop_pct") and isinstance(resize, int):  # ConvNeXT
        crop = (resize, resize)
        resize = int(resize / settings["crop_pct"]) if resize < _CONVNEXT_FULL_SIZE else crop
    scale = settings["rescale_factor"] if settings.get("do_rescale") else 1.0
    offset = 1.0 if settings.get("do_rescale") and settings.get("rescale_offset") else 0.0
    return RadiographPreprocessing(
        resize,
        crop,
        channels,
        (0.0 - offset, 255.0 * scale - offset),
        settings["image_mean"] if settings.get("do_normalize") else 0.0,
        _transformers_std(settings),
        _filter(settings.get("resample", 2), name),
    )


def _transformers_std(settings: Mapping) -> float | list[float]:
    power = int(bool(settings.get("do_normalize"))) + int(
        bool(settings.get("include_top"))
    )  # EfficientNet: twice
    std = settings.get("image_std") if power else 1.0
    return [v**power for v in std] if isinstance(std, (list, tuple)) else std**power


def _transformers_size(size: Any, name: str) -> int | tuple[int, int]:
    if isinstance(size, int):
        return size
    size = {k: v for k, v in dict(size or {}).items() if v is not None}
    if set(size) == {"height", "width"}:
        return size["height"], size["width"]
    if set(size) == {"shortest_edge"}:
        return size["shortest_edge"]
    raise BlackBoxError(
        f"{name} resizes to {size}, which is not repeated here (only height and width, or shortest_edge); give "
        "preprocess=RadiographPreprocessing(size=...)."
    )


def _filter(resample: Any, name: str) -> str:
    resample = int(resample)
    if resample not in _FILTERS:
        raise BlackBoxError(
            f"{name} resizes with Pillow's filter {resample}, which torch does not have; give "
            "preprocess=RadiographPreprocessing(interpolation='bilinear', ...) and mind the small difference."
        )
    if resample == _LANCZOS:
        warnings.warn(
            f"{name} resizes with a Lanczos filter; with gradients it is replaced by an antialiased bicubic one.",
            stacklevel=3,
        )
    return _FILTERS[resample]


def _from_torchvision(preset: Any) -> RadiographPreprocessing:
    interpolation = getattr(preset.interpolation, "value", str(preset.interpolation))
    resize = list(preset.resize_size)
    return RadiographPreprocessing(
        resize[0] if len(resize) == 1 else resize,
        list(preset.crop_size),
        len(preset.mean),
        (0, 1),
        list(preset.mean),
        list(preset.std),
        interpolation,
    )


def _from_timm(settings: Mapping) -> RadiographPreprocessing:
    channels, height, width = settings["input_size"]
    share = settings.get("crop_pct") or 1.0
    scaled = [math.floor(side / share) for side in (height, width)]
    mean, std = list(settings["mean"]), list(settings["std"])
    if channels == 1 and len(mean) == 3:  # timm keeps the colour statistics of models made with in_chans=1
        mean, std = [sum(mean) / 3], [sum(std) / 3]
    crop_mode = settings.get("crop_mode") or "center"
    if crop_mode not in ("center", "squash"):
        raise BlackBoxError(f"timm's crop_mode={crop_mode!r} is not repeated here; use 'center' or 'squash'.")
    return RadiographPreprocessing(
        scaled[0] if crop_mode == "center" and height == width else scaled,
        (height, width),
        channels,
        (0, 1),
        mean,
        std,
        settings.get("interpolation") or "bicubic",
    )


__all__ = ["as_preprocessing"]
