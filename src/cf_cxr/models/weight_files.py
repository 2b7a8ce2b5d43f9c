"""Weights from outside are safetensors of the folder they are asked of, and are never unpickled."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, cached_file

from ..files import special_file
from ..model_cards.card import PushesOwnCard

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".bin.index.json")
_HUB_OPTIONS = ("cache_dir", "token", "revision", "subfolder", "local_files_only", "force_download")


class UnsafeWeightsError(ValueError):
    """Weight files that could run code, or an index that leads out of its folder; the message says what to do."""


class CXRPreTrainedModel(PushesOwnCard, PreTrainedModel):
    """Base of the models, most of which look at images: loads safetensors only, and pushes its own card."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As `PreTrainedModel.from_pretrained`, after `check_weight_files`."""
        if pretrained_model_name_or_path is not None:
            check_weight_files(pretrained_model_name_or_path, **kwargs)
        kwargs["use_safetensors"] = True
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)


def check_weight_files(name_or_path: str | os.PathLike, **options: Any) -> None:
    """Looks at the names of a model's weight files, in a folder or on the Hub, without opening weights.

    Args:
        name_or_path: as for `from_pretrained`.
        options: of `from_pretrained`; those that say where to look are used.

    Raises:
        UnsafeWeightsError: pickled weights in place of safetensors, or an index that cannot be read or names anything
            but safetensors files beside it.
        FileNotFoundError: a path where there is no folder.
        OSError: no such repository, or no connection.
    """
    folder = Path(name_or_path, options.get("subfolder") or "")
    if not folder.is_dir():
        check_is_no_path(name_or_path)
        hub = {name: options[name] for name in _HUB_OPTIONS if options.get(name) is not None}
        quiet = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
        quiet = {f"_raise_exceptions_for_{reason}": value for reason, value in quiet.items()}
        # the first says what is wrong with the name or the connection
        cached_file(os.fspath(name_or_path), CONFIG_NAME, **hub)
        index = cached_file(os.fspath(name_or_path), SAFE_WEIGHTS_INDEX_NAME, **hub, **quiet)
        return _check_index(Path(index)) if index else None
    names = sorted(path.name for path in folder.iterdir())
    pickled = [name for name in names if name.endswith(_PICKLED)]
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise UnsafeWeightsError(
            f"{folder / pickled[0]} holds pickled weights, which can run code when they are loaded; they were not opened. "
            "Where you trust the file, load it with the code it comes from and convert it to safetensors "
            "(safetensors.torch.save_file, or save_pretrained)."
        )
    for name in names:
        if name.endswith(".safetensors.index.json"):
            _check_index(folder / name)


def check_is_no_path(name_or_path: str | os.PathLike) -> None:
    """Raises FileNotFoundError for what must be meant as a folder, and not as a name on the Hub."""
    name = os.fspath(name_or_path)
    is_path = (
        isinstance(name_or_path, os.PathLike) or name.startswith((".", "~", os.sep)) or name.endswith(os.sep)
    )
    if is_path or not name or name.count("/") > 1 or special_file(name):
        raise FileNotFoundError(
            f"There is no model folder {name!r}. Check the path (now in {os.getcwd()!r})."
        )


def _check_index(index: Path) -> None:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UnsafeWeightsError(
            f"The index {index} cannot be read ({type(error).__name__}). Copy or download the model again."
        ) from error
    for shard in sorted(shards, key=str):
        if not _is_beside(index, shard):
            raise UnsafeWeightsError(
                f"The index {index} names {shard!r}; an index may name only safetensors files in its own folder. Put "
                "the file there, or do not use this model."
            )


def _is_beside(index: Path, shard: Any) -> bool:
    if not isinstance(shard, str) or not shard.endswith(".safetensors"):
        return False
    if PurePosixPath(shard).name != shard or PureWindowsPath(shard).name != shard:
        return False
    target, folder = (index.parent / shard).resolve(), index.parent
    blobs = folder.resolve().parent.parent / "blobs"  # where the Hub's cache keeps what its snapshots link to
    inside = target.parent == folder.resolve()
    return inside or (folder.resolve().parent.name == "snapshots" and target.parent == blobs)
