"""One tensor per file, found by what it was computed from; complete or absent, never unpickled."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)

_TENSOR = "values"


def cache_path(folder: str | Path, identity: Mapping[str, str]) -> Path:
    """The file for an identity: its name is the identity's hash."""
    key = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()
    return Path(folder) / f"{key[:32]}.safetensors"


def read_cached(path: Path, identity: Mapping[str, str]) -> Tensor | None:
    """The tensor of a file, or None where there is none, it is damaged or it says another identity."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            values, found = file.get_tensor(_TENSOR), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        logger.warning("%s cannot be read (%s) and is computed again.", path, error)
        return None
    return values if {name: found.get(name) for name in identity} == dict(identity) else None


def write_cached(path: Path, values: Tensor, identity: Mapping[str, str]) -> None:
    """Write a tensor and its identity; a killed process leaves no half of a file under this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".incomplete-{os.getpid()}-{path.name}")
    save_file({_TENSOR: values.contiguous()}, str(temporary), metadata=dict(identity))
    os.replace(temporary, path)


__all__ = ["cache_path", "read_cached", "write_cached"]
