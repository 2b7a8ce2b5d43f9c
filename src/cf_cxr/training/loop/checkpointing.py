"""Checkpoints of a training run: complete or absent, verified before use, never unpickled.

A checkpoint is a folder `checkpoint-500` with whatever its loop writes (weights as safetensors; optimiser and the like
as tensors and plain containers, read with `torch.load(weights_only=True)`) and `checksums.json`: size and SHA-256 of
every file. It is written under another name and renamed when whole, so a killed process leaves no half of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from transformers.trainer_utils import rotate_checkpoints

from ...files import flush_to_disk, sha256_of, write_json

CHECKSUMS = "checksums.json"
MODEL_FILE = "model.safetensors"
EMA_FILE = "ema.safetensors"
FORMAT_VERSION = 2
INCOMPLETE = ".incomplete-"
_NAME = re.compile(r"^checkpoint-(\d+)$")


class CheckpointError(RuntimeError):
    """A checkpoint is missing, incomplete, damaged or cannot be written; the message names the file and the remedy."""


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoint folders in `output_dir`, oldest first."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return []
    found = [(int(match.group(1)), path) for path in folder.iterdir() if (match := _NAME.match(path.name))]
    return [path for _, path in sorted(found)]


def remove_leftovers(output_dir: str | Path) -> None:
    """Delete what a killed process left under temporary names."""
    for path in Path(output_dir).glob(f"{INCOMPLETE}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def new_checkpoint(
    output_dir: str | Path, step: int, *, keep: int | None = 0, accelerator: Accelerator | None = None
) -> Iterator[Path]:
    """A folder to write the files of `checkpoint-<step>` into, which takes that name when the block ends.

    All processes enter it; the main one makes, seals and renames the folder. Then all but the `keep` newest checkpoints
    are deleted (0 or None keeps all).

    Raises:
        CheckpointError: a file cannot be written, most often because the disk is full; nothing is left of it.
    """
    final = Path(output_dir) / f"checkpoint-{step}"
    aside = final.parent / f"{INCOMPLETE}{final.name}"
    folder = aside / final.name
    main = accelerator is None or accelerator.is_main_process
    wait = contextlib.nullcontext if accelerator is None else accelerator.wait_for_everyone
    with writing(final, aside):
        if main:
            shutil.rmtree(aside, ignore_errors=True)
            folder.mkdir(parents=True)
        wait()
        yield folder
        wait()
        if main:
            _seal(folder)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(folder, final)
            aside.rmdir()
            flush_to_disk(final.parent)
            rotate_checkpoints(str(final.parent), keep)
        wait()


@contextlib.contextmanager
def writing(path: str | Path, aside: Path | None = None) -> Iterator[None]:
    """Within it, errors of writing `path` say what is wrong and what to do, and nothing is left of `aside`.

    Raises:
        CheckpointError: most often because the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if aside is not None:
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
        free = shutil.disk_usage(Path(path).parent).free / 2**20
        raise CheckpointError(
            f"{str(path)!r} could not be written: {error}. There are {free:.0f} MB free on that disk. Make room, then go "
            "on with --resume_from_checkpoint latest."
        ) from error


def _seal(folder: Path) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        flush_to_disk(path)
        name = path.relative_to(folder).as_posix()
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_json(folder / CHECKSUMS, {"format": FORMAT_VERSION, "files": files})


def verify_checkpoint(path: str | Path) -> None:
    """Check that every file of a checkpoint is whole.

    Raises:
        CheckpointError: naming the first file that is missing, cut short or changed, and what to do.
    """
    if problem := _problem(Path(path)):
        raise CheckpointError(f"{problem} {_remedy(Path(path))}")


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint; None: nothing."""
    checksums = path / CHECKSUMS
    if not path.is_dir():
        return f"Checkpoint {str(path)!r} does not exist."
    if (path / "training.pt").is_file() and not checksums.is_file():
        return (
            f"Checkpoint {str(path)!r} was written by an earlier version of this package and cannot be gone on with. "
            f"Its weights can be loaded still ({MODEL_FILE}, averaged ones in {EMA_FILE})."
        )
    if not checksums.is_file():
        return f"{str(path)!r} is no whole checkpoint: {CHECKSUMS} is missing."
    try:
        content = json.loads(checksums.read_text(encoding="utf-8"))
        expected = {name: (file["bytes"], file["sha256"]) for name, file in content["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"Checkpoint file {str(checksums)!r} is damaged ({error!r})."
    if content.get("format") != FORMAT_VERSION:
        return f"{str(path)!r} has format {content.get('format')!r}; this version reads {FORMAT_VERSION}."
    for name, (size, digest) in expected.items():
        file = path / name
        if not file.is_file():
            return f"Checkpoint file {str(file)!r} is missing."
        found = file.stat().st_size
        if found != size:
            return f"Checkpoint file {str(file)!r} has {found} bytes instead of {size}: it was cut short."
        if sha256_of(file) != digest:
            return f"Checkpoint file {str(file)!r} has changed since it was written (SHA-256 differs)."
    return None


def _remedy(path: Path) -> str:
    number = int(match.group(1)) if (match := _NAME.match(path.name)) else 0
    for older in reversed(list_checkpoints(path.parent)):
        if int(older.name.split("-")[1]) < number and _problem(older) is None:
            return f"An older checkpoint is whole: --resume_from_checkpoint {older}"
    return (
        "No older whole checkpoint lies beside it: restore it from a backup, or start again with "
        "--overwrite_output_dir and without --resume_from_checkpoint."
    )


@contextlib.contextmanager
def reading_checkpoint(path: str | Path) -> Iterator[None]:
    """Within it, errors of loading a checkpoint's files say what is wrong and what to do.

    Raises:
        CheckpointError: the files are another model's or another run's, or hold more than tensors and plain values.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"Checkpoint {str(path)!r} holds more than tensors and plain values and is refused, since loading it could "
            f"run code. {_remedy(Path(path))}"
        ) from error
    except (RuntimeError, KeyError, TypeError, ValueError, SafetensorError, OSError) as error:
        raise CheckpointError(
            f"Checkpoint {str(path)!r} does not fit the model and settings of this command: {error}\n"
            "Resume with the same stage, model, EMA and optimiser arguments; run.json in its folder has them."
        ) from error


def save_weights(model: torch.nn.Module, path: str | Path) -> None:
    """Write a model's weights and buffers to one safetensors file, atomically."""
    path = Path(path)
    temporary = path.with_name(f"{INCOMPLETE}{path.name}")
    with writing(path, temporary):
        save_model(model, str(temporary))
        flush_to_disk(temporary)
        os.replace(temporary, path)


def load_weights(model: torch.nn.Module, path: str | Path) -> None:
    """Load a model's weights and buffers, all of them, from a safetensors file.

    Raises:
        CheckpointError: the file is missing, damaged, or another model's.
    """
    with reading_checkpoint(path):
        load_model(model, str(path), strict=True)
