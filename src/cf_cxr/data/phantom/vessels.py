"""A fixed bank of branching vessel trees around two hila, drawn once per process."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

TREES, SIDE = 32, 160


def _branch(rng: np.random.Generator, points: list, x: float, y: float, angle: float, width: float) -> None:
    """Append (x, y, width) samples of one vessel and of its children."""
    if width < 0.0065:
        return
    length = rng.uniform(0.9, 1.5) * (0.07 + 4.5 * width)
    bend = rng.normal(0.0, 0.25)
    for fraction in np.linspace(0.0, 1.0, max(int(length / 0.008), 2)):
        direction = angle + bend * fraction
        x, y = x + 0.008 * np.cos(direction), y + 0.008 * np.sin(direction)
        points.append((x, y, width * (1.0 - 0.25 * fraction)))
    split = rng.uniform(0.25, 0.6)
    _branch(rng, points, x, y, angle + bend + split, width * rng.uniform(0.62, 0.80))
    _branch(rng, points, x, y, angle + bend - split, width * rng.uniform(0.62, 0.80))


def _lung(rng: np.random.Generator) -> list:
    points: list = []
    for angle in np.array([-1.15, -0.55, 0.1, 0.65, 1.1, 1.45]) + rng.normal(0.0, 0.12, 6):
        _branch(rng, points, rng.normal(0.0, 0.02), rng.normal(0.0, 0.05), angle, rng.uniform(0.020, 0.030))
    return points


@lru_cache(maxsize=1)
def vessel_bank() -> Tensor:
    """Relative vessel thickness ``(TREES, 1, SIDE, SIDE)``; hila at x = -0.16 and 0.16, y = 0 on [-1, 1]^2."""
    rng = np.random.default_rng(20240)
    bank = np.zeros((TREES, SIDE, SIDE), dtype=np.float32)
    for image in bank:
        for sign in (-1.0, 1.0):
            for x, y, width in _lung(rng):
                _stamp(image, sign * (0.16 + x), y, width)
    return torch.from_numpy(bank)[:, None]


def _stamp(image: np.ndarray, x: float, y: float, width: float) -> None:
    """Keep the larger of the image and a round vessel section at (x, y)."""
    pixel = 2.0 / SIDE
    column, row, reach = (x + 1) / pixel - 0.5, (y + 1) / pixel - 0.5, int(np.ceil(width / pixel)) + 1
    r0, r1 = max(int(row) - reach, 0), min(int(row) + reach + 2, SIDE)
    c0, c1 = max(int(column) - reach, 0), min(int(column) + reach + 2, SIDE)
    if r0 >= r1 or c0 >= c1:
        return
    rows, columns = np.ogrid[r0:r1, c0:c1]
    squared = ((rows - row) ** 2 + (columns - column) ** 2) * pixel**2
    section = (width / 0.025) * np.sqrt(np.clip(1.0 - squared / (width + 0.5 * pixel) ** 2, 0.0, None))
    image[r0:r1, c0:c1] = np.maximum(image[r0:r1, c0:c1], section)


def sample_vessels(u: Tensor, v: Tensor, tree: Tensor, flip: Tensor, scale: Tensor) -> Tensor:
    """Vessels at (u, v) ``(B, R, R)``: tree number ``(B,)``, mirror sign and scale ``(B, 1, 1)``."""
    grid = torch.stack([u * flip / scale, ((v + 0.02) / scale).expand_as(u)], dim=-1)
    maps = vessel_bank()[tree]
    return grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0]
