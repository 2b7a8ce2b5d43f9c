"""Rows of a data set to tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..attributes import AttributeSchema
from ..images.image_processing_cxr import CXRImageProcessor
from .errors import CXRDataError


class CXRCollator:
    """Makes a batch of rows, as `load_cxr` yields them, into tensors.

    Images that are grey and already of the wanted size go straight to a tensor; any other goes through the
    image processor. An attribute that a row does not know (None, or no such column) becomes NaN.

    Args:
        schema: the attributes; their order is the column order of the result.
        processor: reads images that do not fit. Without one, a `CXRImageProcessor` of the wanted size is
            made at the first such image.
        resolution: side S of the images in pixels; the default is the processor's size, or else the size
            of the first image of each batch.

    Returns:
        A dictionary with `pixel_values` (B, 1, S, S) float32 in [-1, 1] and `attributes` (B, n) float32, raw.
    """

    def __init__(
        self,
        schema: AttributeSchema,
        processor: CXRImageProcessor | None = None,
        resolution: int | None = None,
    ):
        self.schema = schema
        self.processor = processor
        self.resolution = resolution or (processor and processor.size["height"])

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        if len(rows) == 0:
            raise CXRDataError("Cannot make a batch of zero rows.")
        return {
            "pixel_values": self.pixel_values([row["image"] for row in rows]),
            "attributes": self.attributes(rows),
        }

    def pixel_values(self, images: Sequence[Any]) -> torch.Tensor:
        """Images to (B, 1, S, S) float32 in [-1, 1]."""
        size = self.resolution or _first_side(images)
        if all(
            isinstance(image, Image.Image) and image.mode == "L" and image.size == (size, size)
            for image in images
        ):
            grey = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
            return grey[:, None].to(torch.float32).div_(127.5).sub_(1.0)
        if self.processor is None:
            self.processor = CXRImageProcessor(size=size)
        return self.processor(list(images), size=size, return_tensors="pt")["pixel_values"]

    def attributes(self, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """Attribute columns to (B, n) raw values; class names are accepted beside class indices."""
        values = [[_raw(attribute, row.get(attribute.name)) for attribute in self.schema] for row in rows]
        return torch.tensor(values, dtype=torch.float32)


def _raw(attribute, value: Any) -> float:
    if value is None:
        return math.nan
    return attribute.parse(value) if isinstance(value, str) else float(value)


def _first_side(images: Sequence[Any]) -> int:
    first = images[0]
    if isinstance(first, Image.Image) and first.width == first.height:
        return first.width
    raise CXRDataError(
        "The images are not square PIL images and no resolution was given: pass resolution=... to CXRCollator."
    )
