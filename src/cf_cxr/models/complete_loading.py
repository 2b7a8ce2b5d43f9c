"""Loads a model all of whose weights are there, and says in words where they are not.

`from_pretrained` alone starts missing weights at random, and warns: a network without a trained head would answer.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig
from transformers.utils import SAFE_WEIGHTS_NAME

from .weight_files import CXRPreTrainedModel, UnsafeWeightsError, check_is_no_path, check_weight_files

_LISTED = 3


def load_config(name_or_path: str | os.PathLike, error: type[Exception] = ValueError) -> Any:
    """The configuration of a folder or a Hub repository.

    Args:
        name_or_path: as for `AutoConfig.from_pretrained`.
        error: what to raise.

    Raises:
        error: a file in place of a folder, or a configuration whose values cannot be.
        FileNotFoundError: a path where there is no folder.
        OSError, ValueError: as `AutoConfig.from_pretrained`.
    """
    name = os.fspath(name_or_path)
    if os.path.isfile(name):
        raise error(f"{name!r} is a file; give the folder that save_pretrained wrote, or a name on the Hub.")
    if not os.path.isdir(name):
        check_is_no_path(name_or_path)
    try:
        config = AutoConfig.from_pretrained(name_or_path)
    except (StrictDataclassError, RecursionError, TypeError) as reason:
        raise error(_bad_config(name, reason)) from reason
    if other := getattr(config, "transformers_weights", None):
        raise error(_bad_config(name, f"transformers_weights={other!r} names weights of its own; remove it."))
    return config


def _bad_config(name: str | os.PathLike, reason: Exception) -> str:
    what = "it is nested without end" if isinstance(reason, RecursionError) else reason
    return f"The configuration {os.fspath(name)}/config.json cannot be used: {what}"


def _damaged_file(folder: Path) -> Path:
    """The first weight file of a folder that cannot be opened; of a Hub repository, its name."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError:
            return file
    return folder


def load_complete(
    model_class: Any, name_or_path: str | os.PathLike, error: type[Exception] = ValueError, **kwargs: Any
) -> Any:
    """`model_class.from_pretrained(name_or_path, **kwargs)`, which must find every weight.

    Raises:
        error: no weights in a folder; weights that are pickled or outside it, damaged, of other shapes, or missing, or a
            configuration whose values cannot be.
        OSError, ValueError: as `from_pretrained`.
    """
    try:
        if not issubclass(model_class, CXRPreTrainedModel):  # which checks them itself
            check_weight_files(name_or_path, **kwargs)
        model, found = model_class.from_pretrained(
            name_or_path, output_loading_info=True, **{**kwargs, "use_safetensors": True}
        )
    except (StrictDataclassError, RecursionError) as reason:
        raise error(_bad_config(name_or_path, reason)) from reason
    except UnsafeWeightsError as reason:
        raise error(str(reason)) from reason
    except SafetensorError as reason:
        raise error(
            f"{_damaged_file(Path(name_or_path))} is damaged or incomplete ({reason}). Copy the model folder again, or "
            "download the model again (force_download=True)."
        ) from reason
    except OSError as reason:
        if "no file named" not in str(reason) or not os.path.isdir(name_or_path):
            raise
        raise error(
            f"The model folder {name_or_path} has no weights: {SAFE_WEIGHTS_NAME} is missing. Give a folder written by "
            "save_pretrained, or copy or download the model again."
        ) from reason
    except RuntimeError as reason:
        if "mismatch" not in str(reason):
            raise
        raise error(
            f"The weights of {name_or_path} have other shapes than its config.json says: the files belong to two "
            "models. Copy or download the model again."
        ) from reason
    if missing := sorted(found["missing_keys"]):
        listed = ", ".join(missing[:_LISTED]) + (", ..." if len(missing) > _LISTED else "")
        raise error(
            f"{len(missing)} weights of the {type(model).__name__} are not in {name_or_path} ({listed}) and would be "
            "random. Give a model that was trained for this task, or copy or download it again."
        )
    return model
