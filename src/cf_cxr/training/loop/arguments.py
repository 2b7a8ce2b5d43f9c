"""Command-line and YAML arguments shared by the training scripts."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, SchedulerType, TrainingArguments

from .launch import refuse_missing_processes


def _choice(default: str | None, choices: Sequence[str], text: str) -> Any:
    return _option(default, text, choices=list(choices))


def _option(default: Any, text: str, **metadata: Any) -> Any:
    """A dataclass's field with its help and, if given, `choices`."""
    metadata = {"help": text, **metadata}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class DataArguments:
    """Which radiographs to train on and how they become batches."""

    _argument_group_name = "Data"

    dataset: str = _option(
        "parquet", "Source of the images: parquet, phantom, nih_cxr14, mimic_cxr, chexpert, padchest, folder."
    )
    data_dir: str | None = _option(
        None, "Folder that holds the source's files as their owner publishes them."
    )
    schema: str | None = _option(
        None, 'JSON or YAML file {"attributes": [...], "graph": {...}}; without it the default of the source.'
    )
    resolution: int = _option(128, "Side of the square training images in pixels.")
    finding: str | None = _option(
        None, "Label set against 'No Finding', in the owner's spelling; default: pleural effusion."
    )
    num_images: int | None = _option(None, "Training images to render (phantom only; default 4000).")
    device_rate: float | None = _option(
        None,
        "Share of images with a pacemaker, and of those with a tube (phantom only; default 0.15). Others have other "
        "devices, but the same patients.",
    )
    num_proc: int | None = _option(None, "Processes that prepare images the first time.")
    cache_dir: str | None = _option(None, "Where prepared data sets are kept between runs.")
    cache_images: bool = _option(
        False, "Keep the prepared images in memory as 8-bit pixels (16 kB per 128x128 image)."
    )
    max_train_samples: int | None = _option(None, "Use only the first N rows of the training split.")
    max_val_samples: int | None = _option(None, "Use only the first N rows of the validation split.")
    on_error: str = _choice(
        "raise", ("raise", "skip"), "What to do with unreadable images while preparing data."
    )
    data_seed: int = _option(42, "Seed of the split by patient and of the phantom.")

    def __post_init__(self) -> None:
        _require(self.resolution >= 8, "resolution", self.resolution, "an integer of at least 8")
        for name in ("max_train_samples", "max_val_samples", "num_images", "num_proc"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, value, "a positive integer")
        rate = self.device_rate
        _require(rate is None or 0 <= rate <= 1, "device_rate", rate, "a probability, from 0 to 1")
        _require(
            rate is None or self.dataset == "phantom",
            "device_rate",
            rate,
            f"left out for {self.dataset!r}, whose images are there already",
        )


