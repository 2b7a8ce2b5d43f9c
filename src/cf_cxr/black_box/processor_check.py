"""Does our preprocessing with gradients make the same tensors as the image processor it was read from?"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .errors import BlackBoxError
from .preprocessing import RadiographPreprocessing
from .probes import probe_images

# Mean difference over the standard deviation of the processor's tensors. 8-bit rounding gives 0.005, a bicubic in
# place of a Lanczos filter 0.01, a forgotten mean or crop 0.1 to 5.
TOLERANCE = 0.04
_SIZE = 128


def check_repeats(repeated: RadiographPreprocessing, processor: Any) -> RadiographPreprocessing:
    """Compares both on two built-in pictures; a step that a processor's settings do not tell shows here.

    Raises:
        BlackBoxError: where shapes or values differ.
    """
    images = probe_images(_SIZE)[[0, -1]]
    expected = _processed(processor, images, repeated.channels).float()
    got = repeated(images)
    name = type(processor).__name__
    if got.shape != expected.shape:
        raise BlackBoxError(
            f"{name} makes tensors {tuple(expected.shape)} of two square pictures, its settings say "
            f"{tuple(got.shape)}; give preprocess= a RadiographPreprocessing or a function of torch operations."
        )
    difference = float((got - expected).abs().mean() / expected.std().clamp_min(1e-6))
    if not difference <= TOLERANCE:
        raise BlackBoxError(
            f"{name} does something that its settings (size, crop, mean, std) do not tell: the tensors differ by "
            f"{difference:.2f} standard deviations. Give preprocess= a RadiographPreprocessing or a function of torch "
            "operations."
        )
    return repeated


def _processed(processor: Any, images: Tensor, channels: int) -> Tensor:
    if not hasattr(processor, "preprocess"):  # torchvision's presets read tensors in [0, 1]
        return processor(((images + 1) / 2).expand(-1, channels, -1, -1))
    grey = ((images[:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
    mode = "L" if channels == 1 else "RGB"
    pictures = [Image.fromarray(g).convert(mode) for g in grey]
    return torch.as_tensor(processor(images=pictures, return_tensors="pt")["pixel_values"])
