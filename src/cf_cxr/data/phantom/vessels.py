"""A fixed bank of branching vessel trees around two hila, drawn once per process."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

TREES, SIDE = 24, 128
_STEP = 0.011  # distance between samples along a vessel, in film units


def _tree(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Samples (x, y, radius) of the vessels of one lung, hilum at the origin, growing to x > 0."""
    samples = []
    roots = np.array([-1.2, -0.65, 0.0, 0.55, 1.0, 1.35]) + rng.normal(0.0, 0.12, 6)
    pending = [
        (rng.normal(0.0, 0.02), rng.normal(0.0, 0.05), angle, rng.uniform(0.020, 0.032)) for angle in roots
    ]
    while pending:
        x, y, angle, radius = pending.pop()
        steps = max(int(rng.uniform(0.9, 1.5) * (0.07 + 4.5 * radius) / _STEP), 2)
        bend = rng.normal(0.0, 0.25)
        for fraction in np.linspace(0.0, 1.0, steps):
            direction = angle + bend * fraction
            x, y = x + _STEP * np.cos(direction), y + _STEP * np.sin(direction)
            samples.append((x, y, radius * (1.0 - 0.25 * fraction)))
        split = rng.uniform(0.25, 0.6)
        for turn in (bend + split, bend - split):
            child = radius * rng.uniform(0.62, 0.80)
            if child > 0.0075:
                pending.append((x, y, angle + turn, child))
    return samples


def _draw(samples: np.ndarray) -> np.ndarray:
    """Largest chord of round vessels ``(m, 3)`` at every pixel, relative to radius 0.025."""
    pixel = 2.0 / SIDE
    reach = int(np.ceil(samples[:, 2].max() / pixel)) + 1
    offsets = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), axis=-1).reshape(
        -1, 2
    )
    centre = (samples[:, 1::-1] + 1.0) / pixel - 0.5  # row, column
    cells = np.rint(centre).astype(int)[:, None] + offsets
    squared = ((cells - centre[:, None]) ** 2).sum(-1) * pixel**2
    radius = samples[:, 2:]
    chord = radius / 0.025 * np.sqrt(np.clip(1.0 - squared / (radius + 0.5 * pixel) ** 2, 0.0, None))
    inside = ((cells >= 0) & (cells < SIDE)).all(-1)
    image = np.zeros((SIDE, SIDE), dtype=np.float32)
    np.maximum.at(image, tuple(cells[inside].T), chord[inside].astype(np.float32))
    return image


@lru_cache(maxsize=1)
def vessel_bank() -> Tensor:
    """Relative vessel thickness ``(TREES, 1, SIDE, SIDE)``; hila at x = -0.16 and 0.16, y = 0 on [-1, 1]^2."""
    rng = np.random.default_rng(20240)
    images = []
    for _ in range(TREES):
        lungs = [np.array(_tree(rng)) * (sign, 1.0, 1.0) + (0.16 * sign, 0.0, 0.0) for sign in (-1.0, 1.0)]
        images.append(_draw(np.concatenate(lungs)))
    return torch.from_numpy(np.stack(images))[:, None]


def sample_vessels(u: Tensor, v: Tensor, tree: Tensor, flip: Tensor, scale: Tensor) -> Tensor:
    """Vessels at (u, v) ``(B, R, R)``: tree number ``(B,)``, mirror sign and scale ``(B, 1, 1)``."""
    grid = torch.stack([u * (flip / scale), ((v + 0.02) / scale).expand_as(u)], dim=-1)
    maps = vessel_bank()[tree]
    return grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0]
