"""What `CXRTrainer` does at the events of `transformers.Trainer`."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from PIL import Image
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from . import checkpointing
from .run_folder import SAMPLES, write_manifest, write_metrics

logger = logging.getLogger(__name__)

_PICTURES = 1 << 21  # key of their noise, no step's


class TrainingDivergedError(RuntimeError):
    """Too many steps in a row had NaN, infinite or exploding gradients."""


class _TrainersCallback(TrainerCallback):
    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer


class StepGuard(_TrainersCallback):
    """Skips steps with NaN, infinite or exploding gradients; moves the average of the weights after the others, and stops on a signal."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.start()

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, train_dataloader: Any, **kwargs: Any
    ) -> None:
        # Trainer's own way to the sampler ends at accelerate's wrappers when several processes skip batches
        sampler = train_dataloader.batch_sampler
        while hasattr(sampler, "batch_sampler"):
            sampler = sampler.batch_sampler
        sampler.sampler.set_epoch(state.global_step // self.trainer.steps_per_epoch)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.parts = {}
        self.before = [buffer.clone() for buffer in self.trainer.buffers.values()]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        trainer.parts["stop"] = trainer._scalar(trainer.stop_asked.is_set())
        names = sorted(trainer.parts)
        values = torch.stack([trainer.parts[name] for name in names])
        if args.world_size > 1:
            values = trainer.accelerator.reduce(values, "mean")
        self.logs = dict(zip(names, values.tolist(), strict=True))
        trainer.interrupted = self.logs.pop("stop") > 0
        self.norm, limit = float(trainer.grad_norm), args.skip_threshold or math.inf
        self.skip = self.logs.pop("bad") > 0 or not math.isfinite(self.norm) or self.norm > limit
        if self.skip:
            for parameter in trainer.model.parameters():
                parameter.grad = None  # an optimiser passes over what has none
            for buffer, before in zip(trainer.buffers.values(), self.before, strict=True):
                buffer.copy_(before)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, loss = self.trainer, self.logs.pop("loss")
        if trainer.interrupted:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = False
        if self.skip:
            trainer.skipped_steps += 1
            trainer.consecutive_skips += 1
            numbers = f"loss {loss:.6g}, gradient norm {self.norm:.6g}"
            logger.warning("Step %d skipped: %s.", state.global_step, numbers)
            if trainer.consecutive_skips > args.max_consecutive_skips:
                raise TrainingDivergedError(self._explanation(args, state.global_step, numbers))
            return
        trainer.consecutive_skips = 0
        if trainer.average is not None:
            trainer.average.step()
        for name, value in self.logs.items():
            trainer.sums[name] = trainer.sums.get(name, 0.0) + value
        trainer.summed += 1
        trainer.after_step(self.logs)

    def _explanation(self, args: Any, step: int, numbers: str) -> str:
        saved = checkpointing.list_checkpoints(args.output_dir)
        last = f"The last checkpoint is {saved[-1]}." if saved else "No checkpoint was written yet."
        return (
            f"Stopped at step {step}: the last {self.trainer.consecutive_skips} steps were all skipped "
            f"(--max_consecutive_skips {args.max_consecutive_skips}), {self.trainer.skipped_steps} in the whole run. "
            f"The last one had {numbers}; --skip_threshold is {args.skip_threshold:g}. {last}\n"
            "If loss or norm is nan or inf: look for NaN in the images, lower --learning_rate "
            f"(now {args.learning_rate:g}), lengthen --warmup_steps, use --bf16 instead of --fp16. If the norm is "
            "finite but above the threshold: raise --skip_threshold, or lower --learning_rate. Then go on with "
            "--resume_from_checkpoint latest."
        )


class SamplePictures(_TrainersCallback):
    """Writes the stage's sample pictures under samples/, and into TensorBoard."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        due = args.sample_steps and (
            state.global_step % args.sample_steps == 0 or state.global_step == state.max_steps
        )
        if not due or not state.is_world_process_zero:
            return
        folder = self.trainer.output_dir / SAMPLES
        folder.mkdir(exist_ok=True)
        with self.trainer.looking(_PICTURES):
            pictures = self.trainer.sample_images()
        for name, pixels in pictures.items():
            Image.fromarray(pixels).save(folder / f"step_{state.global_step:08d}_{name}.png")
            for callback in self.trainer.callback_handler.callbacks:
                if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                    callback.tb_writer.add_image(name, pixels[None], state.global_step)


class RunRecords(_TrainersCallback):
    """Writes run.json and metrics.jsonl."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            write_manifest(args.output_dir, {**self.trainer._manifest, "max_steps": state.max_steps})
            # without what a killed run logged later
            write_metrics(args.output_dir, state.log_history, anew=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        if "train_runtime" not in logs and state.is_world_process_zero:
            write_metrics(args.output_dir, state.log_history[-1:])
