"""What the `cf-cxr` commands share: options of the model, and the pipeline that they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path

from .cli_files import UsageError

DISCLAIMER = "For research only: not for diagnosis or any clinical use."


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds --model, --device, --dtype and --seed."""
    parser.add_argument("--model", help="folder or Hub name of the model (default: the bundled one)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps ... (default: the best available)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="precision of the model")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="makes random draws repeatable (default: 0)"
    )


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
    import torch
    from transformers import pipeline
    from transformers.utils import logging

    from .models.complete_loading import load_config
    from .pipelines import register

    register()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.device is not None:
        try:
            device = torch.device(arguments.device)
        except RuntimeError as error:
            raise UsageError(f"--device {arguments.device}: {error}") from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError(
                f"--device {arguments.device}: no CUDA device is available here; use --device cpu."
            )
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
