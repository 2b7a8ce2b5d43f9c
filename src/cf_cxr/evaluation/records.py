"""Records on disk: one safetensors file per batch, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..files import write_atomically
from ..images.grey_levels import GREY_LEVELS

IDENTITY_FILE = "identity.json"
RECORDS_VERSION = 3  # raise it when the meaning of a record changes: shards of older code are then refused


class RecordsError(ValueError):
    """The folder holds the records of another evaluation."""


class RecordStore:
    """The finished batches of one evaluation.

    Args:
        folder: made if it is not there.
        identity: everything on which a record depends, JSON-able; its hash is written into every file.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self.folder = Path(folder)
        self.identity = json.loads(json.dumps({"records_version": RECORDS_VERSION, **identity}))
        self.key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def prepare(self, overwrite: bool = False) -> None:
        """Makes the folder, after deleting what it holds with `overwrite`; else checks that it belongs to this evaluation.

        Raises:
            RecordsError: it belongs to another one; the message says what differs.
        """
        if overwrite and self.folder.exists():
            shutil.rmtree(self.folder)
        path = self.folder / IDENTITY_FILE
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(self.identity, indent=2).encode())
            return
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            there = {}
        if there.get("records_version", RECORDS_VERSION) != RECORDS_VERSION:
            differing = ["an earlier version of this package wrote them, whose records are not read any more"]
        else:
            differing = _differences(there, self.identity)
        if differing:
            raise RecordsError(
                f"{self.folder} holds the records of another evaluation: {'; '.join(differing)}. Use another "
                "--output_dir, or --overwrite_output_dir to delete them."
            )

    def path(self, batch: int) -> Path:
        """File of a batch."""
        return self.folder / f"batch-{batch:06d}.safetensors"

    def write(self, batch: int, records: Mapping[str, np.ndarray]) -> None:
        """Stores the records of a batch: name -> array."""
        arrays = {name: np.ascontiguousarray(value) for name, value in records.items()}
        metadata = {"key": self.key, "batch": str(batch), "sha256": _digest(arrays)}
        write_atomically(self.path(batch), save(arrays, metadata=metadata))

    def read(self, batch: int) -> dict[str, np.ndarray] | None:
        """The records of a batch, or None if they are not there, damaged, or of another evaluation."""
        try:
            with safe_open(self.path(batch), framework="np") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError, ValueError):
            return None
        expected = {"key": self.key, "batch": str(batch), "sha256": _digest(arrays)}
        return arrays if metadata == expected else None

    def read_all(self, batches: int) -> dict[str, np.ndarray]:
        """All records by name, rows in the order of the batches.

        Raises:
            RecordsError: a batch is missing.
        """
        parts: dict[str, list[np.ndarray]] = {}
        for batch in range(batches):
            records = self.read(batch)
            if records is None:
                raise RecordsError(
                    f"{self.path(batch)} is missing or damaged; run the same command again, it computes this batch only."
                )
            for name, value in records.items():
                parts.setdefault(name, []).append(value)
        return {name: np.concatenate(values) for name, values in parts.items()}


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, in words."""

    def show(value: Any) -> str:
        text = "nothing" if value is None else str(value)
        return text if len(text) <= 40 else f"{text[:12]}…"

    return [
        f"{name} was {show(there.get(name))} and is {show(here.get(name))}"
        for name in here | there
        if there.get(name) != here.get(name)
    ]


def to_grey(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] as 8-bit grey levels."""
    return ((images.float() + 1) * GREY_LEVELS).round().clamp(0, 255).to(torch.uint8)


def as_record(value: torch.Tensor | np.ndarray) -> np.ndarray:
    """As records are kept: uint8 and int64 as they are, all else as float32."""
    if isinstance(value, torch.Tensor):
        value = (value.float() if value.is_floating_point() else value).detach().cpu().numpy()
    return value if value.dtype in (np.uint8, np.int64) else value.astype(np.float32)
