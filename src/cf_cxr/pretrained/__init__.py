"""The bundled models."""

from __future__ import annotations

from pathlib import Path

#: Folder under `cf_cxr/pretrained/` that `pipeline("chest-xray-counterfactual")` loads.
DEFAULT_MODEL = "cf-cxr-nih-128"
#: Folder under `cf_cxr/pretrained/` that `pipeline("chest-xray-explanation")` loads.
DEFAULT_EXPLAINER = "explainer-nih-128"


def default_model_path() -> Path:
    """Folder of the bundled model of counterfactuals."""
    return Path(__file__).resolve().parent / DEFAULT_MODEL


def default_explainer_path() -> Path:
    """Folder of the bundled explainer, of the bundled classifier's finding."""
    return Path(__file__).resolve().parent / DEFAULT_EXPLAINER