@dataclass
class CXRTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with this package's defaults and what its loop has besides.

    A stage's arguments are a dataclass on this one, with `_argument_group_name` and its own defaults. Making one starts
    no process group: data are prepared first, and only the trainer meets the other processes.

    Raises:
        ValueError: a value is out of range, two exclude each other, or `accelerate launch` was asked for several
            processes and started one.
    """

    output_dir: str = _option(
        "outputs/run", "Folder for the model, checkpoints, records and sample pictures."
    )
    overwrite_output_dir: bool = _option(
        False, "Delete an earlier run's files in output_dir and start anew; without it they are refused."
    )
    resume_from_checkpoint: str | None = _option(
        None, "'latest' or a checkpoint folder: go on exactly where that checkpoint stopped."
    )
    num_train_epochs: float = _option(10.0, "Passes over the training split when max_steps is not given.")
    per_device_train_batch_size: int = _option(24, "Images per process and forward pass.")
    per_device_eval_batch_size: int | None = _option(None, "The same in evaluation; default: as in training.")
    learning_rate: float = _option(1e-3, "Peak learning rate of AdamW.")
    adam_beta2: float = _option(0.9, "AdamW beta 2.")
    weight_decay: float = _option(0.05, "AdamW decoupled weight decay, of all parameters.")
    optim: str = _option("adamw_torch", "Optimiser, as transformers names them.")
    lr_scheduler_type: str = _option("constant_with_warmup", "Course of the learning rate after its warm-up.")
    warmup_steps: float = _option(100, "Steps over which the learning rate rises linearly from 0.")
    max_grad_norm: float = _option(100.0, "Clip the gradient to this L2 norm; 0 switches clipping off.")
    skip_threshold: float = _option(
        1000.0, "Skip a step whose gradient norm is above this (0: only steps with NaN or infinity)."
    )
    max_consecutive_skips: int = _option(
        20, "Stop with an explanation after this many skipped steps in a row."
    )
    ema_decay: float = _option(0.999, "Decay of the moving average of the weights; 0 switches it off.")
    channels_last: bool = _option(False, "Keep images and convolutions in channels-last memory layout.")
    activation_checkpointing: bool = _option(
        False, "Recompute activations in the backward pass to save memory."
    )
    disable_tqdm: bool = _option(False, "No progress bar.")
    logging_steps: float = _option(50, "Write metrics every N steps.")
    eval_strategy: str = _option(
        "epoch", "Evaluate on the validation split every 'epoch', every eval_steps ('steps'), or 'no'."
    )
    eval_steps: float | None = _option(None, "Evaluate every N steps (eval_strategy is then 'steps').")
    sample_steps: int = _option(0, "Write sample pictures every N steps and at the end; 0: never.")
    save_total_limit: int | None = _option(2, "Keep this many newest checkpoints; 0 keeps all.")
    hub_strategy: str = _option("end", "Only 'end': the final model is pushed, checkpoints are not.")
    ddp_timeout: int = _option(600, "Seconds after which processes give up waiting for one that is gone.")
    # not offered: what this loop does itself, or cannot do
    load_best_model_at_end: bool = field(default=False, init=False)
    auto_find_batch_size: bool = field(default=False, init=False)
    enable_jit_checkpoint: bool = field(default=False, init=False)
    remove_unused_columns: bool = field(default=False, init=False)
    dataloader_drop_last: bool = field(default=True, init=False)
    data_seed: int | None = field(default=None, init=False)  # `DataArguments.data_seed` divides the patients
    debug: str = field(default="", init=False)  # `--debug` shows tracebacks

    def __post_init__(self) -> None:
        refuse_missing_processes()
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "max_consecutive_skips"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a positive integer")
        for name in ("max_grad_norm", "skip_threshold", "weight_decay", "sample_steps"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or a positive number")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        allowed = "a number from 0 up to, not including, 1"
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, allowed)
        epochs = self.num_train_epochs
        _require(self.max_steps > 0 or epochs > 0, "num_train_epochs", epochs, "a positive number of epochs")
        schedules = [schedule.value for schedule in SchedulerType]
        known = self.lr_scheduler_type in schedules
        _require(known, "lr_scheduler_type", self.lr_scheduler_type, f"one of {', '.join(schedules)}")
        _require(self.hub_strategy == "end", "hub_strategy", self.hub_strategy, "'end'")
        both = self.overwrite_output_dir and self.resume_from_checkpoint
        wanted = "left out together with --resume_from_checkpoint: one deletes what the other needs"
        _require(not both, "overwrite_output_dir", True, wanted)
        _require(not Path(self.output_dir).is_file(), "output_dir", self.output_dir, "a folder; it is a file")
        if self.eval_steps and self.eval_strategy == "epoch":
            self.eval_strategy = "steps"
        if self.per_device_eval_batch_size is None:
            self.per_device_eval_batch_size = self.per_device_train_batch_size
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        self.data_seed = self.seed
        self._making = True
        super().__post_init__()
        self._making = False

    @property
    def device(self) -> torch.device:
        """Where this process computes; asked for the first time, it starts the process group."""
        return torch.device("cpu") if self._making else super().device

    @cached_property
    def _setup_devices(self) -> torch.device:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if self.use_cpu and several and not torch.distributed.is_initialized():
            # TrainingArguments would give processes on CPUs no time limit
            torch.distributed.init_process_group(self.ddp_backend or "gloo", timeout=self.ddp_timeout_delta)
        return TrainingArguments._setup_devices.func(self)

    def __getattr__(self, name: str) -> Any:
        if name != "distributed_state":  # which `_setup_devices` sets
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        self._setup_devices  # noqa: B018
        return self.distributed_state


def _require(ok: bool, name: str, value: Any, expected: str) -> None:
    if not ok:
        raise ValueError(f"--{name} is {value!r}, but must be {expected}.")


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a YAML or JSON file that maps argument names to values.

    Raises:
        ValueError: the file is missing, cannot be parsed, or is not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"Configuration file {str(path)!r} does not exist.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"Configuration file {str(path)!r} is not valid YAML or JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"Configuration file {str(path)!r} must map argument names to values, "
            f"got {type(content).__name__}. Write lines such as 'learning_rate: 0.001'."
        )
    return dict(content)


#: argument of the loop before transformers' -> what it is called now
RENAMED = {
    "per_device_batch_size": "per_device_train_batch_size",
    "num_epochs": "num_train_epochs",
    "lr_scheduler": "lr_scheduler_type",
    "mixed_precision": "bf16 or fp16",
    "compile": "torch_compile",
    "cpu": "use_cpu",
    "num_workers": "dataloader_num_workers",
}


def _as_argv(config: Mapping[str, Any]) -> list[str]:
    argv: list[str] = []
    for key, value in config.items():
        if value is not None:
            value = json.dumps(value) if isinstance(value, Mapping) else value
            values = value if isinstance(value, list | tuple) else [value]
            argv += [f"--{str(key).replace('-', '_')}", *(str(item) for item in values)]
    return argv


def _hint(name: str, known: Collection[str]) -> str:
    if name in RENAMED:
        return f" It is called {RENAMED[name]} now (docs/training.md)."
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else " See --help for the names."


def parse_arguments(
    dataclasses: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> tuple[Any, ...]:
    """Fill argument dataclasses from the command line and, if given, a YAML or JSON file.

    The file comes as `--config file.yaml` or as the first word (`train_hvae.py file.yaml`); what
    stands on the command line beside it wins. `defaults` replaces the dataclasses' defaults for one
    script, visible in its `--help`.

    Raises:
        ValueError: the file cannot be read or names an unknown argument, or a value is out of range.
        SystemExit: from argparse, with a usage line, for unknown flags and values of the wrong type.
    """
    parser = HfArgumentParser(list(dataclasses), description=description)
    parser.add_argument(
        "--config", default=None, metavar="FILE", help="YAML or JSON file with any of these arguments."
    )
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    for action in parser._actions:  # a stage's default replaces its base's field, but not what it means
        bases = (
            base.__dataclass_fields__ for kind in dataclasses for base in kind.__mro__ if is_dataclass(base)
        )
        helps = (known[action.dest].metadata.get("help") for known in bases if action.dest in known)
        action.help = action.help or next(filter(None, helps), None)
    if defaults:
        parser.set_defaults(**defaults)
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and Path(argv[0]).suffix.lower() in (".yaml", ".yml", ".json") and not argv[0].startswith("-"):
        argv.insert(0, "--config")
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config")
    path = files.parse_known_args(argv)[0].config
    config = {} if path is None else read_config(path)
    known = {action.dest for action in parser._actions}
    for key in config:
        if (name := str(key).replace("-", "_")) not in known:
            raise ValueError(f"{path}: unknown argument {key!r}.{_hint(name, known)}")
    for word in argv:
        if (name := word.removeprefix("--").split("=")[0]) != word and name in RENAMED.keys() - known:
            raise ValueError(f"There is no --{name}.{_hint(name, known)}")
    parsed = parser.parse_args_into_dataclasses(args=_as_argv(config) + argv, look_for_args_file=False)
    return tuple(parsed[: len(dataclasses)])
