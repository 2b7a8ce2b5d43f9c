"""Files that are whole or not there, their hashes, and what a path from outside names."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
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


def write_atomically(path: str | Path, content: bytes | str | Callable[[Path], Any]) -> None:
    """Writes a file that is either there as a whole or not at all: readers see the old one or the new one.

    Args:
        path: of the file; its folder exists.
        content: the bytes, or the text (UTF-8), or a function that writes the file at the path it is given.

    Raises:
        OSError: with the file's name, for instance of a full disk; nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".incomplete-{path.name}.{os.getpid()}")
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        flush_to_disk(temporary)
        os.replace(temporary, path)
    except OSError as error:
        # An error without a number has a message of its own, and one of another file names that.
        if error.errno is not None and error.filename in (None, temporary, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON, indented, atomically; what JSON does not know becomes text."""
    write_atomically(path, json.dumps(content, indent=2, default=str) + "\n")


def flush_to_disk(path: Path) -> None:
    """Waits until the file's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
