"""Training of the attribute classifier, with calibration at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from ...attributes import AttributeSchema
from ...files import write_json
from ...models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from ...models.attribute_classifier.configuration_attribute_classifier import BACKBONE_PRESETS
from ..augmentation import AUGMENTATION_PRESETS, CXRAugmentation
from ..loop.arguments import CXRTrainingArguments, _option, read_config
from ..loop.run_folder import FINAL_METRICS_FILE
from ..loop.script import train_on_images
from ..loop.trainer import CXRTrainer
from .calibration import expected_calibration_error, fit_temperature


@dataclass
class ClassifierConfig(CXRTrainingArguments):
    """Architecture of the classifier, what it is taught, and how."""

    _argument_group_name = "Attribute classifier"

    output_dir: str = "outputs/classifier"
    per_device_train_batch_size: int = 32
    adam_beta2: float = 0.999
    lr_scheduler_type: str = "cosine"
    max_grad_norm: float = 5.0
    ema_decay: float = 0.99
    preset: str = _option(
        "bit-small", "Backbone: " + ", ".join(BACKBONE_PRESETS) + ".", choices=list(BACKBONE_PRESETS)
    )
    backbone_config: str | None = _option(
        None, "JSON or YAML file with any transformers backbone's configuration; replaces the preset."
    )
    dropout: float = _option(0.1, "Dropout before the heads.")
    augmentation: str = _option(
        "strong", "Random geometry and exposure of the training images.", choices=list(AUGMENTATION_PRESETS)
    )
    standardize: bool = _option(
        True,
        "Bring every image to zero mean and unit variance inside the model, which makes it blind to "
        "global exposure. Switch off where exposure is evidence (the site of a phantom).",
    )
    pool_grid: int = _option(
        1, "Pool features over a grid of this many rows and columns; 1: over the whole image."
    )
    projection_dim: int = _option(
        0, "Width of a hidden layer between the pooled features and the heads; 0: none."
    )
    layer_norm: bool = _option(False, "LayerNorm between the pooled features and the heads.")
    label_smoothing: float = _option(
        0.0, "Share of the target spread evenly over the classes (discrete attributes)."
    )
    keep: str = _option(
        "best",
        "Final weights: best (lowest validation NLL) or last; averaged either way if EMA is on.",
        choices=["best", "last"],
    )

    metric_for_best_model: str | None = field(default=None, init=False)
    greater_is_better: bool | None = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.metric_for_best_model = "nll" if self.keep == "best" else None
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"--label_smoothing is {self.label_smoothing}, but must be in [0, 1).")


class ClassifierTrainer(CXRTrainer):
    """Minimises the sum of the attributes' negative log-likelihoods over known labels."""

    def batch_loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Loss on augmented images; logs one negative log-likelihood per attribute."""
        with torch.no_grad():
            pixels = CXRAugmentation(self.args.augmentation)(batch["pixel_values"])
        output = model(pixels, labels=batch["attributes"])
        logs = {f"nll_{name}": value for name, value in zip(self.schema.names, output.losses, strict=True)}
        share = self.args.label_smoothing
        if share == 0:
            return output.loss, logs
        return output.loss + share * self._smoothing(output.logits, batch["attributes"]), logs

    def _smoothing(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What turns the NLL of discrete attributes into (1 - s) NLL + s (mean NLL over classes), over s."""
        total = logits.new_zeros(())
        for (name, part), value in zip(
            self.model.split_logits(logits).items(), labels.unbind(1), strict=True
        ):
            attribute = self.schema[name]
            if not attribute.is_discrete:
                continue
            known = ~value.isnan()
            classes = [torch.where(known, float(c), value) for c in range(attribute.n_classes)]
            nll = self.model.attribute_heads[name].nll
            even = torch.stack([nll(part, c) for c in classes]).mean(0)
            total = total + (even - nll(part, value)).sum() / known.sum().clamp_min(1)
        return total

    @torch.no_grad()
    def predict_validation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Uncalibrated logits (N, L) and raw labels (N, n) of the validation split, on the CPU of every process."""
        logits, labels = [], []
        for batch in self.eval_batches():
            with self.accelerator.autocast():
                logits.append(self.model(batch["pixel_values"]).logits.float())
            labels.append(batch["attributes"])
        return tuple(self.gather_eval(torch.cat(values)).cpu() for values in (logits, labels))

    def evaluation_metrics(self) -> dict[str, float]:
        """Per attribute NLL and AUC, ECE or MAE on the validation split, with the calibration stored so far."""
        return classifier_metrics(self.model, *self.predict_validation())

    def finalize(self, folder: Path) -> None:
        """Fit the temperatures on the validation split and write `metrics.json` with and without them."""
        if self.eval_dataset is None:
            return
        logits, labels = self.predict_validation()
        self.model.config.temperature = {}
        metrics = {"uncalibrated": classifier_metrics(self.model, logits, labels)}
        self.model.config.temperature = fit_temperature(logits, labels, self.schema)
        metrics["calibrated"] = classifier_metrics(self.model, logits, labels)
        metrics["temperature"] = self.model.config.temperature
        metrics["images"] = len(labels)
        if self.args.should_save:
            write_json(folder / FINAL_METRICS_FILE, metrics)
            print(json.dumps(metrics["calibrated"], indent=2))


def classifier_metrics(
    model: AttributeClassifierModel, logits: torch.Tensor, labels: torch.Tensor
) -> dict[str, float]:
    """AUC and ECE of discrete attributes, MAE of continuous ones (in units), NLL of all, over known labels.

    The AUC of a categorical attribute is the mean over its classes against the rest. Measures that need
    what the labels lack (two classes, any label) are left out.

    Args:
        logits: (N, L) uncalibrated.
        labels: (N, n) raw, NaN where unknown.
    """
    metrics: dict[str, float] = {"nll": 0.0}
    calibrated = model.calibrated_logits(logits)
    posterior = model.posterior_from_logits(logits)
    for attribute, value in zip(model.schema, labels.unbind(1), strict=True):
        known = ~value.isnan()
        if not known.any():
            continue
        name, value = attribute.name, value[known]
        metrics[f"nll_{name}"] = float(model.attribute_heads[name].nll(calibrated[name][known], value).mean())
        metrics["nll"] += metrics[f"nll_{name}"]
        if not attribute.is_discrete:
            mean = posterior[name][0][known].clamp(attribute.minimum, attribute.maximum)
            metrics[f"mae_{name}"] = float((mean - value).abs().mean())
            continue
        probability = posterior[name][known]
        if (auc := _auc(probability.numpy(), value.long().numpy())) is not None:
            metrics[f"auc_{name}"] = auc
        metrics[f"ece_{name}"] = expected_calibration_error(probability, value)
    return metrics


def _auc(probability: np.ndarray, label: np.ndarray) -> float | None:
    if len(np.unique(label)) < 2:
        return None
    if probability.ndim == 1:
        return float(roc_auc_score(label, probability))
    present = [c for c in range(probability.shape[1]) if (label == c).any()]
    return float(np.mean([roc_auc_score(label == c, probability[:, c]) for c in present]))


def build_classifier_config(
    args: ClassifierConfig, schema: AttributeSchema, resolution: int
) -> AttributeClassifierConfig:
    """Configuration from arguments: a preset, or any backbone from a file."""
    names = ("dropout", "standardize", "pool_grid", "projection_dim", "layer_norm")
    settings = {name: getattr(args, name) for name in names} | {"image_size": resolution}
    if args.backbone_config is None:
        return AttributeClassifierConfig.from_preset(args.preset, schema, **settings)
    return AttributeClassifierConfig(
        attributes=schema.to_list(), backbone_config=read_config(args.backbone_config), **settings
    )


def main(argv: Sequence[str] | None = None) -> AttributeClassifierModel:
    """Train from command-line arguments; returns the trained model."""

    def build(args: ClassifierConfig, resolution: int, schema: AttributeSchema) -> AttributeClassifierModel:
        return AttributeClassifierModel(build_classifier_config(args, schema, resolution))

    text = "Train the classifier q(attributes | image) and calibrate it on the validation split."
    return train_on_images(ClassifierTrainer, ClassifierConfig, build, argv, text)
