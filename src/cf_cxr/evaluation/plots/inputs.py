"""What the pictures read: records, results, intervals; bad input is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def as_interval(value: Any, name: str) -> tuple[float, float, float]:
    """(estimate, low, high) as floats; None anywhere becomes NaN."""
    if value is None:
        return (np.nan,) * 3
    try:
        estimate, low, high = (np.nan if v is None else float(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (estimate, low, high), got {value!r}.") from None
    return estimate, low, high


def interventions(schema, results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Interventions of the results in schema order, with their rows."""
    if missing := [key for key in ("real", "do") if key not in results]:
        raise ValueError(f"The results have no {missing[0]!r}; known: {', '.join(results) or 'nothing'}.")
    if unknown := [k for k in results["do"] if k not in schema]:
        raise ValueError(
            f"The results have do({unknown[0]}), but the schema knows {', '.join(schema.names)}."
        )
    if not results["do"]:
        raise ValueError("The results have no intervention: 'do' is empty.")
    return [(k, results["do"][k]) for k in schema.names if k in results["do"]]


def record_array(records: Mapping[str, np.ndarray], name: str, what: str = "records") -> np.ndarray:
    """One array of the records; its length must be that of `factual`."""
    if name not in records:
        raise ValueError(f"The {what} have no {name!r}, which this picture needs.")
    array = np.asarray(records[name])
    if len(array) != len(records.get("factual", array)):
        raise ValueError(f"{name} has {len(array)} rows, factual {len(records['factual'])}.")
    return array
