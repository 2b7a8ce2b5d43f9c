"""The folder of a training run: whose it is, what lies in it, and `run.json`."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from ...files import write_json
from . import checkpointing
from .arguments import CXRTrainingArguments

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
MANIFEST_FILE = "run.json"
SAMPLES = "samples"
BEST_FILE = "best.safetensors"
FINAL_METRICS_FILE = "metrics.json"
MODEL_FILES = (checkpointing.MODEL_FILE, "config.json", "preprocessor_config.json")
PRODUCTS = (METRICS_FILE, MANIFEST_FILE, SAMPLES, "runs", BEST_FILE, FINAL_METRICS_FILE, *MODEL_FILES)
LOCK_FILE = ".lock"
LIBRARIES = ("cf_cxr", "torch", "transformers", "accelerate", "diffusers", "datasets", "safetensors", "numpy")


class OutputDirectoryError(FileExistsError):
    """The output folder holds an earlier run that nobody asked to overwrite or resume, or another process uses it."""


@contextlib.contextmanager
def run_folder(args: CXRTrainingArguments, accelerator: Accelerator) -> Iterator[Path | None]:
    """The folder of a run, this run's alone until the block ends; gives the checkpoint to resume from, or None.

    All processes enter it and all raise; only the main one changes files.

    Raises:
        OutputDirectoryError: another process trains in it, or it holds a run that is neither to be resumed nor
            overwritten.
        CheckpointError: the checkpoint to resume from does not exist or is damaged.
    """
    lock, found = FileLock(Path(args.output_dir) / LOCK_FILE), [None, None]
    if accelerator.is_main_process:
        try:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            _lock(lock)
            found[0] = _prepare(args)
        except (OutputDirectoryError, checkpointing.CheckpointError) as error:
            found[1] = error
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    checkpoint, error = found
    try:
        if error is not None:
            raise error
        yield checkpoint
    finally:
        lock.release()


@contextlib.contextmanager
def instead_of_ending(number: int, call: Callable[[], Any]) -> Iterator[None]:
    """Within it a signal calls `call` instead of ending the process; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(number, lambda *_: call())
    try:
        yield
    finally:
        signal.signal(number, former)


def _lock(lock: FileLock) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        folder = str(Path(lock.lock_file).parent)
        raise OutputDirectoryError(
            f"Another process is training in {folder!r}. Wait for it or stop it, or use another --output_dir."
        ) from None


def _prepare(args: CXRTrainingArguments) -> Path | None:
    folder, checkpoint = Path(args.output_dir), None
    if args.resume_from_checkpoint:
        found = [Path(args.resume_from_checkpoint)]
        if args.resume_from_checkpoint == "latest":
            found = checkpointing.list_checkpoints(folder)
        checkpoint = found[-1] if found else None
        if checkpoint is None:
            logger.warning("No checkpoint in %s: starting at step 0.", folder)
        else:
            checkpointing.verify_checkpoint(checkpoint)
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
    checkpointing.remove_leftovers(folder)
    if args.overwrite_output_dir:
        for name in found:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if continues and checkpoint is not None:
        # later checkpoints belong to a course that is not taken; `latest` must not find them
        names = [path.name for path in checkpoints]
        for path in checkpoints[names.index(checkpoint.name) + 1 if checkpoint.name in names else 0 :]:
            aside = path.with_name(f"abandoned-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            logger.warning("Resuming from an older checkpoint: %s is now called %s.", path.name, aside.name)
    return checkpoint


def write_metrics(folder: str | Path, history: list[dict[str, Any]], *, anew: bool = False) -> None:
    """Append lines of a trainer's log to metrics.jsonl; `anew` replaces what is there."""
    path = Path(folder) / METRICS_FILE
    with checkpointing.writing(path), open(path, "w" if anew else "a", encoding="utf-8") as file:
        file.writelines(json.dumps(_json(line)) + "\n" for line in history)


def write_manifest(folder: str | Path, manifest: Mapping[str, Any]) -> None:
    """Write run.json."""
    write_json(Path(folder) / MANIFEST_FILE, _json(manifest))


def _json(value: Any) -> Any:
    """JSON has no NaN or infinity: they become text."""
    if isinstance(value, Mapping):
        return {name: _json(item) for name, item in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def library_versions() -> dict[str, str | None]:
    """Installed versions of the libraries that decide on a run's numbers."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_commit() -> str | None:
    """Commit of the source tree, with '+changes' if files differ from it; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def _git(folder: Path, *command: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10
    )
    return result.stdout.strip()


def describe_run(args: CXRTrainingArguments, accelerator: Accelerator, **facts: Any) -> dict[str, Any]:
    """What run.json says about a run at its start; tokens are left out."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "command": ["..." if "token" in before + word else word for before, word in zip(["", *words], words)],
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "arguments": args.to_dict(),
        "seed": args.seed,
        "git_commit": git_commit(),
        "versions": library_versions(),
        "device": str(accelerator.device),
        "num_processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        **facts,
    }
