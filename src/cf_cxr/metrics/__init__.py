"""Metrics of counterfactual images: plain functions of arrays, and the same as `evaluate` modules.

The functions live in the submodules (`cf_cxr.metrics.effectiveness`, ...); `load(name)` gives the evaluate module.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import evaluate

MODULES_FOLDER = Path(__file__).parent / "modules"

# A folder there is a metric.
NAMES = tuple(sorted(file.stem for file in MODULES_FOLDER.glob("*/*.py") if file.stem == file.parent.name))


def module_path(name: str) -> str:
    """Folder of one of `NAMES`, as `evaluate.load` takes it.

    Raises:
        ValueError: for another name; the message lists them.
    """
    if name not in NAMES:
        raise ValueError(f"There is no metric {name!r}; choose one of {', '.join(NAMES)}.")
    return str(MODULES_FOLDER / name)


def load(name: str, config_name: str | None = None, **kwargs: Any) -> evaluate.EvaluationModule:
    """One of `NAMES` as a loaded `evaluate.EvaluationModule`; works offline.

    Args:
        name: e.g. `"effectiveness"`.
        config_name: kind of the attribute for those metrics that depend on it: `"binary"` (default),
            `"categorical"`, `"continuous"`; `"matrix"` for the whole amplification matrix; `"flags"` (default) or
            `"masks"` for foreign_object_preservation.
        kwargs: for `evaluate.load`, e.g. `experiment_id`, `cache_dir`, `keep_in_memory`.

    Raises:
        ValueError: for an unknown name or configuration; the message lists those there are.
    """
    path = module_path(name)
    import evaluate

    return evaluate.load(path, config_name, **kwargs)


__all__ = ["MODULES_FOLDER", "NAMES", "load", "module_path"]
