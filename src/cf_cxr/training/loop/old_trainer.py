"""One training loop for every stage, on Accelerate.

Every random number of step s is drawn after seeding with (seed, s, micro-batch, process), and the
images of step s follow from (seed, epoch, s). A run is thus a function of its arguments and its state
after the last checkpoint: killed and resumed on the same kind of CPU it ends with the same bits.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler

from . import old_checkpointing as checkpointing
from .averaging import WeightAverage
from .old_arguments import TrainerArguments
from .old_launch import start_missing_processes
from .old_run_folder import BEST_FILE, OutputDirectoryError, RunRecords, describe_run, prepare_output_dir
from .sampling import StepBatchSampler, steps_per_epoch
from .trainer import TrainingDivergedError

logger = logging.getLogger(__name__)

# Keys of the noise outside training steps, far above any micro-batch index.
_EVALUATION, _PICTURES = 1 << 20, 1 << 21


def build_accelerator(args: TrainerArguments) -> Accelerator:
    """Accelerator for these arguments; call it before loading data so that all processes know each other."""
    start_missing_processes(args.cpu)
    return Accelerator(
        cpu=args.cpu or not torch.accelerator.is_available(),
        mixed_precision=args.mixed_precision,
        log_with=None if args.report_to == "none" else args.report_to,
        project_dir=args.output_dir,
        # The main process prepares data and evaluates while the others wait, for longer than the default.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],
    )


class CXRTrainer:
    """Trains `model` on batches of a data set; a stage overrides `compute_loss` and what else it needs.

    Hooks, in the order in which a run meets them: `trainable_parameters`, `create_optimizer`, `set_mode`,
    `compute_loss`, `after_step`, `evaluate`, `sample_images`, `finalize`, `save_model`. Objects with
    `state_dict` and `load_state_dict` given to `register_for_checkpointing` are saved and restored with
    the rest. The model is never wrapped: gradients are averaged over processes after the backward pass,
    so a stage may call any of the model's methods.

    Args:
        model: moved to the device here; only parameters with `requires_grad` are trained.
        args: the loop's arguments.
        train_dataset: has `__len__` and `__getitems__(list of indices) -> batch` (dict of tensors), or
            gives rows that `collate_fn` turns into a batch.
        val_dataset: likewise, or None.
        accelerator: from `build_accelerator`; made here if not given.
        processor: image processor saved beside the final model.
        num_workers: processes that load batches; 0 loads in this one.
        run_info: JSON-able facts for `run.json` (stage arguments, data set identity).

    Raises:
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
        self.records = RunRecords(self.output_dir, self.accelerator)
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
        """AdamW on `self.parameters` with the values of the arguments."""
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
        count = torch.zeros((), device=self.device)
        for batch in self.validation_batches():
            with self.accelerator.autocast():
                loss, logs = self.compute_loss(batch)
            size = next(len(value) for value in batch.values() if torch.is_tensor(value))
            for name, value in {"loss": loss, **logs}.items():
                sums[name] = sums.get(name, 0.0) + _scalar(value, self.device) * size
            count += size
        total = self._reduce(count, "sum")
        return {name: float(self._reduce(value, "sum") / total) for name, value in sums.items()}

    def sample_images(self) -> dict[str, np.ndarray]:
        """Pictures to look at, by name: (H, W) arrays of 8-bit grey. Called on the main process only."""
        return {}

    def finalize(self) -> None:
        """Called on the main process with the final (averaged or best) weights, before they are saved."""

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

    def averaged_weights(self) -> contextlib.AbstractContextManager[None]:
        """Within it the model holds the moving average of its weights, if there is one."""
        return contextlib.nullcontext() if self.ema is None else self.ema.applied()

    def seed_noise(self, *key: int) -> None:
        """Seed Python, NumPy and torch from (seed, key): the same key gives the same noise."""
        words = np.random.SeedSequence([self.args.seed, *key]).generate_state(2)
        random.seed(int(words[0]))
        np.random.seed(words[0])
        torch.manual_seed((int(words[0]) << 31) ^ int(words[1]))

    # ------------------------------------------------------------- the run

    def train(self) -> dict[str, float]:
        """Run all steps, save the final model in `output_dir` and return its last evaluation.

        Raises:
            OutputDirectoryError: `output_dir` holds a run, and neither resuming nor overwriting was asked for.
            CheckpointError: the checkpoint to resume from is missing, damaged or another model's.
            TrainingDivergedError: more than `max_consecutive_skips` steps in a row were skipped.
        """
        checkpoint = prepare_output_dir(self.args, self.accelerator)
        self._setup()
        if checkpoint is not None:
            self._resume(checkpoint)
        elif self.args.resume_from_checkpoint and self.accelerator.is_main_process:
            logger.warning("No checkpoint in %s: starting at step 0.", self.output_dir)
        self.records.start(
            self._manifest(checkpoint), self.global_step, trackers=self.args.report_to != "none"
        )
        batches = iter(self._train_loader())
        progress = tqdm(
            total=self.max_steps,
            initial=self.global_step,
            disable=self.args.disable_tqdm or not self.accelerator.is_main_process,
            desc=type(self).__name__.removesuffix("Trainer"),
            dynamic_ncols=True,
        )
        self.set_mode(True)
        start = self.global_step
        self._clock = (time.perf_counter(), start)
        with progress:
            while self.global_step < self.max_steps:
                logs = self._step([next(batches) for _ in range(self.args.gradient_accumulation_steps)])
                progress.update()
                self._log_step(logs, progress)
                if self.global_step < self.max_steps:
                    self._between_steps()
        if self.global_step > start:
            self.save_checkpoint()
        metrics = self._evaluate()
        if self.args.sample_steps > 0:
            self._write_samples()
        self._finish(metrics)
        return metrics

    def _between_steps(self) -> None:
        args = self.args
        if self._due(args.eval_steps or self.steps_per_epoch):
            self._evaluate()
        if self._due(args.sample_steps):
            self._write_samples()
        if self._due(args.save_steps):
            self.save_checkpoint()

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.global_step % interval == 0

    def _setup(self) -> None:
        args = self.args
        if args.compile:
            self.model.compile()
        self.parameters = self.trainable_parameters()
        if not self.parameters:
            raise ValueError("The model has no parameter with requires_grad: nothing to train.")
        saved = self.model.state_dict().keys()
        self.buffers = {
            name: b for name, b in self.model.named_buffers() if name in saved and b.is_floating_point()
        }
        self.optimizer = self.create_optimizer()
        self.scheduler = get_scheduler(
            args.lr_scheduler,
            self.optimizer,
            num_warmup_steps=args.warmup_steps,
            num_training_steps=self.max_steps,
        )
        averaged = args.ema_decay > 0
        self.ema = WeightAverage(self.parameters, self.buffers, args.ema_decay) if averaged else None
        self.scaler = self.accelerator.scaler

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

    # ------------------------------------------------------------ one step

    def _step(self, batches: list[Any]) -> dict[str, float]:
        self.optimizer.zero_grad(set_to_none=True)
        buffers = [buffer.clone() for buffer in self.buffers.values()]
        logs = self._accumulate_gradients(batches)
        logs["grad_norm"] = norm = self._gradient_norm()
        logs["lr"] = self.optimizer.param_groups[0]["lr"]
        limit = self.args.skip_threshold or math.inf
        skip = not (math.isfinite(logs["loss"]) and math.isfinite(norm)) or norm > limit
        if skip:
            for buffer, before in zip(self.buffers.values(), buffers, strict=True):
                buffer.copy_(before)
        else:
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

    def _accumulate_gradients(self, batches: list[Any]) -> dict[str, float]:
        """Forward and backward of every micro-batch; returns what they log, averaged over them and processes."""
        sums: dict[str, torch.Tensor] = {}
        for micro, batch in enumerate(batches):
            self.seed_noise(self.global_step, micro, self.accelerator.process_index)
            with self.accelerator.autocast():
                loss, logs = self.compute_loss(self.prepare_batch(batch))
            loss = loss / len(batches)
            (self.scaler.scale(loss) if self.scaler is not None else loss).backward()
            for name, value in {"loss": loss * len(batches), **logs}.items():
                sums[name] = sums.get(name, 0.0) + _scalar(value, self.device) / len(batches)
        names = sorted(sums)
        means = self._reduce(torch.stack([sums[name] for name in names]), "mean").tolist()
        return dict(zip(names, means, strict=True))

    def _reduce(self, values: torch.Tensor, how: str) -> torch.Tensor:
        return self.accelerator.reduce(values, reduction=how)

    def _gradient_norm(self) -> float:
        """L2 norm of the gradients, after averaging them over processes."""
        if self.accelerator.num_processes > 1:
            for p in self.parameters.values():
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
            self._average_in_place([p.grad for p in self.parameters.values()])
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        return float(nn.utils.get_total_norm(gradients)) if gradients else 0.0

    @torch.no_grad()
    def _average_in_place(self, tensors: list[torch.Tensor]) -> None:
        flat = self._reduce(torch.cat([tensor.flatten() for tensor in tensors]), "mean")
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def _update(self, norm: float) -> None:
        if self.args.max_grad_norm > 0:
            total = torch.tensor(norm, device=self.device)
            nn.utils.clip_grads_with_norm_(self.parameters.values(), self.args.max_grad_norm, total)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
        else:
            self.optimizer.step()
        if self.buffers and self.accelerator.num_processes > 1:
            self._average_in_place(list(self.buffers.values()))
        if self.ema is not None:
            self.ema.step()

    def _count_skip(self, logs: Mapping[str, float]) -> None:
        self.skipped_steps += 1
        self.consecutive_skips += 1
        args = self.args
        if self.accelerator.is_main_process:
            numbers = f"loss {logs['loss']:.6g}, gradient norm {logs['grad_norm']:.6g}"
            logger.warning("Step %d skipped: %s.", self.global_step, numbers)
        if self.consecutive_skips <= args.max_consecutive_skips:
            return
        self.records.metrics({**logs, "skipped_total": self.skipped_steps}, self.global_step)
        saved = checkpointing.list_checkpoints(self.output_dir)
        last = f"The last checkpoint is {saved[-1]}." if saved else "No checkpoint was written yet."
        raise TrainingDivergedError(
            f"Stopped at step {self.global_step}: the last {self.consecutive_skips} steps were all skipped "
            f"(--max_consecutive_skips {args.max_consecutive_skips}), {self.skipped_steps} in the whole run. The "
            f"last one had loss {logs['loss']:.6g} and gradient norm {logs['grad_norm']:.6g}; --skip_threshold is "
            f"{args.skip_threshold:g}. {last}\n"
            "If loss or norm is nan or inf: look for NaN in the images, lower --learning_rate "
            f"(now {args.learning_rate:g}), lengthen --warmup_steps, use --mixed_precision bf16 instead of "
            "fp16. If the norm is finite but above the threshold: raise --skip_threshold, or lower "
            "--learning_rate. Then go on with --resume_from_checkpoint latest."
        )

    # --------------------------------------------------- logs and pictures

    def _log_step(self, logs: Mapping[str, float], progress: tqdm) -> None:
        if not logs["skipped"]:
            for name, value in logs.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._count += 1
        if not self._due(self.args.logging_steps) and self.global_step != self.max_steps:
            return
        now = time.perf_counter()
        since, first = self._clock
        record = {name: value / self._count for name, value in self._sums.items() if name != "skipped"}
        record["lr"] = logs["lr"]
        record["epoch"] = self.global_step / self.steps_per_epoch
        record["skipped_total"] = self.skipped_steps
        record["images_per_second"] = (self.global_step - first) * self.step_images / max(now - since, 1e-9)
        self._clock = (now, self.global_step)
        self._sums, self._count = {}, 0
        self.records.metrics(record, self.global_step)
        shown = {name: f"{record[name]:.4g}" for name in ("loss", "grad_norm") if name in record}
        progress.set_postfix(shown, refresh=False)

    def _evaluate(self) -> dict[str, float]:
        if self.val_dataset is None or self.args.eval_steps < 0:
            return {}
        started = time.perf_counter()
        self.set_mode(False)
        self.seed_noise(self.global_step, _EVALUATION, self.accelerator.process_index)
        with self.averaged_weights(), torch.no_grad():
            metrics = self.evaluate()
            self._keep_best(metrics)
        self.set_mode(True)
        metrics = {f"val_{name}": value for name, value in metrics.items()}
        self.records.metrics(metrics, self.global_step)
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
            checkpointing.save_weights(self.model, self.output_dir / BEST_FILE)
        self.accelerator.wait_for_everyone()

    def _write_samples(self) -> None:
        if not self.accelerator.is_main_process:
            return
        self.set_mode(False)
        self.seed_noise(_PICTURES)
        with self.averaged_weights(), torch.no_grad():
            for name, pixels in self.sample_images().items():
                self.records.picture(name, pixels, self.global_step)
        self.set_mode(True)

    # ----------------------------------------------- checkpoints and the end

    def save_checkpoint(self) -> None:
        """Write a checkpoint of the present step (main process; the others wait)."""
        if self.accelerator.is_main_process:
            training = {
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict() if self.scaler is not None else None,
                "ema": self.ema.settings() if self.ema is not None else None,
                "registered": {name: item.state_dict() for name, item in self._registered.items()},
            }
            state = {
                "skipped_steps": self.skipped_steps,
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
                self.ema.tensors() if self.ema is not None else None,
                training,
                state,
                keep=self.args.save_total_limit,
            )
        self.accelerator.wait_for_everyone()

    def _order(self) -> dict[str, int]:
        """What decides which images a step sees."""
        images = len(self.train_dataset)
        return {"seed": self.args.seed, "images": images, "images_per_step": self.step_images}

    def _resume(self, path: Path) -> None:
        ema, training, state = checkpointing.load_checkpoint(path, self.model)
        try:
            self.optimizer.load_state_dict(training["optimizer"])
            self.scheduler.load_state_dict(training["scheduler"])
            if self.scaler is not None and training["scaler"] is not None:
                self.scaler.load_state_dict(training["scaler"])
            if self.ema is not None:
                self.ema.load_old(ema, training["ema"])
            for name, item in self._registered.items():
                item.load_state_dict(training["registered"][name])
        except (KeyError, TypeError, ValueError) as error:
            raise checkpointing.CheckpointError(
                f"Checkpoint {str(path)!r} was written by a run with other settings ({error!r}). Resume with the "
                "same stage, model, EMA and optimiser arguments; run.json in its folder has them."
            ) from error
        self.global_step, self.skipped_steps = state["step"], state["skipped_steps"]
        self.best_value, self.best_step = state["best_value"], state["best_step"]
        self._sums, self._count = state["log_sums"], state["log_count"]
        then, now = state["order"], self._order()
        changed = [f"{name} {then.get(name)} -> {now[name]}" for name in now if then.get(name) != now[name]]
        if changed:
            logger.warning("Resumed with another order of images than before: %s.", ", ".join(changed))

    def _manifest(self, checkpoint: Path | None) -> dict[str, Any]:
        return {
            **describe_run(self.args, self.accelerator, self.run_info),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "trainable_parameters": sum(p.numel() for p in self.parameters.values()),
            "max_steps": self.max_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "resumed_from": str(checkpoint) if checkpoint else None,
            "finished": False,
        }

    def _finish(self, metrics: Mapping[str, float]) -> None:
        if self.accelerator.is_main_process:
            with self.averaged_weights():
                last = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
                if self.best_step is not None:
                    checkpointing.load_weights(self.model, self.output_dir / BEST_FILE)
                self.finalize()
                self._save_final()
                self.model.load_state_dict(last)
        self.records.finish(
            steps=self.global_step,
            skipped_steps=self.skipped_steps,
            best_step=self.best_step,
            metrics={name: str(v) if not math.isfinite(v) else v for name, v in metrics.items()},
        )

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


def _keep(rows: Any) -> Any:
    return rows


def _scalar(value: Any, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float32, device=device).detach()


__all__ = ["CXRTrainer", "OutputDirectoryError", "TrainingDivergedError", "build_accelerator"]
