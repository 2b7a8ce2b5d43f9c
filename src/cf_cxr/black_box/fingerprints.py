"""Fingerprints: whether a classifier is the one that an explainer was trained for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .probes import probe_images

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
