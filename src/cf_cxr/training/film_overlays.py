"""What lies on a film beside the patient: burnt-in text, wires and electrodes, the shutters' edge.

Every function draws one map per image, `(B, 1, H, W)` in [0, 1], 1 where the thing is. Lengths are fractions of the
image's side. Random numbers come from a CPU generator (or the global one); the maps lie on the CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

_SEGMENTS = 16  # straight pieces of a wire
_GLYPH = (5, 3)  # rows and columns of a letter's cells


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator | None = None) -> Tensor:
    """Uniform numbers in [low, high), float32."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def shutters(
    count: int, size: tuple[int, int], width: float, tilt: float = 3.0, generator: Generator | None = None
) -> Tensor:
    """Collimation: each of the four sides is covered by up to `width`, the frame turned by up to `tilt` degrees."""
    x, y = _coordinates(size)
    angle = uniform((count, 1, 1), -math.radians(tilt), math.radians(tilt), generator)
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    left, right, top, bottom = (1 - 2 * uniform((4, count, 1, 1), 0, width, generator)).unbind()
    inside = torch.stack([u + left, right - u, v + top, bottom - v]).amin(0)
    return (0.5 - inside * max(size) / 2).clamp(0, 1)[:, None]


def wires(
    count: int, size: tuple[int, int], most: int = 3, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Between 1 and `most` smooth wires per image, 0.005 to 0.02 wide, some with a round electrode at their end.

    Returns:
        The map, and the opacity `(B, 1, 1, 1)` in [0.15, 0.8] with which to draw it.
    """
    x, y = _coordinates(size)
    pixel = 2 / max(size)
    number = torch.randint(1, most + 1, (count,), generator=generator)
    drawn = torch.zeros(count, *size)
    for k in range(most):
        ends = uniform((count, 3, 2), -1.1, 1.1, generator)
        half_width = uniform((count, 1, 1), 0.005, 0.02, generator)
        radius = uniform((count, 1, 1), 0.02, 0.05, generator)
        radius = torch.where(uniform((count, 1, 1), 0, 1, generator) < 0.4, radius, torch.zeros(()))
        rows = (number > k).nonzero()[:, 0]
        if not len(rows):
            continue
        t = torch.linspace(0, 1, _SEGMENTS + 1)[None, :, None]
        p0, p1, p2 = (ends[rows, i, None] for i in range(3))
        curve = (1 - t) ** 2 * p0 + 2 * t * (1 - t) * p1 + t**2 * p2
        line = _coverage(_distance_to_curve(x, y, curve), half_width[rows], pixel)
        centre = ends[rows, 2]
        away = ((x - centre[:, 0, None, None]) ** 2 + (y - centre[:, 1, None, None]) ** 2).sqrt()
        disc = _coverage(away, radius[rows], pixel) * (radius[rows] > 0)
        drawn[rows] = torch.maximum(drawn[rows], torch.maximum(line, disc))
    return drawn[:, None], uniform((count, 1, 1, 1), 0.15, 0.8, generator)


def lettering(
    count: int, size: tuple[int, int], most: int = 3, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Between 1 and `most` words of invented letters per image, mostly near the upper or lower border.

    Returns:
        The map, and the grey level `(B, 1, 1, 1)` in [0, 1] in which to write: mostly bright, sometimes dark.
    """
    written = torch.zeros(count, 1, *size)
    height, width = size
    largest = max(1, min(size) // 48)
    for row in range(count):
        for _ in range(int(torch.randint(1, most + 1, (), generator=generator))):
            cell = int(torch.randint(1, largest + 1, (), generator=generator))
            letters = int(torch.randint(1, 8, (), generator=generator))
            letters = max(1, min(letters, width // (cell * (_GLYPH[1] + 1)) - 1))
            glyphs = torch.rand(letters, *_GLYPH, generator=generator) < 0.6
            word = torch.nn.functional.pad(glyphs, (0, 1)).permute(1, 0, 2).flatten(1).float()
            word = word.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width]
            h, w = word.shape
            free = max(0, height - h)
            where = torch.rand(3, generator=generator).tolist()
            band = free if where[2] < 0.2 else min(free, round(0.18 * height))
            top = round(band * where[0])
            top = free - top if where[2] > 0.6 else top
            left = round((width - w) * where[1])
            written[row, 0, top : top + h, left : left + w] = torch.maximum(
                written[row, 0, top : top + h, left : left + w], word
            )
    dark = torch.rand(count, 1, 1, 1, generator=generator) < 0.15
    bright = uniform((count, 1, 1, 1), 0.8, 1.0, generator)
    return written, torch.where(dark, 1 - bright, bright)


def _coordinates(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pixel centres, x `(1, 1, W)` and y `(1, H, 1)`, in [-1, 1]."""
    rows, columns = ((torch.arange(n) + 0.5) / n * 2 - 1 for n in size)
    return columns[None, None], rows[None, :, None]


def _distance_to_curve(x: Tensor, y: Tensor, curve: Tensor) -> Tensor:
    """Distance `(B, H, W)` of every pixel to a chain of straight pieces through `(B, K, 2)` points."""
    nearest = None
    for start, end in zip(curve[:, :-1].unbind(1), curve[:, 1:].unbind(1)):
        dx, dy = ((end - start)[:, i, None, None] for i in range(2))
        px, py = x - start[:, 0, None, None], y - start[:, 1, None, None]
        along = ((px * dx + py * dy) / (dx**2 + dy**2).clamp_min(1e-12)).clamp(0, 1)
        square = (px - along * dx) ** 2 + (py - along * dy) ** 2
        nearest = square if nearest is None else torch.minimum(nearest, square)
    return nearest.sqrt()


def _coverage(distance: Tensor, reach: Tensor, pixel: float) -> Tensor:
    """1 within `reach`, falling to 0 over one pixel."""
    return ((reach - distance) / pixel + 0.5).clamp(0, 1)


__all__ = ["lettering", "shutters", "uniform", "wires"]
