"""What the scripts in `training/` do around their `main`: errors of the user in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...attributes import UnknownAttributeError
from .checkpointing import CheckpointError
from .trainer import TrainingDivergedError

_USERS_ERRORS = (ValueError, OSError, UnknownAttributeError, CheckpointError, TrainingDivergedError)


def run_script(main: Callable[[Sequence[str]], Any], argv: Sequence[str] | None = None) -> None:
    """Runs a script's `main`; an error that the user can put right is one line and exit status 2.

    Args:
        main: takes the words of the command line.
        argv: these; default: those of the process. With `--debug` among them errors keep their traceback.

    Raises:
        SystemExit: with status 2, for such an error.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        main(argv)
    except _USERS_ERRORS as error:
        if "--debug" in argv:
            raise
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


__all__ = ["run_script"]
