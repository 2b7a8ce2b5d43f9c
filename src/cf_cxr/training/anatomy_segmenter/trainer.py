"""Training of the anatomy segmenter on images whose masks are known, with domain randomisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import set_seed

from ...images.grey_levels import image_grid
from ...models.anatomy_segmenter import AnatomySegmenterConfig, AnatomySegmenterModel
from ..loop.arguments import CXRTrainingArguments, DataArguments, _choice, _option, parse_arguments
from ..loop.batches import MASK_COLUMNS, load_schema, make_datasets
from ..loop.trainer import CXRTrainer
from .domain_randomisation import RANDOMISATION_PRESETS, DomainRandomisation

_SAMPLES = 8  # images in the sample pictures


@dataclass
class SegmenterConfig(CXRTrainingArguments):
    """Architecture of the segmenter, what is done to the images it learns from, and the training itself."""

    _argument_group_name = "Anatomy segmenter"

    output_dir: str = "outputs/segmenter"
    per_device_train_batch_size: int = 16
    learning_rate: float = 2e-3
    adam_beta2: float = 0.99
    weight_decay: float = 0.01
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 50
    max_grad_norm: float = 5.0
    ema_decay: float = 0.99
    labels: list[str] = _option([*MASK_COLUMNS], "Masks to learn, of " + ", ".join(MASK_COLUMNS) + ".")
    widths: list[int] = _option(
        [16, 24, 32, 32], "Channels per resolution; each one after the first halves it."
    )
    randomisation: str = _choice(
        "strong",
        list(RANDOMISATION_PRESETS),
        "Domain randomisation: strong for real films, light or none for images like the training ones.",
    )
    metric_for_best_model: str | None = field(default="dice", init=False)
    greater_is_better: bool | None = field(default=True, init=False)


class SegmenterTrainer(CXRTrainer):
    """Minimises cross-entropy + Dice loss per label on randomised images; the weights with the best Dice are kept.

    Batches have `"pixel_values"` and `"masks"` `(B, L, S, S)`, in the order of the model's labels.
    """

    args: SegmenterConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.labels = list(self.model.config.labels)
        devices = self.labels.index("devices") if "devices" in self.labels else None
        self.randomise = DomainRandomisation(self.args.randomisation, devices)

    def batch_loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Loss on randomised images; logs one loss per label."""
        output = model(*self.randomise(batch["pixel_values"], batch["masks"]))
        logs = {f"loss_{n}": value for n, value in zip(self.labels, output.losses, strict=True)}
        return output.loss, logs

    def evaluation_metrics(self) -> dict[str, float]:
        """Dice per label on validation images as they are and (`_randomised`) under the training's randomisation.

        `dice_<label>` is the mean over images that have the label, `false_alarm_<label>` the share of the others in
        which any of it is found; `dice` the mean of all Dice values.
        """
        metrics = mask_metrics(self._counts(lambda *batch: batch), self.labels)
        if self.args.randomisation != "none":
            changed = mask_metrics(self._counts(self.randomise), self.labels)
            metrics |= {f"{name}_randomised": value for name, value in changed.items()}
        dice = [value for name, value in metrics.items() if name.startswith("dice_")]
        return {"dice": float(np.mean(dice)) if dice else float("nan"), **metrics}

    def _counts(self, randomise: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """Pixels `(N, L, 3)` of the intersection, the prediction and the truth of the validation images."""
        counts = []
        for batch in self.eval_batches():
            pixels, masks = randomise(batch["pixel_values"], batch["masks"])
            with self.accelerator.autocast():
                found = self.model(pixels).logits > 0
            truth = masks > 0.5
            counts.append(
                torch.stack([m.flatten(2).sum(2) for m in (found & truth, found, truth)], 2).float()
            )
        return self.gather_eval(torch.cat(counts)).cpu()

    def sample_images(self) -> dict[str, np.ndarray]:
        """Rows: randomised validation images, then per label its true and its found mask."""
        batch = self.first_images(_SAMPLES)
        pixels, masks = self.randomise(batch["pixel_values"], batch["masks"])
        with self.accelerator.autocast():
            found = self.model(pixels).logits.sigmoid()
        rows = [m[:, label, None] * 2 - 1 for label in range(len(self.labels)) for m in (masks, found)]
        return {"masks": image_grid([pixels, *rows])}


def mask_metrics(counts: Tensor, labels: Sequence[str]) -> dict[str, float]:
    """Dice and false alarms per label; a measure without images is left out.

        Dice = 2 |found and true| / (|found| + |true|), mean over images where the true mask is not empty

    Args:
        counts: `(N, L, 3)` pixels of the intersection, the prediction and the truth.
        labels: L names.
    """
    metrics = {}
    for label, (both, found, true) in zip(labels, counts.permute(1, 2, 0), strict=True):
        present = true > 0
        if present.any():
            dice = 2 * both[present] / (found[present] + true[present])
            metrics[f"dice_{label}"] = float(dice.mean())
        if not present.all():
            metrics[f"false_alarm_{label}"] = float((found[~present] > 0).float().mean())
    return metrics


def main(argv: Sequence[str] | None = None) -> AnatomySegmenterModel:
    """Train from command-line arguments; returns the trained model."""
    data, args = parse_arguments(
        (DataArguments, SegmenterConfig),
        argv,
        defaults={"dataset": "phantom"},
        description="Train the segmenter of lungs, heart and devices on phantoms with domain randomisation.",
    )
    schema, _ = load_schema(data)
    train, validation, processor, info = make_datasets(data, schema, args.labels)
    set_seed(args.seed)
    config = AnatomySegmenterConfig(labels=args.labels, image_size=data.resolution, widths=args.widths)
    info |= {"randomisation": dataclasses.asdict(RANDOMISATION_PRESETS[args.randomisation])}
    model = AnatomySegmenterModel(config)
    SegmenterTrainer(model, args, train, validation, processing_class=processor, run_info=info).train()
    return model
