"""transformers pipelines of this package, and their registration.

`register()` is called by `import cf_cxr`; from then on `transformers.pipeline("chest-xray-counterfactual")` and
`transformers.pipeline("chest-xray-explanation")` work, offline, with the bundled models.
"""

from __future__ import annotations

from transformers.pipelines import PIPELINE_REGISTRY

from ..explaining.explained_classifier import ExplainerMismatchError
from ..pretrained import DEFAULT_EXPLAINER, DEFAULT_MODEL, default_explainer_path, default_model_path
from .counterfactual import CounterfactualPipeline
from .explanation import ExplanationPipeline
from .loading import BundledModel, CounterfactualModelLoader, ModelFileError

COUNTERFACTUAL_TASK = "chest-xray-counterfactual"
EXPLANATION_TASK = "chest-xray-explanation"


def register() -> None:
    """Makes `transformers.pipeline` know the tasks; calling it again changes nothing."""
    for task, pipeline_class, folder in (
        (COUNTERFACTUAL_TASK, CounterfactualPipeline, default_model_path()),
        (EXPLANATION_TASK, ExplanationPipeline, default_explainer_path()),
    ):
        if task in PIPELINE_REGISTRY.supported_tasks:
            continue
        PIPELINE_REGISTRY.register_pipeline(
            task,
            pipeline_class=pipeline_class,
            pt_model=CounterfactualModelLoader,
            default=BundledModel(folder),
            type="image",
        )
        # With this mark, save_pretrained would copy this package's source beside the weights and every later
        # load would ask for trust_remote_code. The task is registered by the installed package: not needed.
        del pipeline_class._registered_impl


__all__ = [
    "COUNTERFACTUAL_TASK",
    "DEFAULT_EXPLAINER",
    "DEFAULT_MODEL",
    "EXPLANATION_TASK",
    "CounterfactualModelLoader",
    "CounterfactualPipeline",
    "ExplainerMismatchError",
    "ExplanationPipeline",
    "ModelFileError",
    "default_explainer_path",
    "default_model_path",
    "register",
]
