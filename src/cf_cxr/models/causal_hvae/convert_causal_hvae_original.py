"""Convert a causal HVAE checkpoint of the authors' code (papers H and A) into a `CausalHVAEModel` folder.

    python -m cf_cxr.models.causal_hvae.convert_causal_hvae_original checkpoint.pt converted/

The checkpoint is a dictionary with `hparams`, `model_state_dict` and `ema_model_state_dict`. Nothing in it is executed:
it is read with `torch.load(weights_only=True)`, and the only class accepted besides tensors is `argparse.Namespace`.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from ...files import write_json
from .configuration_causal_hvae import CausalHVAEConfig
from .modeling_causal_hvae import CausalHVAEModel

REQUIRED_HPARAMS = ("enc_arch", "dec_arch", "widths", "input_res", "context_dim")
CONVOLUTIONS = {"1": "reduce", "3": "spatial_1", "5": "spatial_2", "7": "expand"}
ANCHOR = "encoder.stem.weight"
# Other parts by the `setup` of their settings: what the file is, and what makes such a part here.
OTHER_PARTS = {
    "sup_pgm": ("attribute model (PGM, p(attributes))", "training/train_scm.py"),
    "sup_aux": ("attribute predictor (q(attributes | image))", "training/train_classifier.py"),
    "sup_determ": ("attribute classifier (trained deterministically)", "training/train_classifier.py"),
}
# What torch.load raises for damaged files and for files of another kind.
UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)


class CheckpointConversionError(ValueError):
    """The file is no checkpoint of the authors' causal HVAE, or one that cannot be represented here."""


