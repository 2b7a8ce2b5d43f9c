"""What a path from outside names, found out without opening it."""

import os
import stat

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
