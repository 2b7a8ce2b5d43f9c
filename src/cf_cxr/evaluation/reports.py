"""Results as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """A value in JSON's types: numbers rounded to 6 digits, None for NaN; dataclasses are dictionaries."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return round(float(value), 6) if math.isfinite(value) else None
    return value


def put(results: dict[str, Any], path: str, value: Any) -> None:
    """Stores a value in nested dictionaries: `put(r, "a/b", 1)` is `r["a"]["b"] = 1`."""
    *folders, last = path.split("/")
    for folder in folders:
        results = results.setdefault(folder, {})
    results[last] = value


def get(results: Mapping[str, Any], path: str) -> Any:
    """What `put` stored; None if there is nothing."""
    for key in path.split("/"):
        results = (results or {}).get(key)
    return results
