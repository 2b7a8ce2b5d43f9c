"""Chest radiograph data sets with one column layout, whatever the source.

Everything is imported on first use, so that `import cf_cxr.data` costs nothing.
"""

from importlib import import_module

_PUBLIC = {
    "loading": ["load_cxr", "cxr_schema"],
    "report": ["LoadReport", "SkippedImagesWarning", "load_report"],
    "base": ["cxr_features"],
    "splits": ["split_by_patient"],
    "collate": ["CXRCollator"],
    "errors": ["BadRowError", "CXRDataError", "MissingDataError", "UnreadableImageError"],
}
_WHERE = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
