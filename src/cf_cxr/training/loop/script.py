"""What the scripts in `training/` have in common: data, model and training; errors of the user in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import set_seed

from ...attributes import AttributeSchema, UnknownAttributeError
from .arguments import CXRTrainingArguments, DataArguments, parse_arguments
from .batches import load_schema, make_datasets
from .callbacks import TrainingDivergedError
from .checkpointing import CheckpointError
from .trainer import CXRTrainer

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


def train_on_images(
    trainer: type[CXRTrainer],
    arguments: type[CXRTrainingArguments],
    build: Callable[[Any, int, AttributeSchema], nn.Module],
    argv: Sequence[str] | None,
    description: str,
) -> nn.Module:
    """Trains a stage from command-line arguments: data first, then the model, whose weights the seed decides.

    Args:
        build: makes the model from the stage's arguments, the side of the images and the schema.

    Returns:
        The trained model.
    """
    data, args = parse_arguments((DataArguments, arguments), argv, description=description)
    schema, _ = load_schema(data)
    train, validation, processor, info = make_datasets(data, schema)
    set_seed(args.seed)
    model = build(args, data.resolution, schema)
    parts = {"processing_class": processor, "schema": schema, "run_info": info}
    trainer(model, args, train, validation, **parts).train()
    return model
