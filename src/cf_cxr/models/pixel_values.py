"""What image tensors must be before a convolutional model reads them; one check for several models."""

from __future__ import annotations

from torch import Tensor

from ..tensor_values import has_values

# bfloat16 and resampling may carry a pixel this far outside the range.
_TOLERANCE = 0.01


def check_pixel_values(pixel_values: Tensor, num_channels: int, multiple: int) -> None:
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
    low, high = (float(v) for v in pixel_values.detach().aminmax())
    if low != low or high != high:
        raise ValueError("pixel_values contain NaN.")
    if low < -1 - _TOLERANCE or high > 1 + _TOLERANCE:
        raise ValueError(
            f"pixel_values must lie in [-1, 1], got values from {low:.4g} to {high:.4g}; CXRImageProcessor scales "
            "images to this range."
        )
