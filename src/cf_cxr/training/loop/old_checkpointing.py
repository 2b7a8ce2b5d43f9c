"""Checkpoints of a training run: complete or absent, verified before use, never unpickled.

A checkpoint is a folder `checkpoint-00000500` with

- `model.safetensors`: raw (not averaged) weights and buffers,
- `ema.safetensors`: moving average of the trainable weights, by parameter name,
- `training.pt`: optimiser, scheduler, loss scaler and registered objects; tensors and plain containers
  only, read with `torch.load(weights_only=True)`,
- `trainer_state.json`: counters, and size and SHA-256 of the other files.

It is written under a temporary name and renamed when whole, so a killed process leaves no half of one.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model

from ...files import flush_to_disk, sha256_of, write_json
from .checkpointing import CheckpointError

STATE_FILE = "trainer_state.json"
MODEL_FILE = "model.safetensors"
EMA_FILE = "ema.safetensors"
TRAINING_FILE = "training.pt"
FORMAT_VERSION = 1
_NAME = re.compile(r"^checkpoint-(\d+)$")
_TEMPORARY = ".incomplete-"


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint written after `step` optimiser steps."""
    return f"checkpoint-{step:08d}"


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoint folders in `output_dir`, oldest first."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return []
    found = [(int(match.group(1)), path) for path in folder.iterdir() if (match := _NAME.match(path.name))]
    return [path for _, path in sorted(found)]


def remove_leftovers(output_dir: str | Path) -> None:
    """Delete what a killed process left under temporary names."""
    for path in Path(output_dir).glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def save_checkpoint(
    output_dir: str | Path,
    step: int,
    model: torch.nn.Module,
    ema: Mapping[str, torch.Tensor] | None,
    training: Mapping[str, Any],
    state: Mapping[str, Any],
    *,
    keep: int = 0,
) -> Path:
    """Write `checkpoint-<step>` atomically, then delete all but the `keep` newest (0 keeps all).

    Args:
        ema: averaged parameters by name, or None without averaging.
        training: nested dict of tensors, numbers, strings, lists (optimiser and the like).
        state: JSON-able counters.
    """
    output_dir = Path(output_dir)
    final = output_dir / checkpoint_name(step)
    folder = output_dir / f"{_TEMPORARY}{final.name}"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    save_model(model, str(folder / MODEL_FILE))
    if ema is not None:
        save_file({name: tensor.contiguous() for name, tensor in ema.items()}, str(folder / EMA_FILE))
    torch.save(dict(training), folder / TRAINING_FILE)
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in folder.iterdir()
    }
    for path in folder.iterdir():
        flush_to_disk(path)
    write_json(folder / STATE_FILE, {"format": FORMAT_VERSION, "step": step, **state, "files": files})
    if final.exists():
        _remove(final)
    os.replace(folder, final)
    flush_to_disk(output_dir)
    if keep > 0:
        for old in list_checkpoints(output_dir)[:-keep]:
            if old != final:
                _remove(old)
    return final


def _remove(path: Path) -> None:
    # Renamed first: a kill in the middle of the deletion must not leave half a checkpoint under its name.
    doomed = path.with_name(f"{_TEMPORARY}old-{path.name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    os.replace(path, doomed)
    shutil.rmtree(doomed)


def verify_checkpoint(path: str | Path) -> dict[str, Any]:
    """Check that every file of a checkpoint is whole; returns the counters of `trainer_state.json`.

    Raises:
        CheckpointError: naming the first file that is missing, cut short or changed, and what to do.
    """
    path = Path(path)
    problem, state = _examine(path)
    if problem is not None:
        raise CheckpointError(f"{problem} {_remedy(path)}")
    return state


def _examine(path: Path) -> tuple[str | None, dict[str, Any]]:
    """What is wrong with a checkpoint (None: nothing), and its state."""
    if not path.is_dir():
        return f"Checkpoint {str(path)!r} does not exist.", {}
    state_file = path / STATE_FILE
    if not state_file.is_file():
        return f"{str(path)!r} is no whole checkpoint: {STATE_FILE} is missing.", {}
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        expected = {name: (file["bytes"], file["sha256"]) for name, file in state["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"Checkpoint file {str(state_file)!r} is damaged ({error!r}).", {}
    if state.get("format") != FORMAT_VERSION:
        return f"{str(path)!r} has format {state.get('format')!r}; this version reads {FORMAT_VERSION}.", {}
    for name, (size, digest) in expected.items():
        file = path / name
        if not file.is_file():
            return f"Checkpoint file {str(file)!r} is missing.", {}
        found = file.stat().st_size
        if found != size:
            return f"Checkpoint file {str(file)!r} has {found} bytes instead of {size}: it was cut short.", {}
        if sha256_of(file) != digest:
            return f"Checkpoint file {str(file)!r} has changed since it was written (SHA-256 differs).", {}
    return None, state


def _remedy(path: Path) -> str:
    for older in reversed(list_checkpoints(path.parent)):
        if older.name < path.name and _examine(older)[0] is None:
            return f"An older checkpoint is whole: --resume_from_checkpoint {older}"
    return (
        "No older whole checkpoint lies beside it: restore it from a backup, or start again with "
        "--overwrite_output_dir and without --resume_from_checkpoint."
    )


def load_checkpoint(
    path: str | Path, model: torch.nn.Module
) -> tuple[dict[str, torch.Tensor] | None, dict[str, Any], dict[str, Any]]:
    """Verify a checkpoint and load its weights into `model`; returns (ema, training, state) as saved.

    Raises:
        CheckpointError: a file is damaged, or the weights are another model's.
    """
    path = Path(path)
    state = verify_checkpoint(path)
    try:
        load_model(model, str(path / MODEL_FILE), strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"Checkpoint {str(path)!r} does not fit the model of this command: {error}\n"
            "Resume with the same model arguments as the interrupted run (see run.json in its folder)."
        ) from error
    ema = load_file(str(path / EMA_FILE)) if (path / EMA_FILE).is_file() else None
    try:
        training = torch.load(path / TRAINING_FILE, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"Checkpoint file {str(path / TRAINING_FILE)!r} holds more than tensors and plain values and is "
            f"refused, since loading it could run code. {_remedy(path)}"
        ) from error
    return ema, training, state


def save_weights(model: torch.nn.Module, path: str | Path) -> None:
    """Write a model's weights and buffers to one safetensors file, atomically."""
    path = Path(path)
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    save_model(model, str(temporary))
    flush_to_disk(temporary)
    os.replace(temporary, path)


def load_weights(model: torch.nn.Module, path: str | Path) -> None:
    """Load what `save_weights` wrote.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        load_model(model, str(path), strict=True)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"Weights file {str(path)!r} cannot be read: {error}") from error


def resolve_checkpoint(resume: str, output_dir: str | Path) -> Path | None:
    """Turn `latest` or a path into a checkpoint folder; None if `latest` finds none."""
    if resume == "latest":
        checkpoints = list_checkpoints(output_dir)
        return checkpoints[-1] if checkpoints else None
    return Path(resume)
