"""Rules for the output folder: nothing is overwritten, deleted or mixed without being asked."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from accelerate import Accelerator

from . import checkpointing
from .arguments import TrainerArguments

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
MANIFEST_FILE = "run.json"
SAMPLES = "samples"
TRACKERS = "logs"
BEST_FILE = "best.safetensors"
FINAL_METRICS_FILE = "metrics.json"
_MODEL_FILES = ("model.safetensors", "config.json", "preprocessor_config.json")
PRODUCTS = (METRICS_FILE, MANIFEST_FILE, SAMPLES, TRACKERS, BEST_FILE, FINAL_METRICS_FILE, *_MODEL_FILES)


class OutputDirectoryError(FileExistsError):
    """The output folder holds an earlier run that nobody asked to overwrite or resume."""


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