def load_original_checkpoint(path) -> dict:
    """Read a checkpoint file into a dictionary of tensors and plain values, without executing anything in it.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointConversionError: the file is truncated, is no checkpoint, or holds pickled code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"No checkpoint file at {str(path)!r}: give the path of the authors' checkpoint.pt."
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise CheckpointConversionError(_explain_unreadable(path, error)) from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointConversionError(
            f"{path.name} holds a {type(checkpoint).__name__}, not the authors' dictionary with 'hparams', "
            f"'model_state_dict' and 'ema_model_state_dict'."
        )
    return dict(checkpoint)


def _explain_unreadable(path: Path, error: Exception) -> str:
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found:
        return (
            f"{path.name} holds a pickled object of {found.group(1)!r}. It was refused because loading such objects "
            f"can run code. If you trust the file, load it yourself and save it again with 'hparams' as a plain "
            f"dictionary: torch.save({{**checkpoint, 'hparams': dict(vars(args))}}, path)."
        )
    size = path.stat().st_size
    return (
        f"{path.name} ({size} bytes) is not a readable PyTorch checkpoint: it is empty, truncated or another kind of "
        f"file ({type(error).__name__}). Compare its size or checksum with the original and copy it again."
    )


def read_hparams(checkpoint: Mapping) -> dict:
    """The `hparams` entry as a dictionary with the settings of the image model that the conversion needs.

    Raises:
        CheckpointConversionError: the entry or one of the required settings is missing.
    """
    if "hparams" not in checkpoint:
        raise CheckpointConversionError(
            f"The checkpoint has no 'hparams' entry (it has: {_listing(checkpoint)}). Without it the architecture is "
            f"unknown; pass hparams_from= (--hparams_from) the checkpoint of the HVAE's first training stage."
        )
    hparams = checkpoint["hparams"]
    hparams = dict(vars(hparams)) if isinstance(hparams, argparse.Namespace) else hparams
    if not isinstance(hparams, Mapping):
        raise CheckpointConversionError(
            f"'hparams' is a {type(hparams).__name__}; a dictionary was expected."
        )
    missing = [name for name in REQUIRED_HPARAMS if name not in hparams]
    if missing:
        raise CheckpointConversionError(
            f"'hparams' lacks {', '.join(missing)} (it has: {_listing(hparams)}). Checkpoints of counterfactual "
            f"fine-tuning do not repeat the architecture; pass hparams_from= (--hparams_from) the checkpoint of the "
            f"HVAE's first training stage."
        )
    return dict(hparams)


def config_from_hparams(hparams: Mapping) -> CausalHVAEConfig:
    """The configuration that `hparams` of the authors' code describe.

    Settings that older versions of that code did not have take the value that those versions had built in:
    `cond_prior` and `q_correction` false, `kl_free_bits` from `free_bits`.

    Raises:
        CheckpointConversionError: a setting has no counterpart here; the message names it and its value.
    """
    if hparams.get("vae", "hierarchical") != "hierarchical":
        raise CheckpointConversionError(
            f"vae={hparams['vae']!r}: only the hierarchical VAE can be converted."
        )
    if hparams.get("q_correction"):
        raise CheckpointConversionError(
            "q_correction=True: a prior that reads the posterior's state has no counterpart in CausalHVAEModel."
        )
    if hparams.get("vr") == "light" or "ukbb" in str(hparams.get("hps", "")):
        raise CheckpointConversionError(
            f"hps={hparams.get('hps')!r}: the UK Biobank settings have blocks of two convolutions with ReLU; "
            f"CausalHVAEModel has the blocks of four convolutions with GELU of the other settings only."
        )
    x_like = hparams.get("x_like", "diag_dgauss")
    if not str(x_like).endswith("_dgauss"):
        raise CheckpointConversionError(
            f"x_like={x_like!r}: only discretised Gaussians (*_dgauss) can be converted."
        )
    if int(hparams.get("input_channels", 1)) != 1:
        raise CheckpointConversionError(
            f"input_channels={hparams['input_channels']}: only grey-scale models can be converted (colour models "
            f"predict each channel from the previous ones)."
        )
    try:
        return CausalHVAEConfig(
            image_size=int(hparams["input_res"]),
            num_channels=1,
            context_dim=int(hparams["context_dim"]),
            encoder_blocks=hparams["enc_arch"],
            decoder_blocks=hparams["dec_arch"],
            widths=[int(width) for width in hparams["widths"]],
            z_dim=int(hparams.get("z_dim", 16)),
            bottleneck=int(hparams.get("bottleneck", 4)),
            z_max_res=int(hparams.get("z_max_res", 192)),
            bias_max_res=int(hparams.get("bias_max_res", 64)),
            cond_prior=bool(hparams.get("cond_prior", False)),
            x_like=x_like,
            std_init=float(hparams.get("std_init", 0.0)),
            beta=float(hparams.get("beta_target", hparams.get("beta", 1.0))),
            free_bits=float(hparams.get("kl_free_bits", hparams.get("free_bits", 0.0))),
        )
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise CheckpointConversionError(
            f"The settings in 'hparams' do not describe a network that CausalHVAEModel can build: "
            f"{error.__cause__ or error}"
        ) from error


def select_weights(checkpoint: Mapping, use_ema: bool = True) -> tuple[dict[str, Tensor], list[str]]:
    """The image model's tensors under the authors' names, and notes about what was left out.

    Wrapped models are recognised: the image model is what follows the prefix of `encoder.stem.weight`, be it
    `ema_model.`, `module.`, `_orig_mod.`, or `vae.` in checkpoints of counterfactual fine-tuning.

    Raises:
        CheckpointConversionError: the entry is missing, or holds no or several causal HVAEs.
    """
    entry = "ema_model_state_dict" if use_ema else "model_state_dict"
    if not isinstance(checkpoint.get(entry), Mapping):
        other = "use_ema=False (--no_ema)" if use_ema else "use_ema=True"
        raise CheckpointConversionError(
            f"The checkpoint has no {entry!r} (it has: {_listing(checkpoint)}); if it holds the other set of weights, "
            f"use {other}."
        )
    state = {str(name): value for name, value in checkpoint[entry].items()}
    prefixes = [name.removesuffix(ANCHOR) for name in state if name == ANCHOR or name.endswith("." + ANCHOR)]
    if len(prefixes) > 1:  # a saved EMA wrapper holds both its models
        wanted = "ema_model." if use_ema else "online_model."
        prefixes = [prefix for prefix in prefixes if wanted in prefix] or prefixes
    if len(prefixes) != 1:
        raise CheckpointConversionError(
            f"{entry!r} holds {len(prefixes)} tensors named '*{ANCHOR}', one was expected: this is no checkpoint of a "
            f"single hierarchical VAE. It has: {_listing(state)}."
        )
    prefix = prefixes[0]
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    notes = [f"weights: {entry}"]
    if prefix:
        notes.append(f"prefix {prefix!r} removed")
    if len(weights) < len(state):
        others = [name for name in state if not name.startswith(prefix)]
        notes.append(f"left out, no part of the image model: {_listing(others)}")
    return weights, notes


def rename(name: str) -> str:
    """The authors' parameter name as ours, e.g. `encoder.blocks.0.conv.1.weight` as `encoder.blocks.0.block.reduce.weight`."""
    name = re.sub(r"^(encoder\.blocks\.\d+)\.(conv\.\d|width_proj)", r"\1.block.\2", name)
    name = re.sub(r"^(decoder\.blocks\.\d+)\.conv\.(conv\.\d|width_proj)", r"\1.block.\2", name)
    return re.sub(r"\.conv\.([1357])\.", lambda match: f".{CONVOLUTIONS[match.group(1)]}.", name)


