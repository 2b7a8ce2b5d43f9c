"""Adapter to transformers' image-classification models and pipelines."""

from __future__ import annotations

from typing import Any

from transformers import Pipeline, PreTrainedModel

from .checks import BlackBoxError, find_name
from .module_adapter import ModuleImageClassifier
from .preprocessing import as_preprocessing


class TransformersImageClassifier(ModuleImageClassifier):
    """One label of a transformers image-classification model or pipeline, with gradients.

    Size, mean and standard deviation come from the image processor's settings and are applied to tensors; the
    processor itself, which works on pictures, is not called.

    Args:
        model_or_pipeline: a model with `id2label`, or `pipeline("image-classification", ...)`.
        label: a name in `model.config.id2label` (case does not matter), or its index.
        processor: the model's image processor, or anything `as_preprocessing` reads; a pipeline brings its own.
        activation: `"auto"` as the pipeline does (sigmoid for multi-label problems and single outputs, else
            softmax), or one of `"sigmoid"`, `"softmax"`, None.
        class_name: what to call the class; the label if absent.
        threshold: decision boundary.

    Raises:
        BlackBoxError: for an unknown label (with the known ones), a model that classifies nothing, no processor, or
            one whose steps cannot be repeated with gradients.
    """

    def __init__(
        self,
        model_or_pipeline: PreTrainedModel | Pipeline,
        label: str | int | None,
        processor: Any = None,
        activation: str | None = "auto",
        class_name: str | None = None,
        threshold: float = 0.5,
    ) -> None:
        model, asked = model_or_pipeline, None
        if isinstance(model, Pipeline):
            asked = getattr(model, "_postprocess_params", {}).get("function_to_apply")
            processor, model = processor or model.image_processor, model.model
        if not isinstance(model, PreTrainedModel) or model.main_input_name != "pixel_values":
            raise BlackBoxError(
                f"{type(model).__name__} is no transformers model of images; give an AutoModelForImageClassification."
            )
        if not type(model).__name__.endswith("ForImageClassification"):
            raise BlackBoxError(
                f"{type(model).__name__} has no classification head; load it with AutoModelForImageClassification."
            )
        if processor is None:
            raise BlackBoxError(
                f"{type(model).__name__} does not say which size, mean and standard deviation it reads: give "
                "processor=AutoImageProcessor.from_pretrained(...), or RadiographPreprocessing(...)."
            )
        config = model.config
        names = [str(config.id2label[i]) for i in range(config.num_labels)]
        if not isinstance(label, int):
            label = find_name(label, names, "label")
        elif isinstance(label, bool) or not 0 <= label < len(names):
            raise BlackBoxError(
                f"There is no label of index {label!r}: the model has {len(names)}, 0 to {len(names) - 1}."
            )
        if activation == "auto":
            activation = _activation(config) if asked is None else getattr(asked, "value", asked)
        super().__init__(
            model,
            as_preprocessing(processor, channels=getattr(config, "num_channels", None) or 3),
            label,
            None if activation == "none" else activation,
            class_name or names[label],
            threshold,
        )


from_transformers = TransformersImageClassifier


def _activation(config: Any) -> str | None:
    """What transformers' own pipeline applies."""
    if config.problem_type == "regression":
        return None
    several = config.problem_type == "multi_label_classification" or config.num_labels == 1
    return "sigmoid" if several else "softmax"
