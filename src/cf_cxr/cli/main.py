"""`cf-cxr`: the command line, its help, and how its errors are told."""

from __future__ import annotations

import argparse
import io
import sys
import traceback
import warnings
from collections.abc import Sequence

from ..version import __version__
from .counterfactual import DEMO_OUTPUT, run_counterfactual, run_demo
from .explain import add_explain_command
from .files import RECORD, UsageError, output_path
from .model import (
    DISCLAIMER,
    add_invert_option,
    add_model_options,
)

_DESCRIPTION = f"""\
Counterfactual chest X-rays: what would this radiograph look like if the patient were older, of the other sex,
had a pleural effusion, or had been taken in another view? And why does a classifier decide about it as it does?
{DISCLAIMER}"""


_EXAMPLES = """\
examples:
  cf-cxr demo
      runs on the bundled X-rays and writes outputs/cf_cxr_demo.png

  cf-cxr counterfactual chest.png --do finding=Effusion
      one counterfactual; age, sex and the rest are inferred from the image (from the header of a DICOM file)

  cf-cxr counterfactual chest.dcm --attribute age=63 --attribute sex=Male \\
      --do finding=Effusion --do sex=Female --output chest_cf.png
      states what is known, and asks two questions: one column each

  cf-cxr counterfactual chest.png --do "sex=Female,age=80"
      one intervention on two variables (so does --do sex=Female --do age=80 --joint)

  cf-cxr counterfactual *.png --do age=80 --batch-size 8 --output results/
      many images; a file that cannot be read is reported, the rest goes on

  cf-cxr explain chest.png
      why the bundled classifier sees an effusion, or none; see cf-cxr explain --help
"""


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
            message = (
                f"{error}" if _is_users_error(error) else f"{type(error).__name__}: {error} (see --debug)"
            )
            print(f"cf-cxr: error: {message}", file=sys.stderr)
            return 2


def build_parser() -> argparse.ArgumentParser:
    """The command line with its help."""
    parser = argparse.ArgumentParser(
        prog="cf-cxr",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cf-cxr {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="counterfactuals of the bundled example X-rays")
    demo.add_argument(
        "--output", type=output_path, help=f"PNG to write (default: {DEMO_OUTPUT}, or the next free name)"
    )
    add_model_options(demo)
    demo.set_defaults(run=run_demo)

    command = commands.add_parser(
        "counterfactual",
        help="counterfactuals of your own X-rays",
        description="Makes counterfactuals of frontal chest X-rays and prints what changed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG, TIFF, DICOM ..., or a URL")
    command.add_argument(
        "--attribute",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what is known about the image, e.g. age=63; the rest is what a DICOM header says, or inferred. May be "
        "repeated",
    )
    command.add_argument(
        "--do",
        action="append",
        default=[],
        metavar="NAME=VALUE[,NAME=VALUE]",
        help="the intervention. Repeated, each is a question of its own, shown in its own column",
    )
    command.add_argument("--joint", action="store_true", help="join all --do into one intervention")
    command.add_argument(
        "--output",
        type=output_path,
        metavar="PATH",
        help="a .png for one picture of everything, or a directory for one picture per image and the "
        "counterfactuals themselves (default: outputs/IMAGE_counterfactual.png, or outputs/ for several images)",
    )
    command.add_argument(
        "--json",
        type=output_path,
        metavar="PATH",
        help="the file of all numbers (default: beside --output, with the ending .json; in a directory "
        f"{RECORD})",
    )
    command.add_argument("--overwrite", action="store_true", help="replace files that exist")
    command.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="images at a time (default: 1)"
    )
    command.add_argument(
        "--num-samples", type=int, default=1, metavar="N", help="draws to average over (default: 1, the mean)"
    )
    command.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the model's image mechanism; a causal flow knows num_inference_steps=16, guidance_scale=2, "
        "guidance_scale='{finding: 2, age: 1.5}'. May be repeated",
    )
    add_model_options(command)
    add_invert_option(command)
    command.set_defaults(run=run_counterfactual)

    add_explain_command(commands)
    return parser


def _is_users_error(error: Exception) -> bool:
    """Whether the message says what the user can do."""
    from ..attributes import UnknownAttributeError
    from ..pipelines.loading import ModelFileError

    return isinstance(error, (UsageError, ValueError, OSError, UnknownAttributeError, ModelFileError))


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if not issubclass(category, (DeprecationWarning, FutureWarning, PendingDeprecationWarning)):
        print(f"cf-cxr: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
