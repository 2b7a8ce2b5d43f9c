"""Grey levels: of differences between images, and of batches of radiographs as one sample picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import pad

GREY_LEVELS = 127.5  # a difference of images on [-1, 1], times this, is a difference of 8-bit grey levels


def image_grid(rows: Sequence[torch.Tensor], gap: int = 2) -> np.ndarray:
    """Tile images: one row per tensor (B, 1, H, W) in [-1, 1]; returns (H', W') 8-bit grey, black gaps."""
    columns = max(len(row) for row in rows)
    lines = []
    for row in rows:
        grey = ((row.detach().float().cpu().clamp(-1, 1) + 1) * GREY_LEVELS).round().to(torch.uint8)[:, 0]
        grey = pad(grey, (0, gap, 0, gap, 0, columns - len(row)))
        lines.append(grey.permute(1, 0, 2).flatten(1))
    return torch.cat(lines)[:-gap, :-gap].numpy()
