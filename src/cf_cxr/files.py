"""Files: what a path from outside names, found out without opening it; files that are whole or not there; hashes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 256 * 2**20  # of an image's file or download
DICOM_SUFFIXES = (".dcm", ".dicom")
SPECIAL = {
    "a pipe (FIFO)": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
}


def special_file(path: str | os.PathLike) -> str | None:
    """The kind of a file that must not be opened, because reading it may never end.

    Args:
        path: any path, existing or not; links are followed.

    Returns:
        "a pipe (FIFO)", "a socket" or "a device"; None for regular files, folders and what does not exist.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: a null character in the path
        return None
    return next((kind for kind, is_kind in SPECIAL.items() if is_kind(mode)), None)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that is either there as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON so that readers see the old file or the new one, never a part."""
    path = Path(path)
    temporary = path.with_name(f".incomplete-{path.name}")
    temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    flush_to_disk(temporary)
    os.replace(temporary, path)
