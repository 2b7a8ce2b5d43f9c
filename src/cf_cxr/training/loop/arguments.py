"""Command-line and YAML arguments shared by the training scripts."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

SCHEDULERS = ("constant_with_warmup", "constant", "cosine", "linear")


def _choice(default: str | None, choices: Sequence[str], text: str) -> Any:
    return field(default=default, metadata={"help": text, "choices": list(choices)})


def _option(default: Any, text: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class DataArguments:
    """Which radiographs to train on and how they become batches."""

    _argument_group_name = "Data"

    dataset: str = _option(
        "parquet",
        "Source of the images: parquet, phantom, nih_cxr14, mimic_cxr, chexpert, padchest, folder.",
    )
    data_dir: str | None = _option(
        None, "Folder that holds the source's files as their owner publishes them."
    )
    schema: str | None = _option(
        None,
        'JSON or YAML file {"attributes": [...], "graph": {...}}; without it the default of the source.',
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
    num_workers: int = _option(0, "Processes that load batches; 0 loads in the training process.")
    max_train_samples: int | None = _option(None, "Use only the first N rows of the training split.")
    max_val_samples: int | None = _option(None, "Use only the first N rows of the validation split.")
    on_error: str = _choice(
        "raise", ("raise", "skip"), "What to do with unreadable images while preparing data."
    )
    data_seed: int = _option(42, "Seed of the split by patient and of the phantom.")

    def __post_init__(self) -> None:
        _require(self.resolution >= 8, "resolution", self.resolution, "an integer of at least 8")
        _require(self.num_workers >= 0, "num_workers", self.num_workers, "0 or a positive integer")
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


def _as_argv(config: Mapping[str, Any], parser: HfArgumentParser, source: str) -> list[str]:
    known = {action.dest for action in parser._actions}
    argv: list[str] = []
    for key, value in config.items():
        name = str(key).replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else " See --help for the names."
            raise ValueError(f"{source}: unknown argument {key!r}.{hint}")
        if value is None:
            continue
        if isinstance(value, Mapping):
            value = json.dumps(value)
        values = value if isinstance(value, list | tuple) else [value]
        argv += [f"--{name}", *(str(item) for item in values)]
    return argv


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
    if defaults:
        parser.set_defaults(**defaults)
    argv = list(sys.argv[1:] if argv is None else argv)
    path = None
    if argv and Path(argv[0]).suffix.lower() in (".yaml", ".yml", ".json") and not argv[0].startswith("-"):
        path = argv.pop(0)
    for index, word in enumerate(argv):
        if word == "--config" and index + 1 < len(argv):
            path = argv[index + 1]
        elif word.startswith("--config="):
            path = word.split("=", 1)[1]
    if path is not None:
        argv = _as_argv(read_config(path), parser, str(path)) + argv
    parsed = parser.parse_args_into_dataclasses(args=argv, look_for_args_file=False)
    return tuple(parsed[: len(dataclasses)])
