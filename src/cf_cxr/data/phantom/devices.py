"""Implanted and external devices: a pacemaker with its leads, an endotracheal tube or a venous catheter."""

from __future__ import annotations

import torch
from torch import Tensor

from .anatomy import Anatomy, Latents
from .grid import window
from .thickness import HEART_Y, step


def _curve(points: list[list[float]], samples: int) -> Tensor:
    """Cubic Bezier through control points ``(4, 2)``, sampled to ``(samples, 2)``."""
    t = torch.linspace(0.0, 1.0, samples)[:, None]
    weights = torch.cat([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)
    return weights @ torch.tensor(points)


def _wire(u: Tensor, v: Tensor, curve: Tensor, half: float) -> Tensor:
    """Chord of a round wire of radius ``half`` along ``curve`` ``(m, 2)``, on the pixels ``(R, R)``."""
    resolution, pitch = len(u), float(u[0, 1] - u[0, 0])
    reach = int(half / pitch) + 1
    offsets = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * 2)
    row = ((curve[:, 1] - v[0, 0]) / (v[1, 0] - v[0, 0])).round().long()
    column = (curve[:, 0] - u[row.clamp(0, resolution - 1), 0]) / pitch
    cells = torch.stack([row, column.round().long()], dim=1)[:, None] + offsets  # (m, k, 2)
    inside = ((cells >= 0) & (cells < resolution)).all(-1)
    rows, columns = cells[inside].unbind(-1)
    centre = curve[:, None].expand(-1, len(offsets), -1)[inside]
    squared = (u[rows, columns] - centre[:, 0]) ** 2 + (v[rows, 0] - centre[:, 1]) ** 2
    chord = (1.0 - squared / half**2).clamp(min=0.0).sqrt()
    flat = torch.zeros(resolution * resolution)
    return flat.scatter_reduce_(0, rows * resolution + columns, chord, "amax").view(resolution, resolution)


def _generator(x: Tensor, y: Tensor) -> Tensor:
    """The can with its battery, and the header above; x and y relative to the can's half sides."""
    can = step(1.0 - (x.abs() ** 3 + y.abs() ** 3) ** (1.0 / 3.0), 0.12)
    can = can * (1.15 + 0.5 * step(0.55 - (x**2 + y**2).sqrt(), 0.1))
    header = step(0.5 - x.abs(), 0.1) * step(0.17 - (y + 1.1).abs(), 0.06)
    return torch.maximum(can, 0.8 * header)


def _pacemaker(u: Tensor, v: Tensor, a: Anatomy, latents: Latents, wire: float) -> Tensor:
    """Generator below a clavicle, two leads to the right atrium and ventricle; a batch of one image."""

    def z(name: str) -> float:  # a nuisance of this image
        return float(latents.z(name))

    side = 1.0 if float(latents.p("pacemaker_side")) < 0.8 else -1.0
    cx, cy = side * (0.52 + 0.03 * z("pacemaker_x")), -0.38 + 0.05 * z("pacemaker_y")
    _, rows, columns = window(len(u), (cy - 0.14, cy + 0.13), (cx - 0.14, cx + 0.14))
    generator = torch.zeros_like(u)
    generator[rows, columns] = _generator((u[rows, columns] - cx) / 0.115, (v[rows] - cy) / 0.10)
    heart, sway, samples = float(a.heart_x), 0.03 * z("lead_sway"), 2 * len(u)
    atrium = [[cx, cy - 0.10], [side * 0.30, -0.66], [-0.13 + sway, -0.60], [-0.10, 0.12]]
    tip = [heart + 0.13, HEART_Y + 0.10]
    ventricle = [[cx, cy - 0.10], [side * 0.26, -0.72], [-0.17 + sway, 0.35], tip]
    leads = [_wire(u, v, _curve(points, samples), wire) for points in (atrium, ventricle)]
    return torch.maximum(generator, torch.maximum(*leads).mul_(0.75))


def _tube(u: Tensor, v: Tensor, latents: Latents, wire: float) -> Tensor:
    """Endotracheal tube, or a central venous catheter from the right; a batch of one image."""
    depth, sway = float(latents.z("tube_depth")), 0.02 * float(latents.z("lead_sway"))
    if float(latents.p("tube_kind")) < 0.5:
        x, inside = u - sway * (v + 1.0), step(0.05 * depth - 0.36 - v, 0.02)
        line = (1.0 - ((x - 0.02) / wire) ** 2).clamp(min=0.0)
        return (0.18 * step(0.030 - x.abs(), 0.02) + 0.45 * line) * inside
    points = [[-0.42, -1.05], [-0.34, -0.70], [-0.10 + sway, -0.62], [-0.105, 0.02 + 0.05 * depth]]
    return 0.5 * _wire(u, v, _curve(points, 2 * len(u)), wire)


def device_map(u: Tensor, v: Tensor, a: Anatomy, latents: Latents, rate: float) -> Tensor:
    """-log transmission of the devices ``(B, R, R)``; zero where an image has none."""
    result = torch.zeros_like(u)
    wire = max(0.014, 1.1 / u.shape[-1])
    has_pacemaker = (latents.p("pacemaker") < rate).flatten().tolist()
    has_tube = (latents.p("tube") < rate).flatten().tolist()
    for i, (pacemaker, tube) in enumerate(zip(has_pacemaker, has_tube, strict=True)):
        if pacemaker:
            result[i] = _pacemaker(u[i], v[i], a.row(i), latents.row(i), wire)
        if tube:
            result[i] = torch.maximum(result[i], _tube(u[i], v[i], latents.row(i), wire))
    return result
