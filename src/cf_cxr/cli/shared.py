"""What the `cf-cxr` commands share: options, the pipeline that they ask for, and the record of what became of every image."""

from __future__ import annotations

import argparse
import json
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import pipeline
from transformers.utils import logging

from ..black_box.fingerprints import state_digest
from ..models.complete_loading import load_config
from ..version import __version__
from ..visualization.drawing import printable
from .files import UsageError, output_path, write_whole

DISCLAIMER = "For research only: not for diagnosis or any clinical use."
INVERT = {"no": False, "yes": True, "auto": "auto"}


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], **texts: str
) -> argparse.ArgumentParser:
    """A command with --model, --device, --dtype, --seed and --debug."""
    parser = commands.add_parser(name, formatter_class=argparse.RawDescriptionHelpFormatter, **texts)
    parser.add_argument("--model", help="folder or Hub name of the model (default: the bundled one)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps ... (default: the best available)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="precision of the model")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="makes random draws repeatable (default: 0)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run)
    return parser


def add_image_options(parser: argparse.ArgumentParser, attribute: str, output: str, **options: Any) -> None:
    """IMAGE, --attribute, --output, --overwrite, --batch-size and --invert.

    Args:
        parser: of a command on the user's own images.
        attribute, output: help texts.
        options: others of --output.
    """
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG, TIFF, DICOM ..., or a URL")
    parser.add_argument("--attribute", action="append", default=[], metavar="NAME=VALUE", help=attribute)
    parser.add_argument("--output", type=output_path, help=output, **options)
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="images at a time (default: 1)"
    )
    parser.add_argument(
        "--invert",
        choices=INVERT,
        default="no",
        help="exchange black and white: of every image, or (auto) of those that look inverted (default: no, only warn)",
    )


def call_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of a pipeline's call that `add_command` and `add_image_options` ask for."""
    return {
        "attributes": parse_assignments(arguments.attribute, "--attribute") or None,
        "seed": arguments.seed,
        "batch_size": min(arguments.batch_size, len(arguments.images)),
        "on_error": "report",
        "invert": INVERT[arguments.invert],
    }


def load_pipeline(arguments: argparse.Namespace, task: str, default_model: Path) -> Any:
    """The pipeline of a task that the options ask for, without progress bars.

    Raises:
        UsageError: no such device, a model of another kind, a configuration that cannot be, or no bundled model.
        FileNotFoundError: there is no such folder.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.device is not None:
        check_device(arguments.device)
    if arguments.model is not None:
        load_config(arguments.model, UsageError)  # says what is wrong with it in words
    elif not default_model.is_dir():
        raise UsageError(
            f"the bundled model is missing at {default_model}; install cf_cxr again, or give --model."
        )
    model, dtype = arguments.model or str(default_model), arguments.dtype or "auto"
    try:
        return pipeline(task, model=model, device=arguments.device, dtype=dtype)
    except TypeError as error:  # a model of another kind
        raise UsageError(str(error)) from error


def check_device(name: str) -> None:
    """Makes sure that numbers can be put on a device and read back.

    Raises:
        UsageError: otherwise.
    """
    try:
        torch.zeros(1, device=torch.device(name)).cpu()
    except Exception as error:  # every backend has its own
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise UsageError(f"--device {name} cannot be used here ({reason}); use --device cpu.") from error


def parse_assignments(texts: Sequence[str], option: str) -> dict[str, str]:
    """`["sex=Female,age=80"]` to `{"sex": "Female", "age": "80"}`; a comma inside a value stays in it.

    Raises:
        UsageError: a part that is not NAME=VALUE, or a name given twice.
    """
    values: dict[str, str] = {}
    for text in texts:
        for part in re.split(r",(?=[^,=]+=)", text):
            name, equals, value = part.partition("=")
            name, value = name.strip(), value.strip()
            if not (name and equals and value):
                raise UsageError(f"{option} {text!r}: write NAME=VALUE, for example {option} age=63.")
            if name in values:
                raise UsageError(f"{option}: {name} is given twice, as {values[name]!r} and {value!r}.")
            values[name] = value
    return values


@dataclass
class Record:
    """The record of a run, written when its `with` block ends, also by an exception, if any image could be used.

    Attributes:
        path: of the JSON file.
        arguments: of the command.
        header: what holds for all images.
        key: name of the list of images in the file.
    """

    path: Path
    arguments: argparse.Namespace
    header: Mapping[str, Any]
    key: str
    entries: list[dict[str, Any]] = field(default_factory=list)

    def add(self, image: str, output: Any, work: Callable[[], Mapping[str, Any]]) -> None:
        """Does the work on one image, prints an error if it fails, and records what it returns.

        Args:
            image: its file.
            output: the pipeline's; `{"error": ..., "file": ...}` where it failed.
            work: prints and writes; returns what to record.
        """
        name = printable(image)
        if isinstance(output, Mapping):
            message = printable(output["error"])
        else:
            try:
                self.entries.append({"file": name, **work()})
                return
            except Exception as error:
                if self.arguments.debug:
                    traceback.print_exc()
                message = printable(f"{error}" or type(error).__name__)
        self.entries.append({"file": name, "error": message})
        print(f"cf-cxr: error: {'' if name in message else name + ': '}{message}", file=sys.stderr)

    @property
    def failed(self) -> int:
        """How many images could not be used."""
        return sum("error" in entry for entry in self.entries)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.failed < len(self.entries):
            text = json.dumps({**self.header, self.key: self.entries}, indent=2) + "\n"
            write_whole(self.path, text, self.arguments.overwrite)

    def finish(self, wrote: str) -> int:
        """Prints the last lines; returns the exit code."""
        if self.failed < len(self.entries):
            print(f"Wrote {printable(wrote)}.")
            print(DISCLAIMER)
        if self.failed:
            count = len(self.arguments.images)
            print(f"cf-cxr: {self.failed} of {count} images could not be used.", file=sys.stderr)
        return 1 if self.failed else 0


def provenance(arguments: argparse.Namespace, pipe: Any, default_model: str) -> dict[str, Any]:
    """Which model of which package made a result, in JSON's types."""
    return {
        "cf_cxr": __version__,
        "model": arguments.model or default_model,
        "weights": f"sha256:{state_digest(pipe.model)}",
        "dtype": str(pipe.model.dtype).removeprefix("torch."),
        "seed": arguments.seed,
    }
