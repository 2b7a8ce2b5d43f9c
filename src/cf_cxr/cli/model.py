"""What the `cf-cxr` commands share: options of the model, and the pipeline that they ask for."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..version import __version__
from .files import UsageError

DISCLAIMER = "For research only: not for diagnosis or any clinical use."


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds --model, --device, --dtype, --seed and --debug."""
    parser.add_argument("--model", help="folder or Hub name of the model (default: the bundled one)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps ... (default: the best available)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="precision of the model")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="makes random draws repeatable (default: 0)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def check_device(name: str) -> None:
    """Makes sure that numbers can be put on a device and read back.

    Raises:
        UsageError: otherwise.
    """
    import torch

    try:
        torch.zeros(1, device=torch.device(name)).cpu()
    except Exception as error:  # every backend has its own
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise UsageError(f"--device {name} cannot be used here ({reason}); use --device cpu.") from error


def provenance(arguments: argparse.Namespace, pipe: Any, default_model: str) -> dict[str, Any]:
    """Which model of which package made a result, in JSON's types."""
    from ..black_box.fingerprints import state_digest

    return {
        "cf_cxr": __version__,
        "model": arguments.model or default_model,
        "weights": f"sha256:{state_digest(pipe.model)}",
        "dtype": str(pipe.model.dtype).removeprefix("torch."),
        "seed": arguments.seed,
    }


INVERT = {"no": False, "yes": True, "auto": "auto"}


def add_invert_option(parser: argparse.ArgumentParser) -> None:
    """Adds --invert."""
    parser.add_argument(
        "--invert",
        choices=INVERT,
        default="no",
        help="exchange black and white: of every image, or (auto) of those that look inverted (default: no, only warn)",
    )


def load_pipeline(arguments: argparse.Namespace, task: str, default_model: Path):
    """The pipeline of a task that the options ask for, without progress bars.

    Raises:
        UsageError: no such device, a model of another kind, a configuration that cannot be, or no bundled model.
        FileNotFoundError: there is no such folder.
    """
    from transformers import pipeline
    from transformers.utils import logging

    from ..models.complete_loading import load_config
    from ..pipelines import register

    register()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.device is not None:
        check_device(arguments.device)
    if arguments.model is None and not default_model.is_dir():
        raise UsageError(
            f"the bundled model is missing at {default_model}; install cf_cxr again, or give --model."
        )
    if arguments.model is not None:
        load_config(arguments.model, UsageError)  # says what is wrong with it in words
    try:
        return pipeline(
            task,
            model=arguments.model or str(default_model),
            device=arguments.device,
            dtype=arguments.dtype or "auto",
        )
    except TypeError as error:  # a model of another kind
        raise UsageError(str(error)) from error


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