def convert_state_dict(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the authors' tensors and check them against the model that the settings describe.

    Args:
        weights: tensors under the authors' names.
        expected: the state dictionary of the `CausalHVAEModel` to fill.

    Returns:
        The tensors under our names, float32, and notes about what was left out.

    Raises:
        CheckpointConversionError: lists the tensors that are missing, unknown, of the wrong shape or not finite.
    """
    converted, notes, unknown = {}, [], []
    for name, tensor in weights.items():
        ours = rename(name)
        if ours in expected:
            converted[ours] = tensor
        elif name == "log2":  # a constant buffer of the authors' code
            notes.append("left out, a constant: log2")
        elif re.fullmatch(r"encoder\.blocks\.\d+\.width_proj\.(weight|bias)", name):
            # Down-sampling blocks always own this convolution; where the width stays the same nothing uses it.
            notes.append(f"left out, never used: {name}")
        else:
            unknown.append(name)
    problems = (
        [f"missing: {_listing(set(expected) - set(converted))}"] if set(expected) - set(converted) else []
    )
    if unknown:
        problems.append(f"unknown: {_listing(unknown)}")
    for name, tensor in converted.items():
        if tensor.shape != expected[name].shape:
            problems.append(f"{name}: shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{name}: NaN or infinite values")
    if problems:
        raise CheckpointConversionError(
            "The weights do not fit the network that 'hparams' describe (tensor names as in CausalHVAEModel):\n  "
            + "\n  ".join(problems[:20])
            + (f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else "")
        )
    return {name: tensor.float().clone() for name, tensor in converted.items()}, notes


def convert_checkpoint(
    path: str | Path,
    output_dir: str | Path,
    use_ema: bool = True,
    hparams_from: str | Path | None = None,
    overwrite: bool = False,
) -> CausalHVAEModel:
    """Convert a checkpoint file of the authors' code and save it for `CausalHVAEModel.from_pretrained`.

    Writes `config.json`, `model.safetensors` and `conversion.json` (what was converted and what was left out), or
    nothing at all.

    Args:
        path: the authors' `checkpoint.pt`.
        output_dir: folder to create.
        use_ema: convert the averaged weights (which the papers evaluate), else those being trained.
        hparams_from: a checkpoint to take the settings from, for one that lacks them (counterfactual fine-tuning).
        overwrite: replace a model that is already in `output_dir`.

    Returns:
        The converted model, float32, in evaluation mode.

    Raises:
        FileNotFoundError: `path` or `hparams_from` is no file.
        FileExistsError: `output_dir` holds a model already and `overwrite` is false.
        CheckpointConversionError: the file cannot be read, is another part of the authors' model, or cannot be
            represented by `CausalHVAEModel`.
    """
    output_dir = Path(output_dir)
    _check_output(output_dir, overwrite)
    checkpoint = load_original_checkpoint(path)
    _refuse_other_parts(checkpoint, Path(path).name)
    hparams = read_hparams(load_original_checkpoint(hparams_from) if hparams_from else checkpoint)
    model = CausalHVAEModel(config_from_hparams(hparams))
    weights, notes = select_weights(checkpoint, use_ema)
    converted, more_notes = convert_state_dict(weights, model.state_dict())
    model.load_state_dict(converted)
    model.eval()
    record = {
        "source": Path(path).name,
        "step": checkpoint.get("step"),
        "epoch": checkpoint.get("epoch"),
        "parents": hparams.get("parents_x"),
        "context_norm": hparams.get("context_norm"),
        "notes": notes + more_notes,
    }
    _save(model, record, output_dir)
    return model


def _refuse_other_parts(checkpoint: Mapping, name: str) -> None:
    hparams = checkpoint.get("hparams")
    hparams = vars(hparams) if isinstance(hparams, argparse.Namespace) else hparams
    setup = hparams.get("setup") if isinstance(hparams, Mapping) else None
    states = [checkpoint.get(entry) for entry in ("model_state_dict", "ema_model_state_dict")]
    names = [str(name) for state in states if isinstance(state, Mapping) for name in state]
    if setup in OTHER_PARTS and not any(name.endswith(ANCHOR) for name in names):
        what, script = OTHER_PARTS[setup]
        raise CheckpointConversionError(
            f"{name} is the {what} of the authors' code (setup={setup!r}), not the image model. It cannot be "
            f"converted: train that part with {script}, and pass the HVAE's checkpoint (of main.py) here."
        )


def _check_output(output_dir: Path, overwrite: bool) -> None:
    if output_dir.exists() and not output_dir.is_dir():
        raise FileExistsError(f"{str(output_dir)!r} is a file; give the folder to write to.")
    if (output_dir / "config.json").exists() and not overwrite:
        raise FileExistsError(
            f"{str(output_dir)!r} holds a model already; choose another folder or pass overwrite=True (--overwrite)."
        )


def _save(model: CausalHVAEModel, record: dict, output_dir: Path) -> None:
    """Write beside the target first, so that an interrupted run leaves no partial model."""
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}-") as temporary:
        model.save_pretrained(temporary)
        write_json(Path(temporary) / "conversion.json", record)
        output_dir.mkdir(exist_ok=True)
        for file in Path(temporary).iterdir():
            os.replace(file, output_dir / file.name)


def _listing(names: Iterable, limit: int = 12) -> str:
    names = sorted(str(name) for name in names)
    return ", ".join(names[:limit]) + (f", ... ({len(names) - limit} more)" if len(names) > limit else "")


def main(argv: list[str] | None = None) -> int:
    """Command line: convert one checkpoint; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cf_cxr.models.causal_hvae.convert_causal_hvae_original",
        description="Convert a causal HVAE checkpoint of the authors' code into a CausalHVAEModel folder.",
    )
    parser.add_argument("checkpoint", help="the authors' checkpoint.pt")
    parser.add_argument("output", help="folder to write config.json and model.safetensors to")
    parser.add_argument(
        "--no_ema", action="store_true", help="convert model_state_dict, not the averaged weights"
    )
    parser.add_argument("--hparams_from", help="take the settings from this checkpoint (for fine-tuned ones)")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is already there")
    arguments = parser.parse_args(argv)
    try:
        model = convert_checkpoint(
            arguments.checkpoint,
            arguments.output,
            use_ema=not arguments.no_ema,
            hparams_from=arguments.hparams_from,
            overwrite=arguments.overwrite,
        )
    except (CheckpointConversionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    config = model.config
    print(
        f"{arguments.output}: {model.num_parameters():,} parameters, {config.image_size}x{config.image_size}"
    )
    for note in json.loads((Path(arguments.output) / "conversion.json").read_text(encoding="utf-8"))["notes"]:
        print(f"  {note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
