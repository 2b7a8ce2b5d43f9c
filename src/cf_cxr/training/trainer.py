"""One training loop for every stage, on Accelerate.

Every random number of step s is drawn after seeding with (seed, s, micro-batch, process), and the
images of step s follow from (seed, epoch, s). A run is thus a function of its arguments and its state
after the last checkpoint: killed and resumed on the same kind of CPU it ends with the same bits.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler

from . import checkpointing
from .arguments import TrainerArguments
from .launch import start_missing_processes
from .manifest import describe_run
from .sampling import StepBatchSampler, steps_per_epoch

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
MANIFEST_FILE = "run.json"


class OutputDirectoryError(FileExistsError):
    """The output folder holds an earlier run that nobody asked to overwrite or resume."""


class TrainingDivergedError(RuntimeError):
    """Too many steps in a row had NaN, infinite or exploding gradients."""


def build_accelerator(args: TrainerArguments) -> Accelerator:
    """Accelerator for these arguments; call it before loading data so that all processes know each other."""
    start_missing_processes(args.cpu)
    return Accelerator(
        cpu=args.cpu,
        mixed_precision=args.mixed_precision,
        log_with=None if args.report_to == "none" else args.report_to,
        project_dir=args.output_dir,
    )


def _keep(rows: Any) -> Any:
    return rows


class CXRTrainer:
    """Trains `model` on batches of a data set; a stage overrides `compute_loss` and what else it needs.

    Hooks, in the order in which a run meets them: `create_optimizer`, `set_mode`, `compute_loss`,
    `after_step`, `evaluate`, `sample_images`, `save_model`. Objects with `state_dict` and
    `load_state_dict` given to `register_for_checkpointing` are saved and restored with the rest. The
    model is never wrapped: gradients are averaged over processes after the backward pass, so a stage
    may call any of the model's methods.

    Args:
        model: moved to the device here; only parameters with `requires_grad` are trained.
        args: the loop's arguments.
        train_dataset: has `__len__` and `__getitems__(list of indices) -> batch` (dict of tensors), or
            gives rows that `collate_fn` turns into a batch.
        val_dataset: likewise, or None.
        accelerator: from `build_accelerator`; made here if not given.
        processor: image processor saved beside the final model.
        run_info: JSON-able facts for `run.json` (stage arguments, data set identity).

    Raises:
        OutputDirectoryError: `output_dir` holds a run, and neither resuming nor overwriting was asked for.
        ValueError: the training set is smaller than one step's images.
    """

    #: name in evaluate()'s result that decides on the best weights (None: keep the last), and its direction
    best_metric: str | None = None
    greater_is_better = False

    def __init__(
        self,
        model: nn.Module,
        args: TrainerArguments,
        train_dataset: Any,
        val_dataset: Any = None,
        *,
        accelerator: Accelerator | None = None,
        collate_fn: Any = None,
        processor: Any = None,
        num_workers: int = 0,
        run_info: Mapping[str, Any] | None = None,
    ) -> None:
        self.args = args
        self.accelerator = accelerator or build_accelerator(args)
        self.device = self.accelerator.device
        self.train_dataset, self.val_dataset = train_dataset, val_dataset
        self.collate_fn = collate_fn or _keep
        self.processor, self.num_workers = processor, num_workers
        self.run_info = dict(run_info or {})
        self.output_dir = Path(args.output_dir)
        self.model = model.to(self.device)
        if args.channels_last:
            self.model.to(memory_format=torch.channels_last)
        if args.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self._synchronise_initial_weights()
        self.step_images = (
            args.per_device_batch_size * args.gradient_accumulation_steps * self.accelerator.num_processes
        )
        self.steps_per_epoch = steps_per_epoch(len(train_dataset), self.step_images)
        self.max_steps = (
            args.max_steps if args.max_steps > 0 else math.ceil(args.num_epochs * self.steps_per_epoch)
        )
        self.global_step = 0
        self.skipped_steps = 0
        self.consecutive_skips = 0
        self.best_value: float | None = None
        self.best_step: int | None = None
        self._sums: dict[str, float] = {}
        self._count = 0
        self._registered: dict[str, Any] = {}
        self._on_weights = "raw"

    # ---------------------------------------------------------------- hooks

    def compute_loss(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Loss of one micro-batch (scalar, with gradient) and values to log (scalars)."""
        output = self.model(**batch)
        return output.loss, {}

    def after_step(self, logs: Mapping[str, float]) -> None:
        """Called after every step that was not skipped, with its logs averaged over processes."""

    def set_mode(self, training: bool) -> None:
        """Put modules into training or evaluation mode; override to keep frozen modules in the latter."""
        self.model.train(training)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that are optimised and averaged, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def create_optimizer(self) -> torch.optim.Optimizer:
        """AdamW on the trainable parameters with the values of the arguments."""
        args = self.args
        return torch.optim.AdamW(
            self.parameters.values(),
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
        )

    def evaluate(self) -> dict[str, float]:
        """Metrics on the validation split; the base class averages `compute_loss` over its images."""
        sums: dict[str, torch.Tensor] = {}
        count = torch.zeros((), device=self.device, dtype=torch.float64)
        for batch in self.validation_batches():
            with self.accelerator.autocast():
                loss, logs = self.compute_loss(batch)
            size = _batch_size(batch)
            for name, value in {"loss": loss, **logs}.items():
                value = torch.as_tensor(value, dtype=torch.float64, device=self.device).detach()
                sums[name] = sums.get(name, 0.0) + value * size
            count += size
        total = self.accelerator.reduce(count, reduction="sum")
        return {
            name: float(self.accelerator.reduce(value, reduction="sum") / total)
            for name, value in sums.items()
        }

    def sample_images(self) -> dict[str, np.ndarray]:
        """Pictures to look at, by name: (H, W) arrays of 8-bit grey. Called on the main process only."""
        return {}

    def save_model(self, folder: str | Path) -> None:
        """Save what training produced, as users load it."""
        self.model.save_pretrained(folder)

    # ------------------------------------------------------- for the hooks

    def register_for_checkpointing(self, name: str, item: Any) -> None:
        """Save and restore `item` (has `state_dict`, `load_state_dict`; tensors and plain values) as `name`."""
        if not hasattr(item, "state_dict") or not hasattr(item, "load_state_dict"):
            raise TypeError(
                f"{name!r} of type {type(item).__name__} cannot be checkpointed: it needs state_dict() and "
                "load_state_dict()."
            )
        self._registered[name] = item

    def prepare_batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Move a batch to the device, images in the chosen memory layout."""
        moved = {}
        for name, value in batch.items():
            if torch.is_tensor(value):
                value = value.to(self.device, non_blocking=True)
                if self.args.channels_last and value.ndim == 4:
                    value = value.contiguous(memory_format=torch.channels_last)
            moved[name] = value
        return moved

    def validation_batches(self, *, whole: bool = False) -> Iterator[dict[str, Any]]:
        """This process's share (every num_processes-th image) of the validation split, or the `whole`, in order."""
        size, world = self.args.per_device_batch_size, self.accelerator.num_processes
        share = slice(None) if whole else slice(self.accelerator.process_index, None, world)
        indices = list(range(len(self.val_dataset)))[share]
        chunks = [indices[i : i + size] for i in range(0, len(indices), size)]
        loader = DataLoader(
            self.val_dataset, batch_sampler=chunks, collate_fn=self.collate_fn, num_workers=self.num_workers
        )
        for batch in loader:
            yield self.prepare_batch(batch)

    def gather_validation(self, values: torch.Tensor) -> torch.Tensor:
        """Join what every process computed for its share of the validation split, in the split's order.

        Args:
            values: (rows of this process, ...) in the order of `validation_batches`.
        """
        world = self.accelerator.num_processes
        if world == 1:
            return values
        rows = math.ceil(len(self.val_dataset) / world)
        if len(values) < rows:
            values = torch.cat([values, values.new_zeros((rows - len(values), *values.shape[1:]))])
        gathered = self.accelerator.gather(values.contiguous()).unflatten(0, (world, rows))
        return gathered.transpose(0, 1).flatten(0, 1)[: len(self.val_dataset)]

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within it the model holds the moving average of its weights (if there is one)."""
        if self.ema is None or self._on_weights == "ema":
            yield
            return
        parameters = list(self.parameters.values())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        self._on_weights = "ema"
        try:
            yield
        finally:
            self.ema.restore(parameters)
            self._on_weights = "raw"

    # ------------------------------------------------------------- the run

    def train(self) -> dict[str, float]:
        """Run all steps, save the final model in `output_dir` and return its last evaluation.

        Raises:
            TrainingDivergedError: more than `max_consecutive_skips` steps in a row were skipped.
            CheckpointError: the checkpoint to resume from is damaged.
        """
        checkpoint = self._prepare_output_dir()
        self._setup()
        if checkpoint is not None:
            self._resume(checkpoint)
        self._start_records(checkpoint)
        metrics: dict[str, float] = {}
        batches = iter(self._train_loader())
        progress = tqdm(
            total=self.max_steps,
            initial=self.global_step,
            disable=self.args.disable_tqdm or not self.accelerator.is_main_process,
            desc=type(self).__name__.removesuffix("Trainer"),
            dynamic_ncols=True,
        )
        self.set_mode(True)
        self._clock = (time.perf_counter(), self.global_step)
        while self.global_step < self.max_steps:
            logs = self._step([next(batches) for _ in range(self.args.gradient_accumulation_steps)])
            progress.update()
            self._log_step(logs, progress)
            if self._due(self.args.eval_steps or self.steps_per_epoch) and self.global_step < self.max_steps:
                metrics = self._evaluate()
            if self._due(self.args.sample_steps):
                self._write_samples()
            if self._due(self.args.save_steps) or self.global_step == self.max_steps:
                self.save_checkpoint()
        progress.close()
        if self.val_dataset is not None and self.args.eval_steps >= 0:
            metrics = self._evaluate()
        if self.args.sample_steps > 0:
            self._write_samples()
        self._finish(metrics)
        return metrics

    def _setup(self) -> None:
        args = self.args
        if args.compile:
            self.model.compile()
        self.parameters = self.trainable_parameters()
        if not self.parameters:
            raise ValueError("The model has no parameter with requires_grad: nothing to train.")
        self.optimizer = self.create_optimizer()
        self.scheduler = get_scheduler(
            args.lr_scheduler,
            self.optimizer,
            num_warmup_steps=args.warmup_steps,
            num_training_steps=self.max_steps,
        )
        self.ema = (
            EMAModel(self.parameters.values(), decay=args.ema_decay, foreach=True)
            if args.ema_decay > 0
            else None
        )
        self.scaler = self.accelerator.scaler

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.global_step % interval == 0

    def _synchronise_initial_weights(self) -> None:
        if self.accelerator.num_processes > 1:
            with torch.no_grad():
                for tensor in [*self.model.parameters(), *self.model.buffers()]:
                    tensor.copy_(broadcast(tensor.detach().clone()))

    def _train_loader(self) -> DataLoader:
        sampler = StepBatchSampler(
            len(self.train_dataset),
            self.args.per_device_batch_size,
            accumulation=self.args.gradient_accumulation_steps,
            num_processes=self.accelerator.num_processes,
            process_index=self.accelerator.process_index,
            seed=self.args.seed,
            start_step=self.global_step,
            max_steps=self.max_steps,
        )
        return DataLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self.collate_fn,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def seed_noise(self, *key: int) -> None:
        """Seed Python, NumPy and torch from (seed, key): the same key gives the same noise."""
        words = np.random.SeedSequence([self.args.seed, *key]).generate_state(2)
        random.seed(int(words[0]))
        np.random.seed(words[0])
        torch.manual_seed((int(words[0]) << 31) ^ int(words[1]))

    def _step(self, batches: list[Any]) -> dict[str, float]:
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}
        for micro, batch in enumerate(batches):
            self.seed_noise(self.global_step, micro, self.accelerator.process_index)
            with self.accelerator.autocast():
                loss, logs = self.compute_loss(self.prepare_batch(batch))
            self._backward(loss / len(batches))
            for name, value in {"loss": loss, **logs}.items():
                value = torch.as_tensor(value, dtype=torch.float32, device=self.device).detach()
                sums[name] = sums.get(name, 0.0) + value / len(batches)
        names = list(sums)
        means = self._average_over_processes(torch.stack([sums[name] for name in names]))
        logs = dict(zip(names, means.tolist(), strict=True))
        logs["grad_norm"] = norm = self._gradient_norm()
        logs["lr"] = self.optimizer.param_groups[0]["lr"]
        limit = self.args.skip_threshold or math.inf
        skip = not (math.isfinite(logs["loss"]) and math.isfinite(norm)) or norm > limit
        if not skip:
            self._update(norm)
        if self.scaler is not None:
            self.scaler.update()
        self.scheduler.step()
        self.global_step += 1
        if skip:
            self._count_skip(logs)
        else:
            self.consecutive_skips = 0
            self.after_step(logs)
        return {**logs, "skipped": float(skip)}

    def _backward(self, loss: torch.Tensor) -> None:
        (self.scaler.scale(loss) if self.scaler is not None else loss).backward()

    def _average_over_processes(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(values, reduction="mean")

    def _gradient_norm(self) -> float:
        if self.accelerator.num_processes > 1:
            for p in self.parameters.values():
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
            gradients = [p.grad for p in self.parameters.values()]
            flat = self._average_over_processes(torch.cat([g.flatten() for g in gradients]))
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        return float(nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def _update(self, norm: float) -> None:
        clip = self.args.max_grad_norm
        if clip > 0:
            total = torch.tensor(norm, device=self.device)
            nn.utils.clip_grads_with_norm_(self.parameters.values(), clip, total)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
        else:
            self.optimizer.step()
        if self.ema is not None:
            self.ema.step(self.parameters.values())

    def _count_skip(self, logs: Mapping[str, float]) -> None:
        self.skipped_steps += 1
        self.consecutive_skips += 1
        limit = self.args.max_consecutive_skips
        logger.warning(
            "Step %d skipped: loss %.6g, gradient norm %.6g (threshold %g).",
            self.global_step, logs["loss"], logs["grad_norm"], self.args.skip_threshold,
        )  # fmt: skip
        if self.consecutive_skips <= limit:
            return
        self._write_record({"step": self.global_step, **logs, "skipped_total": self.skipped_steps})
        saved = checkpointing.list_checkpoints(self.output_dir)
        last = f"The last checkpoint is {saved[-1]}." if saved else "No checkpoint was written yet."
        raise TrainingDivergedError(
            f"Stopped at step {self.global_step}: the last {self.consecutive_skips} steps were all skipped "
            f"(--max_consecutive_skips {limit}), {self.skipped_steps} in the whole run. The last one had loss "
            f"{logs['loss']:.6g} and gradient norm {logs['grad_norm']:.6g}; --skip_threshold is "
            f"{self.args.skip_threshold:g}. {last}\n"
            "If loss or norm is nan or inf: look for NaN in the images, lower --learning_rate "
            f"(now {self.args.learning_rate:g}), lengthen --warmup_steps, use --mixed_precision bf16 instead of "
            "fp16. If the norm is finite but above the threshold: raise --skip_threshold, or lower "
            "--learning_rate. Then go on with --resume_from_checkpoint latest."
        )

    # --------------------------------------------------- logs and pictures

    def _log_step(self, logs: Mapping[str, float], progress: tqdm) -> None:
        if logs["skipped"] == 0:
            for name, value in logs.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._count += 1
        if not self._due(self.args.logging_steps) and self.global_step != self.max_steps:
            return
        now = time.perf_counter()
        since, first = self._clock
        record = {name: value / self._count for name, value in self._sums.items()}
        record.pop("skipped", None)
        record["lr"] = logs["lr"]
        record["skipped_total"] = self.skipped_steps
        record["images_per_second"] = (self.global_step - first) * self.step_images / max(now - since, 1e-9)
        self._clock = (now, self.global_step)
        self._sums, self._count = {}, 0
        self._write_record(
            {"step": self.global_step, "epoch": self.global_step / self.steps_per_epoch, **record}
        )
        shown = {name: f"{record[name]:.4g}" for name in ("loss", "grad_norm") if name in record}
        progress.set_postfix(shown, refresh=False)

    def _write_record(self, record: Mapping[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        rounded = {name: _finite(value) for name, value in record.items()}
        with open(self.output_dir / METRICS_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and k != "step"}
        self.accelerator.log(numbers, step=self.global_step)

    def _evaluate(self) -> dict[str, float]:
        if self.val_dataset is None or self.args.eval_steps < 0:
            return {}
        started = time.perf_counter()
        self.set_mode(False)
        self.seed_noise(self.global_step, 1 << 20, self.accelerator.process_index)
        with self.averaged_weights(), torch.no_grad():
            metrics = self.evaluate()
            self._keep_best(metrics)
        self.set_mode(True)
        metrics = {f"val_{name}": value for name, value in metrics.items()}
        self._write_record({"step": self.global_step, **metrics})
        if self.accelerator.is_main_process:
            text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            tqdm.write(f"step {self.global_step}: {text}")
        paused, first = self._clock
        self._clock = (paused + time.perf_counter() - started, first)
        return metrics

    def _keep_best(self, metrics: Mapping[str, float]) -> None:
        value = metrics.get(self.best_metric) if self.best_metric else None
        if value is None or not math.isfinite(value):
            return
        sign = 1 if self.greater_is_better else -1
        if self.best_value is not None and sign * value <= sign * self.best_value:
            return
        self.best_value, self.best_step = value, self.global_step
        if self.accelerator.is_main_process:
            checkpointing.save_weights(self.model, self.output_dir / "best.safetensors")
        self.accelerator.wait_for_everyone()

    def _write_samples(self) -> None:
        if not self.accelerator.is_main_process:
            return
        self.set_mode(False)
        self.seed_noise(1 << 21)
        with self.averaged_weights(), torch.no_grad():
            pictures = self.sample_images()
        self.set_mode(True)
        folder = self.output_dir / "samples"
        folder.mkdir(exist_ok=True)
        for name, picture in pictures.items():
            Image.fromarray(picture).save(folder / f"step_{self.global_step:08d}_{name}.png")
            for tracker in self.accelerator.trackers:
                if tracker.name == "tensorboard":
                    tracker.log_images({name: picture[None, None]}, step=self.global_step)

    # ------------------------------------------------ output and resuming

    def _prepare_output_dir(self) -> Path | None:
        args = self.args
        checkpoint = None
        if args.resume_from_checkpoint:
            checkpoint = checkpointing.resolve_checkpoint(args.resume_from_checkpoint, self.output_dir)
        if self.accelerator.is_main_process:
            mine = [name for name in self._products() if (self.output_dir / name).exists()]
            mine += [path.name for path in checkpointing.list_checkpoints(self.output_dir)]
            if mine and not args.resume_from_checkpoint:
                if not args.overwrite_output_dir:
                    raise OutputDirectoryError(
                        f"{str(self.output_dir)!r} already holds a run ({', '.join(sorted(mine)[:4])}). Use another "
                        "--output_dir, --resume_from_checkpoint latest to go on, or --overwrite_output_dir to "
                        "delete it."
                    )
                for name in mine:
                    path = self.output_dir / name
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.output_dir.mkdir(parents=True, exist_ok=True)
            checkpointing.remove_leftovers(self.output_dir)
        self.accelerator.wait_for_everyone()
        return checkpoint

    def _products(self) -> tuple[str, ...]:
        return (
            METRICS_FILE, MANIFEST_FILE, "samples", "logs", "best.safetensors",
            "model.safetensors", "config.json", "preprocessor_config.json", "metrics.json",
        )  # fmt: skip

    def save_checkpoint(self) -> None:
        """Write a checkpoint of the present step (main process; the others wait)."""
        if self.accelerator.is_main_process:
            ema, averaging = None, None
            if self.ema is not None:
                averaging = self.ema.state_dict()
                ema = dict(zip(self.parameters, averaging.pop("shadow_params"), strict=True))
            training = {
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict() if self.scaler is not None else None,
                "ema": averaging,
                "registered": {name: item.state_dict() for name, item in self._registered.items()},
            }
            state = {
                "skipped_steps": self.skipped_steps,
                "consecutive_skips": self.consecutive_skips,
                "best_value": self.best_value,
                "best_step": self.best_step,
                "log_sums": self._sums,
                "log_count": self._count,
                "order": self._order(),
            }
            checkpointing.save_checkpoint(
                self.output_dir,
                self.global_step,
                self.model,
                ema,
                training,
                state,
                keep=self.args.save_total_limit,
            )
        self.accelerator.wait_for_everyone()

    def _order(self) -> dict[str, int]:
        """What decides which images a step sees."""
        return {
            "seed": self.args.seed,
            "images": len(self.train_dataset),
            "images_per_step": self.step_images,
        }

    def _resume(self, path: Path) -> None:
        ema, training, state = checkpointing.load_checkpoint(path, self.model)
        try:
            self.optimizer.load_state_dict(training["optimizer"])
            self.scheduler.load_state_dict(training["scheduler"])
            if self.scaler is not None and training["scaler"] is not None:
                self.scaler.load_state_dict(training["scaler"])
            if self.ema is not None:
                shadow = [ema[name].to(self.device) for name in self.parameters]
                self.ema.load_state_dict({**training["ema"], "shadow_params": shadow})
            for name, item in self._registered.items():
                item.load_state_dict(training["registered"][name])
        except (KeyError, TypeError, ValueError) as error:
            raise checkpointing.CheckpointError(
                f"Checkpoint {str(path)!r} was written by a run with other settings ({error!r}). Resume with the "
                "same stage, model, EMA and optimiser arguments; run.json in its folder has them."
            ) from error
        self.global_step = state["step"]
        self.skipped_steps, self.consecutive_skips = state["skipped_steps"], 0
        self.best_value, self.best_step = state["best_value"], state["best_step"]
        self._sums, self._count = state["log_sums"], state["log_count"]
        changed = [
            f"{k}: {state['order'].get(k)} -> {v}"
            for k, v in self._order().items()
            if state["order"].get(k) != v
        ]
        if changed:
            logger.warning("Resumed with another order of images than before (%s).", ", ".join(changed))

    def _start_records(self, checkpoint: Path | None) -> None:
        if self.args.report_to != "none":
            self.accelerator.init_trackers("logs")
        if not self.accelerator.is_main_process:
            return
        if self.args.resume_from_checkpoint:
            if checkpoint is None:
                logger.warning("No checkpoint in %s: starting at step 0.", self.output_dir)
            _drop_records_after(self.output_dir / METRICS_FILE, self.global_step)
        manifest = describe_run(self.args, self.accelerator, self.run_info)
        manifest.update(
            parameters=sum(p.numel() for p in self.model.parameters()),
            trainable_parameters=sum(p.numel() for p in self.parameters.values()),
            max_steps=self.max_steps,
            steps_per_epoch=self.steps_per_epoch,
            resumed_from=str(checkpoint) if checkpoint else None,
            finished=False,
        )
        self._manifest = manifest
        checkpointing.write_json(self.output_dir / MANIFEST_FILE, manifest)

    def _finish(self, metrics: Mapping[str, float]) -> None:
        if self.accelerator.is_main_process:
            with self.averaged_weights():
                if self.best_step is not None:
                    raw = {name: p.detach().clone() for name, p in self.model.state_dict().items()}
                    checkpointing.load_weights(self.model, self.output_dir / "best.safetensors")
                self.finalize()
                self._save_final()
                if self.best_step is not None:
                    self.model.load_state_dict(raw)
            self._manifest.update(finished=True, steps=self.global_step, skipped_steps=self.skipped_steps)
            self._manifest.update(
                best_step=self.best_step, metrics={k: _finite(v) for k, v in metrics.items()}
            )
            checkpointing.write_json(self.output_dir / MANIFEST_FILE, self._manifest)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def finalize(self) -> None:
        """Called on the main process with the final (averaged or best) weights, before they are saved."""

    def _save_final(self) -> None:
        folder = self.output_dir / ".incomplete-final"
        if folder.exists():
            shutil.rmtree(folder)
        self.save_model(folder)
        if self.processor is not None:
            self.processor.save_pretrained(folder)
        for path in folder.iterdir():
            os.replace(path, self.output_dir / path.name)
        folder.rmdir()


def _batch_size(batch: Mapping[str, Any]) -> int:
    return next(len(value) for value in batch.values() if torch.is_tensor(value))


def _finite(value: Any) -> Any:
    """JSON has no NaN: write it as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _drop_records_after(path: Path, step: int) -> None:
    """Remove what a killed run logged after the checkpoint from which it goes on."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # the last line of a killed process may be cut short
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    temporary = path.with_name(".incomplete-" + path.name)
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


__all__ = ["CXRTrainer", "OutputDirectoryError", "TrainingDivergedError", "build_accelerator", "set_seed"]
