"""Training of the anatomy segmenter on images whose masks are known, with domain randomisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor

from ...images.grey_levels import image_grid
from ...models.anatomy_segmenter import AnatomySegmenterConfig, AnatomySegmenterModel
from ..loop.arguments import DataArguments, parse_arguments
from ..loop.batches import MASK_COLUMNS, load_schema, make_masked_datasets
from ..loop.old_arguments import TrainerArguments
from ..loop.old_trainer import CXRTrainer, build_accelerator
from .domain_randomisation import RANDOMISATION_PRESETS, DomainRandomisation


@dataclass
class SegmenterArguments:
    """Architecture of the segmenter, and what is done to the images it learns from."""

    _argument_group_name = "Anatomy segmenter"

    labels: list[str] = field(
        default_factory=lambda: list(MASK_COLUMNS),
        metadata={"help": "Masks to learn, of " + ", ".join(MASK_COLUMNS) + "."},
    )
    widths: list[int] = field(
        default_factory=lambda: [16, 24, 32, 32],
        metadata={"help": "Channels per resolution; each one after the first halves it."},
    )
    layers_per_block: int = field(default=1, metadata={"help": "Residual blocks per resolution."})
    dice_weight: float = field(
        default=1.0, metadata={"help": "Weight of the soft Dice loss beside the cross-entropy."}
    )
    randomisation: str = field(
        default="strong",
        metadata={
            "help": "Domain randomisation: strong for real films, light or none for images like the training ones.",
            "choices": list(RANDOMISATION_PRESETS),
        },
    )
    keep: str = field(
        default="best",
        metadata={
            "help": "Final weights: best (highest mean Dice on validation images, as they are and randomised) or last; "
            "averaged either way if EMA is on.",
            "choices": ["best", "last"],
        },
    )
    num_sample_images: int = field(default=8, metadata={"help": "Images in the sample pictures."})


class SegmenterTrainer(CXRTrainer):
    """Minimises cross-entropy + Dice loss per label on randomised images.

    Batches have `"pixel_values"` and `"masks"` `(B, L, S, S)`, in the order of the model's labels.
    """

    greater_is_better = True

    def __init__(self, *args: Any, stage_args: SegmenterArguments, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stage_args = stage_args
        self.labels = list(self.model.config.labels)
        devices = self.labels.index("devices") if "devices" in self.labels else None
        self.randomise = DomainRandomisation(stage_args.randomisation, devices)
        self.best_metric = "dice" if stage_args.keep == "best" else None

    def compute_loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Loss on randomised images; logs one loss per label."""
        pixels, masks = self.randomise(batch["pixel_values"], batch["masks"])
        output = self.model(pixels, masks)
        logs = {f"loss_{n}": value for n, value in zip(self.labels, output.losses, strict=True)}
        return output.loss, logs

    def evaluate(self) -> dict[str, float]:
        """Dice per label on validation images as they are and (`_randomised`) under the training's randomisation.

        `dice_<label>` is the mean over images that have the label, `false_alarm_<label>` the share of the others in
        which any of it is found; `dice` the mean of all Dice values.
        """
        plain = list(self._counts(randomised=False))
        metrics = mask_metrics(self._joined(plain), self.labels)
        if self.stage_args.randomisation != "none":
            changed = mask_metrics(self._joined(list(self._counts(randomised=True))), self.labels)
            metrics |= {f"{name}_randomised": value for name, value in changed.items()}
        dice = [value for name, value in metrics.items() if name.startswith("dice_")]
        return {"dice": float(np.mean(dice)) if dice else float("nan"), **metrics}

    def _counts(self, randomised: bool) -> Iterator[Tensor]:
        """Pixels `(B, L, 3)` of the intersection, the prediction and the truth, per validation batch."""
        for batch in self.validation_batches():
            pixels, masks = batch["pixel_values"], batch["masks"]
            if randomised:
                pixels, masks = self.randomise(pixels, masks)
            with self.accelerator.autocast():
                found = self.model(pixels).logits > 0
            truth = masks > 0.5
            yield torch.stack([(m.flatten(2)).sum(2) for m in (found & truth, found, truth)], dim=2).float()

    def _joined(self, counts: Sequence[Tensor]) -> Tensor:
        return self.gather_validation(torch.cat(list(counts))).cpu()

    def sample_images(self) -> dict[str, np.ndarray]:
        """Rows: randomised validation images, then per label its true and its found mask."""
        source = self.val_dataset if self.val_dataset is not None else self.train_dataset
        count = min(self.stage_args.num_sample_images, len(source))
        batch = self.prepare_batch(self.collate_fn(source.__getitems__(list(range(count)))))
        pixels, masks = self.randomise(batch["pixel_values"], batch["masks"])
        with self.accelerator.autocast():
            found = self.model(pixels).logits.sigmoid()
        rows = [pixels]
        for label in range(len(self.labels)):
            rows += [masks[:, label, None] * 2 - 1, found[:, label, None] * 2 - 1]
        return {"masks": image_grid(rows)}


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
    """Train from command-line arguments; returns the model with its last (not averaged) weights."""
    stage, data, loop = parse_arguments(
        (SegmenterArguments, DataArguments, TrainerArguments),
        argv,
        defaults={
            "dataset": "phantom",
            "output_dir": "outputs/segmenter",
            "per_device_batch_size": 16,
            "learning_rate": 2e-3,
            "adam_beta2": 0.99,
            "weight_decay": 0.01,
            "lr_scheduler": "cosine",
            "warmup_steps": 50,
            "max_grad_norm": 5.0,
            "ema_decay": 0.99,
        },
        description="Train the segmenter of lungs, heart and devices on phantoms with domain randomisation.",
    )
    accelerator = build_accelerator(loop)
    schema, _ = load_schema(data)
    with accelerator.main_process_first():
        train, validation, processor, info = make_masked_datasets(
            data, schema, stage.labels, progress=accelerator.is_main_process
        )
    set_seed(loop.seed)
    model = AnatomySegmenterModel(
        AnatomySegmenterConfig(
            labels=stage.labels,
            image_size=data.resolution,
            widths=stage.widths,
            layers_per_block=stage.layers_per_block,
            dice_weight=stage.dice_weight,
        )
    )
    trainer = SegmenterTrainer(
        model,
        loop,
        train,
        validation,
        accelerator=accelerator,
        processor=processor,
        num_workers=data.num_workers,
        run_info={
            "stage": dataclasses.asdict(stage),
            "randomisation": dataclasses.asdict(RANDOMISATION_PRESETS[stage.randomisation]),
            **info,
        },
        stage_args=stage,
    )
    trainer.train()
    return model
