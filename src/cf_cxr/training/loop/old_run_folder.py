"""What a run leaves to read: metrics.jsonl, run.json, sample pictures, trackers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import shutil
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from . import old_checkpointing as checkpointing
from .old_arguments import TrainerArguments
from .run_folder import OutputDirectoryError, git_commit, library_versions

logger = logging.getLogger(__name__)


class RunRecords:
    """Writes a run's records; does nothing on other processes than the main one."""

    def __init__(self, folder: str | Path, accelerator: Accelerator) -> None:
        self.folder, self.accelerator = Path(folder), accelerator
        self.manifest: dict[str, Any] = {}

    def start(self, manifest: Mapping[str, Any], step: int, *, trackers: bool) -> None:
        """Begin, or go on after `step`: what a killed run logged later is removed."""
        if trackers:
            if not self.accelerator.log_with and self.accelerator.is_main_process:
                logger.warning(
                    "No tracker is installed (pip install tensorboard); see metrics.jsonl instead."
                )
            self.accelerator.init_trackers(TRACKERS)
        if self.accelerator.is_main_process:
            _drop_after(self.folder / METRICS_FILE, step)
            self.manifest = dict(manifest)
            checkpointing.write_json(self.folder / MANIFEST_FILE, self.manifest)

    def metrics(self, values: Mapping[str, Any], step: int) -> None:
        """Append one line to metrics.jsonl and tell the trackers."""
        if not self.accelerator.is_main_process:
            return
        line = {"step": step, **{name: _json_number(value) for name, value in values.items()}}
        with open(self.folder / METRICS_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.accelerator.log(dict(values), step=step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Save an 8-bit grey picture (H, W) under samples/ and show it in TensorBoard."""
        folder = self.folder / SAMPLES
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"step_{step:08d}_{name}.png")
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({name: pixels[None, None]}, step=step)

    def finish(self, **facts: Any) -> None:
        """Complete run.json, close the trackers and, once all processes are here, their group."""
        if self.accelerator.is_main_process:
            self.manifest.update(facts, finished=True)
            checkpointing.write_json(self.folder / MANIFEST_FILE, self.manifest)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()


def _json_number(value: Any) -> Any:
    """JSON has no NaN or infinity: they become text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _drop_after(path: Path, step: int) -> None:
    """Keep only the lines of metrics.jsonl up to `step`."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # the last line of a killed process may be cut short
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    temporary = path.with_name(f".incomplete-{path.name}")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


METRICS_FILE = "metrics.jsonl"
MANIFEST_FILE = "run.json"
SAMPLES = "samples"
TRACKERS = "logs"
BEST_FILE = "best.safetensors"
FINAL_METRICS_FILE = "metrics.json"
_MODEL_FILES = ("model.safetensors", "config.json", "preprocessor_config.json")
PRODUCTS = (METRICS_FILE, MANIFEST_FILE, SAMPLES, TRACKERS, BEST_FILE, FINAL_METRICS_FILE, *_MODEL_FILES)


def prepare_output_dir(args: TrainerArguments, accelerator: Accelerator) -> Path | None:
    """Make the folder ready for a run; returns the checkpoint to resume from, if any.

    All processes call it and all raise; only the main one changes files.

    Raises:
        OutputDirectoryError: the folder holds a run that is neither to be resumed nor overwritten.
        CheckpointError: the checkpoint to resume from does not exist.
    """
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise OutputDirectoryError(f"--output_dir {str(folder)!r} is a file; give a folder.")
    checkpoint = None
    if args.resume_from_checkpoint:
        checkpoint = checkpointing.resolve_checkpoint(args.resume_from_checkpoint, folder)
        if checkpoint is not None and not checkpoint.is_dir():
            checkpointing.verify_checkpoint(checkpoint)  # raises: says what is missing and what there is
    checkpoints = checkpointing.list_checkpoints(folder)
    found = [name for name in PRODUCTS if (folder / name).exists()] + [path.name for path in checkpoints]
    continues = bool(args.resume_from_checkpoint) and (
        checkpoint is None or checkpoint.resolve().parent == folder.resolve()
    )
    if found and not continues and not args.overwrite_output_dir:
        raise OutputDirectoryError(
            f"{str(folder)!r} already holds a run ({', '.join(sorted(found)[:4])}). Use another --output_dir, "
            "--resume_from_checkpoint latest to go on with it, or --overwrite_output_dir to delete it."
        )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        checkpointing.remove_leftovers(folder)
        if args.overwrite_output_dir:
            for name in found:
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if continues and checkpoint is not None:
            _set_aside([path for path in checkpoints if path.name > checkpoint.name])
    accelerator.wait_for_everyone()
    return checkpoint


def _set_aside(newer: list[Path]) -> None:
    """Checkpoints after the one resumed from belong to a course that is not taken; `latest` must not find them."""
    for path in newer:
        aside = path.with_name(f"abandoned-{path.name}")
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)
        logger.warning("Resuming from an older checkpoint: %s is now called %s.", path.name, aside.name)


def describe_run(args: Any, accelerator: Any, info: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about a run as plain JSON-able values."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "arguments": dataclasses.asdict(args),
        "seed": args.seed,
        "git_commit": git_commit(),
        "versions": library_versions(),
        "device": str(accelerator.device),
        "num_processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        **info,
    }
