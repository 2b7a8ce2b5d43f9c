"""transformers pipelines of this package, and their registration.

`register()` is called by `import cf_cxr`; from then on `transformers.pipeline("chest-xray-counterfactual")`
works, offline, with the bundled model.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

COUNTERFACTUAL_TASK = "chest-xray-counterfactual"
#: Folder under `cf_cxr/pretrained/` that `pipeline("chest-xray-counterfactual")` loads.
DEFAULT_MODEL = "cf-cxr-nih-128"

_EXPORTS = {
    "CounterfactualPipeline": "counterfactual",
    "CounterfactualModelLoader": "loading",
    "ModelFileError": "loading",
}
__all__ = ["COUNTERFACTUAL_TASK", "DEFAULT_MODEL", "default_model_path", "register", *sorted(_EXPORTS)]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def default_model_path() -> Path:
    """Folder of the bundled model."""
    return Path(__file__).resolve().parent.parent / "pretrained" / DEFAULT_MODEL


def register() -> None:
    """Makes `transformers.pipeline` know the task; calling it again changes nothing."""
    from transformers.pipelines import PIPELINE_REGISTRY

    from .counterfactual import CounterfactualPipeline
    from .loading import CounterfactualModelLoader

    if COUNTERFACTUAL_TASK in PIPELINE_REGISTRY.supported_tasks:
        return
    PIPELINE_REGISTRY.register_pipeline(
        COUNTERFACTUAL_TASK,
        pipeline_class=CounterfactualPipeline,
        pt_model=CounterfactualModelLoader,
        default={"model": (str(default_model_path()), "main")},
        type="image",
    )
    # With this mark, save_pretrained would copy this package's source beside the weights and every later
    # load would ask for trust_remote_code. The task is registered by the installed package: not needed.
    del CounterfactualPipeline._registered_impl
