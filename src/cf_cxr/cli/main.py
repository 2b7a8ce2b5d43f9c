"""`cf-cxr`: the command line, its help, and how its errors are told."""

from __future__ import annotations

import argparse
import io
import sys
import traceback
import warnings
from collections.abc import Sequence

from ..attributes import UnknownAttributeError
from ..pipelines.loading import ModelFileError
from ..version import __version__
from .counterfactual import EXAMPLES, add_counterfactual_command, add_demo_command
from .explain import add_explain_command
from .files import UsageError
from .shared import DISCLAIMER

_DESCRIPTION = f"""\
Counterfactual chest X-rays: what would this radiograph look like if the patient were older, of the other sex,
had a pleural effusion, or had been taken in another view? And why does a classifier decide about it as it does?
{DISCLAIMER}"""

# Whose messages say what the user can do.
_USERS_ERRORS = (UsageError, ValueError, OSError, UnknownAttributeError, ModelFileError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cf-cxr`.

    Returns:
        0 if all went well, 1 if an image could not be used, 2 if the command cannot be carried out.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    arguments = build_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return arguments.run(arguments)
        except KeyboardInterrupt:
            print("cf-cxr: interrupted", file=sys.stderr)
            return 130
        except Exception as error:
            if arguments.debug:
                traceback.print_exc()
            known = isinstance(error, _USERS_ERRORS)
            message = f"{error}" if known else f"{type(error).__name__}: {error} (see --debug)"
            print(f"cf-cxr: error: {message}", file=sys.stderr)
            return 2


def build_parser() -> argparse.ArgumentParser:
    """The command line with its help."""
    parser = argparse.ArgumentParser(
        prog="cf-cxr",
        description=_DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cf-cxr {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (add_demo_command, add_counterfactual_command, add_explain_command):
        add(commands)
    return parser


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if not issubclass(category, (DeprecationWarning, FutureWarning, PendingDeprecationWarning)):
        print(f"cf-cxr: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
