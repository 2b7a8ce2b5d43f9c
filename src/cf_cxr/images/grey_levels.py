"""Sample pictures: batches of radiographs as one grey image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    pass


def image_grid(rows: Sequence[torch.Tensor], gap: int = 2) -> np.ndarray:
    """Tile images: one row per tensor (B, 1, H, W) in [-1, 1]; returns (H', W') 8-bit grey, black gaps."""
    height, width = rows[0].shape[-2:]
    columns = max(len(row) for row in rows)
    shape = (len(rows) * (height + gap) - gap, columns * (width + gap) - gap)
    grid = np.zeros(shape, dtype=np.uint8)
    for i, row in enumerate(rows):
        pixels = ((row.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
        for j, picture in enumerate(pixels):
            top, left = i * (height + gap), j * (width + gap)
            grid[top : top + height, left : left + width] = picture[0]
    return grid


GREY_LEVELS = 127.5  # a difference of images on [-1, 1], times this, is a difference of 8-bit grey levels
