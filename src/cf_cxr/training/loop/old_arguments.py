"""Arguments of the loop that is being replaced."""

from __future__ import annotations

from dataclasses import dataclass

from .arguments import _choice, _option, _require

SCHEDULERS = ("constant_with_warmup", "constant", "cosine", "linear")


@dataclass
class TrainerArguments:
    """The training loop: length, optimiser, safety, checkpoints, logs."""

    _argument_group_name = "Training loop"

    output_dir: str = _option("outputs/run", "Folder for the model, checkpoints, logs and sample pictures.")
    overwrite_output_dir: bool = _option(
        False, "Delete an earlier run's files in output_dir and start anew; without it they are refused."
    )
    resume_from_checkpoint: str | None = _option(
        None, "'latest' or a checkpoint folder: go on exactly where that checkpoint stopped."
    )
    seed: int = _option(42, "Seed of initial weights, order of images, and all noise during training.")
    max_steps: int = _option(-1, "Number of optimiser steps; overrides num_epochs when positive.")
    num_epochs: float = _option(10.0, "Passes over the training split when max_steps is not given.")
    per_device_batch_size: int = _option(24, "Images per process and forward pass.")
    gradient_accumulation_steps: int = _option(
        1, "Forward passes whose gradients are averaged into one step."
    )
    learning_rate: float = _option(1e-3, "Peak learning rate of AdamW.")
    adam_beta1: float = _option(0.9, "AdamW beta 1.")
    adam_beta2: float = _option(0.9, "AdamW beta 2.")
    adam_epsilon: float = _option(1e-8, "AdamW epsilon.")
    weight_decay: float = _option(0.05, "AdamW decoupled weight decay.")
    lr_scheduler: str = _choice(
        "constant_with_warmup", SCHEDULERS, "Course of the learning rate after its warm-up."
    )
    warmup_steps: int = _option(100, "Steps over which the learning rate rises linearly from 0.")
    max_grad_norm: float = _option(100.0, "Clip the gradient to this L2 norm; 0 switches clipping off.")
    skip_threshold: float = _option(
        1000.0, "Skip a step whose gradient norm is above this (0: only steps with NaN or infinity)."
    )
    max_consecutive_skips: int = _option(
        20, "Stop with an explanation after this many skipped steps in a row."
    )
    ema_decay: float = _option(0.999, "Decay of the moving average of the weights; 0 switches it off.")
    mixed_precision: str | None = _choice(
        None, ("no", "bf16", "fp16"), "Autocast precision; without it what `accelerate launch` says."
    )
    channels_last: bool = _option(False, "Keep images and convolutions in channels-last memory layout.")
    compile: bool = _option(False, "Compile the model's forward pass with torch.compile.")
    gradient_checkpointing: bool = _option(
        False, "Recompute activations in the backward pass to save memory."
    )
    cpu: bool = _option(False, "Train on the CPU although an accelerator is present.")
    logging_steps: int = _option(50, "Write metrics every N steps.")
    eval_steps: int = _option(
        0, "Evaluate on the validation split every N steps; 0: once per epoch; -1: never."
    )
    sample_steps: int = _option(0, "Write sample pictures every N steps; 0: never.")
    save_steps: int = _option(500, "Write a checkpoint every N steps; 0: only after the last step.")
    save_total_limit: int = _option(2, "Keep this many newest checkpoints; 0 keeps all.")
    report_to: str = _choice(
        "tensorboard", ("tensorboard", "none", "all"), "Experiment trackers to report to."
    )
    disable_tqdm: bool = _option(False, "No progress bar.")

    def __post_init__(self) -> None:
        for name in ("per_device_batch_size", "gradient_accumulation_steps", "logging_steps"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a positive integer")
        for name in ("warmup_steps", "sample_steps", "save_steps", "save_total_limit"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or a positive integer")
        for name in ("max_grad_norm", "skip_threshold", "weight_decay"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or a positive number")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        _require(
            0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "a number from 0 up to, not including, 1"
        )
        _require(
            self.max_consecutive_skips >= 1, "max_consecutive_skips", self.max_consecutive_skips, "at least 1"
        )
        _require(
            self.max_steps > 0 or self.num_epochs > 0,
            "num_epochs",
            self.num_epochs,
            "a positive number of epochs",
        )
        _require(
            self.lr_scheduler in SCHEDULERS,
            "lr_scheduler",
            self.lr_scheduler,
            f"one of {', '.join(SCHEDULERS)}",
        )
        _require(
            not (self.overwrite_output_dir and self.resume_from_checkpoint),
            "overwrite_output_dir",
            True,
            "left out together with --resume_from_checkpoint: one deletes what the other needs",
        )
