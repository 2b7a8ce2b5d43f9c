"""Fingerprints: whether a classifier is the one that an explainer was trained for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Entries of a transformers configuration that say where it came from or what else it returns, not what it computes.
_ORIGIN = {"_name_or_path", "name_or_path", "architectures", "auto_map", "transformers_version"}
_VOLATILE = _ORIGIN | {"dtype", "torch_dtype", "return_dict", "output_hidden_states", "output_attentions"}
_DIGITS = 3  # behavioural fingerprints: probabilities are compared to 0.001


def fingerprint(description: Mapping[str, Any]) -> str:
    """`"sha256:..."` of a description in JSON's types; the order of its keys does not matter."""
    text = json.dumps(description, sort_keys=True, allow_nan=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def module_digest(module: nn.Module) -> dict[str, Any]:
    """What a module computes: its class, configuration (of transformers models) and weights.

    Independent of device, memory layout, `torch.compile`, and of saving and loading. Settings that are neither in
    a configuration nor among the weights (the slope of an activation) are not seen.
    """
    module = getattr(module, "_orig_mod", module)  # torch.compile
    digest = {"class": type(module).__qualname__, "weights": state_digest(module)}
    if hasattr(getattr(module, "config", None), "to_diff_dict"):
        digest["config"] = _stable(module.config.to_diff_dict())
    return digest


def state_digest(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: names, types, shapes and bits."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        name = name.replace("_orig_mod.", "")
        if not isinstance(value, Tensor):  # a module's "extra state"
            digest.update(f"{name}={value!r};".encode())
            continue
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def behaviour_digest(posterior: Callable[[Tensor], Tensor], size: int) -> list[float]:
    """Posteriors of the probe images of one size, rounded to 0.001: for classifiers whose weights are hidden."""
    return [round(float(p), _DIGITS) for p in posterior(probe_images(size))]


@torch.no_grad()
def transform_digest(transform: Callable[[Tensor], Tensor], size: int = 64) -> dict[str, Any]:
    """What a preprocessing function makes of the probe images: shape, and moments to four digits.

    The moments include products with ramps along both axes, which see flips and crops.
    """
    out = torch.as_tensor(transform(probe_images(size))).detach().double().cpu()
    values = [out.mean(), out.std()]
    if out.ndim >= 2:
        for axis in (-1, -2):
            ramp = torch.linspace(-1, 1, out.shape[axis], dtype=out.dtype)
            values.append((out.movedim(axis, -1) * ramp).mean())
    return {"shape": list(out.shape), "moments": [f"{float(v):.3e}" for v in values]}


def _stable(value: Any) -> Any:
    """A configuration in JSON's types, without its volatile entries."""
    if isinstance(value, Mapping):
        return {str(k): _stable(v) for k, v in sorted(value.items(), key=str) if k not in _VOLATILE}
    if isinstance(value, (list, tuple)):
        return [_stable(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


_COUNT = 8


def probe_images(size: int = 128) -> Tensor:
    """Eight images `(8, 1, size, size)` in [-1, 1], the same on every machine.

    Two dark lungs and a heart in a bright body by a closed formula, rounded to 8 bits. From image to image the
    heart widens, and either the right or the left base grows opaque, so that most classifiers answer differently.

    Raises:
        ValueError: for a size below 12 pixels, where some would be equal.
    """
    if size < 12:
        raise ValueError(f"Probe images need at least 12 pixels, got {size}.")
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = axis[None, :], axis[:, None]
    images = []
    for i in range(_COUNT):
        step = i / (_COUNT - 1)
        image = 0.75 - 0.25 * y**2
        for side in (-1, 1):
            lung = _ellipse(x - 0.42 * side, y + 0.05, 0.3, 0.68)
            opaque = step * _ramp(y, 0.55 - 0.5 * step) * (side == (-1) ** i)
            image = image - 0.5 * lung * (1 - opaque)
        image = np.maximum(image, 0.7 * _ellipse(x - 0.1, y - 0.35, 0.22 + 0.2 * step, 0.3))
        images.append(np.rint(np.clip(image, 0, 1) * 255) / 127.5 - 1)
    return torch.from_numpy(np.stack(images)[:, None].astype(np.float32))


def _ellipse(x: np.ndarray, y: np.ndarray, width: float, height: float) -> np.ndarray:
    """1 inside, 0 outside, with a soft border."""
    return np.clip((1 - (x / width) ** 2 - (y / height) ** 2) * 4, 0, 1)


def _ramp(y: np.ndarray, level: float) -> np.ndarray:
    """0 above a level, 1 below it, with a soft border."""
    return np.clip((y - level) * 8, 0, 1)
