"""Chest radiograph data sets with one column layout, whatever the source.

Everything is imported on first use, so that `import cf_cxr.data` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_EXPORTS = {
    "load_cxr": "loading",
    "load_report": "report",
    "LoadReport": "report",
    "SkippedImagesWarning": "report",
    "cxr_schema": "schemas",
    "cxr_features": "base",
    "split_by_patient": "splits",
    "CXRCollator": "collate",
    "CXRDataError": "errors",
    "MissingDataError": "errors",
    "UnreadableImageError": "errors",
    "BadRowError": "errors",
}

__all__ = [
    "BadRowError",
    "CXRCollator",
    "CXRDataError",
    "LoadReport",
    "MissingDataError",
    "SkippedImagesWarning",
    "UnreadableImageError",
    "cxr_features",
    "cxr_schema",
    "load_cxr",
    "load_report",
    "split_by_patient",
]

if TYPE_CHECKING:
    from .base import cxr_features
    from .collate import CXRCollator
    from .errors import BadRowError, CXRDataError, MissingDataError, UnreadableImageError
    from .loading import load_cxr
    from .report import LoadReport, SkippedImagesWarning, load_report
    from .schemas import cxr_schema
    from .splits import split_by_patient


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
