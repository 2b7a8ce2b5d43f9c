"""Convert a causal HVAE checkpoint of the authors' code (papers H and A) into a `CausalHVAEModel` folder.

    python -m cf_cxr.models.causal_hvae.convert_causal_hvae_original checkpoint.pt converted/

The checkpoint is a dictionary with `hparams`, `model_state_dict` and `ema_model_state_dict`. Nothing in it is executed:
it is read with `torch.load(weights_only=True)`, and the only class accepted besides tensors is `argparse.Namespace`.
"""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from .configuration_causal_hvae import CausalHVAEConfig

WEIGHTS = {True: "ema_model_state_dict", False: "model_state_dict"}
WRAPPERS = ("ema_model.", "online_model.", "module.", "_orig_mod.", "vae.")
IGNORED_KEYS = ("log2",)
REQUIRED_HPARAMS = ("enc_arch", "dec_arch", "widths", "input_res", "context_dim")


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
    except (
        pickle.UnpicklingError,
        EOFError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
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
            f"The checkpoint has no 'hparams' entry (it has: {_shorten(checkpoint)}). Without it the architecture is "
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
            f"'hparams' lacks {', '.join(missing)} (it has: {_shorten(hparams)}). Checkpoints of counterfactual "
            f"fine-tuning do not repeat the architecture; pass hparams_from= (--hparams_from) the checkpoint of the "
            f"HVAE's first training stage."
        )
    return dict(hparams)


def config_from_hparams(hparams: Mapping, light_blocks: bool = False) -> CausalHVAEConfig:
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
    if light_blocks:
        raise CheckpointConversionError(
            "The blocks have two convolutions with ReLU (vr='light', the UK Biobank settings); CausalHVAEModel has "
            "the four-convolution GELU blocks of the chest X-ray settings only."
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


def _shorten(names, limit: int = 12) -> str:
    names = [str(name) for name in names]
    rest = f", ... {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
