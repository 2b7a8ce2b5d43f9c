"""The film's coordinate system, seen from the patient: pixels, and windows that hold an organ."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .anatomy import Latents

_ZOOM, _ZOOM_SD = 1.06, 0.035
_SHIFT_SD = 0.03
_LEAN_SD = 0.02  # the patient's lean, as a shear
_REACH = 2.5  # nuisances are clipped to this many standard deviations

Window = tuple[slice, slice, slice]


def lean(latents: Latents) -> Tensor:
    """Shear of the patient's axis on the film, ``(B, 1, 1)``: a point (u, v) appears at u + lean * v."""
    return _LEAN_SD * latents.z("tilt")


@dataclass
class Grid:
    """Anatomical coordinates of a block of pixels.

    Attributes:
        u: ``(B, R, R)``, to the image's right. v: ``(B, R, 1)``, downwards. x: ``|u|``.
        left: 1 on the patient's left (u > 0, image right), else 0.
    """

    u: Tensor
    v: Tensor
    x: Tensor
    left: Tensor

    @classmethod
    def build(cls, film: Tensor, latents: Latents) -> Grid:
        """Coordinates of every pixel of a square film ``(R,)``."""
        zoom = _ZOOM * torch.exp(_ZOOM_SD * latents.z("zoom"))
        v = (film[None, :, None] - _SHIFT_SD * latents.z("shift_y")) / zoom
        u = (film[None, None, :] - _SHIFT_SD * latents.z("shift_x")) / zoom - lean(latents) * v
        return cls(u, v, u.abs(), (u > 0).float())

    def crop(self, window: Window) -> Grid:
        """The pixels of a window."""
        return Grid(self.u[window], self.v[window[:2]], self.x[window], self.left[window])

    def by_side(self, right: Tensor, left: Tensor) -> Tensor:
        """``right`` on the image's left half, ``left`` on its right half; both ``(B, 1, 1)``."""
        return right + (left - right) * self.left


def film_axis(resolution: int) -> Tensor:
    """Centres of the pixels along one side of the film, ``(R,)`` in [-1, 1]."""
    return (torch.arange(resolution, dtype=torch.float32) + 0.5) * (2.0 / resolution) - 1.0


def window(resolution: int, v: tuple[float, float], u: tuple[float, float] = (-9.0, 9.0)) -> Window:
    """Rows and columns that can hold a point of the box ``v`` x ``u``, whatever zoom, shift and lean."""
    return (
        slice(None),
        _span(resolution, *v, margin=0.0),
        _span(resolution, *u, margin=_REACH * _LEAN_SD * 1.2),
    )


def _span(resolution: int, low: float, high: float, margin: float) -> slice:
    zooms = [_ZOOM * math.exp(sign * _REACH * _ZOOM_SD) for sign in (-1.0, 1.0)]
    low = min(zoom * (low - margin) for zoom in zooms) - _REACH * _SHIFT_SD
    high = max(zoom * (high + margin) for zoom in zooms) + _REACH * _SHIFT_SD
    first, last = (int((min(max(edge, -1.0), 1.0) + 1.0) * 0.5 * resolution) for edge in (low, high))
    return slice(min(first, resolution - 1), min(last + 1, resolution))
