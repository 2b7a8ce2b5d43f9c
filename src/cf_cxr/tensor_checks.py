"""What tensors of pixels and probabilities must be; each check stands here once."""

from __future__ import annotations

import torch
from torch import Tensor


def has_values(tensor: Tensor) -> bool:
    """True if there are numbers to look at: some elements, not on the meta device, and not while `torch.compile` or
    `torch.export` traces, where a look at the values would end the graph."""
    return not torch.compiler.is_compiling() and not tensor.is_meta and tensor.numel() > 0


PIXEL_TOLERANCE = 0.05  # bfloat16 and resampling may carry a pixel this far outside the range


def check_range(low: float, high: float, name: str, error: type[ValueError] = ValueError) -> None:
    """Refuses images whose smallest and largest value are not in [-1, 1], to `PIXEL_TOLERANCE`.

    Raises:
        ValueError: (or *error*) for NaN or a value outside; the message has `name` and the values.
    """
    if not (low >= -1 - PIXEL_TOLERANCE and high <= 1 + PIXEL_TOLERANCE):  # NaN fails too
        found = "NaN" if low != low or high != high else f"values from {low:.4g} to {high:.4g}"
        raise error(
            f"{name} must lie in [-1, 1] (black to white), got {found}; CXRImageProcessor scales images to this range."
        )


def check_pixel_values(pixel_values: Tensor, num_channels: int, multiple: int = 1) -> None:
    """Refuses tensors that are not images in [-1, 1] of a size that the model's strides divide.

    The look at the values is skipped inside `torch.compile`.

    Args:
        pixel_values: should be `(B, num_channels, H, W)` with H and W positive multiples of `multiple`.

    Raises:
        ValueError: for another shape, integers, NaN or infinite pixels, or values outside [-1, 1].
    """
    shape = tuple(pixel_values.shape)
    if len(shape) != 4 or shape[1] != num_channels:
        raise ValueError(
            f"pixel_values must have shape (batch, {num_channels}, height, width), got {shape}; CXRImageProcessor "
            "makes such tensors."
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values must be floating point in [-1, 1], got {pixel_values.dtype}; CXRImageProcessor scales grey "
            "levels."
        )
    if any(side % multiple or not side for side in shape[2:]):
        nearest = " x ".join(str(max(multiple, round(side / multiple) * multiple)) for side in shape[2:])
        raise ValueError(
            f"Images of {shape[2]} x {shape[3]} pixels do not fit: each side must be a multiple of {multiple}; the "
            f"nearest size is {nearest}."
        )
    if not has_values(pixel_values):
        return
    check_range(*(float(v) for v in pixel_values.detach().aminmax()), "pixel_values")


def check_probabilities(values: Tensor, name: str) -> None:
    """Refuses what cannot be probabilities; passes without looking inside `torch.compile`.

    Raises:
        ValueError: for NaN or a value outside [0, 1]; the message has `name` and the value.
    """
    if not has_values(values):
        return
    low, high = (float(v) for v in values.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also true for NaN, which aminmax passes on
        if low != low or high != high:
            raise ValueError(f"{name} contains NaN; a posterior is a number in [0, 1].")
        raise ValueError(
            f"{name} must lie in [0, 1], got values from {low:.4g} to {high:.4g}; if these are logits, apply a "
            "sigmoid or softmax first."
        )
