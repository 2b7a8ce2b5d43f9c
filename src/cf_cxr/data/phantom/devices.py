"""Implanted and external devices: a pacemaker with its leads, an endotracheal tube or a venous catheter."""

from __future__ import annotations

import torch
from torch import Tensor

from .anatomy import Anatomy, Latents
from .thickness import HEART_Y, step

DEVICE_ATTENUATION = 1.0  # the maps below are already in units of -log transmission


def _curve(points: Tensor, samples: int = 160) -> Tensor:
    """Cubic Bezier through control points ``(4, 2)``, sampled to ``(samples, 2)``."""
    t = torch.linspace(0.0, 1.0, samples)[:, None]
    weights = torch.cat([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)
    return weights @ points


def _near(u: Tensor, v: Tensor, curve: Tensor, half: float) -> Tensor:
    """Chord of a round wire of radius ``half`` along ``curve``, on the pixels ``(R, R)``."""
    result = torch.zeros_like(u)
    low, high = curve.amin(0) - 2 * half, curve.amax(0) + 2 * half
    inside = ((u > low[0]) & (u < high[0]) & (v > low[1]) & (v < high[1])).nonzero(as_tuple=True)
    if len(inside[0]):
        pixels = torch.stack([u[inside], v[inside]], dim=1)
        nearest = ((pixels[:, None] - curve[None]) ** 2).sum(-1).amin(1)
        result[inside] = (1.0 - nearest / half**2).clamp(min=0.0).sqrt()
    return result


def _pacemaker(u: Tensor, v: Tensor, a: Anatomy, latents: Latents, index: int, wire: float) -> Tensor:
    """Generator below a clavicle, two leads to the right atrium and ventricle; one image."""

    def z(name: str) -> float:
        return float(latents.z(name)[index, 0, 0])

    side = 1.0 if float(latents.p("pacemaker_side")[index, 0, 0]) < 0.8 else -1.0
    cx, cy = side * (0.52 + 0.03 * z("pacemaker_x")), -0.38 + 0.05 * z("pacemaker_y")
    x, y = (u - cx).abs() / 0.115, (v - cy).abs() / 0.10
    box = (x**3 + y**3) ** (1.0 / 3.0)
    can = step(1.0 - box, 0.12) * (1.15 + 0.5 * step(0.55 - (x**2 + y**2).sqrt(), 0.1))
    header = step(0.5 - x, 0.1) * step(0.17 - (y - 1.1).abs(), 0.06) * (v < cy)
    heart = float(a.heart_x[index, 0, 0])
    sway = 0.03 * z("lead_sway")
    atrium = torch.tensor([[cx, cy - 0.10], [side * 0.30, -0.66], [-0.13 + sway, -0.60], [-0.10, 0.12]])
    ventricle = torch.tensor(
        [[cx, cy - 0.10], [side * 0.26, -0.72], [-0.17 + sway, 0.35], [heart + 0.13, HEART_Y + 0.10]]
    )
    leads = [_near(u, v, _curve(points), wire) for points in (atrium, ventricle)]
    return torch.maximum(torch.maximum(can, 0.8 * header), 0.75 * torch.maximum(*leads))


def _tube(u: Tensor, v: Tensor, latents: Latents, index: int, wire: float) -> Tensor:
    """Endotracheal tube, or a central venous catheter from the right; one image."""
    depth = float(latents.z("tube_depth")[index, 0, 0])
    sway = 0.02 * float(latents.z("lead_sway")[index, 0, 0])
    if float(latents.p("tube_kind")[index, 0, 0]) < 0.5:
        end = -0.36 + 0.05 * depth
        wall = step(0.030 - (u - sway * (v + 1)).abs(), 0.02) * step(end - v, 0.02)
        line = (1.0 - ((u - sway * (v + 1) - 0.02) / max(wire, 0.012)) ** 2).clamp(min=0.0) * step(
            end - v, 0.02
        )
        return 0.18 * wall + 0.45 * line
    points = torch.tensor(
        [[-0.42, -1.05], [-0.34, -0.70], [-0.10 + sway, -0.62], [-0.105, 0.02 + 0.05 * depth]]
    )
    return 0.5 * _near(u, v, _curve(points), wire)


def device_map(u: Tensor, v: Tensor, a: Anatomy, latents: Latents, rate: float) -> Tensor:
    """-log transmission of the devices ``(B, R, R)``; zero where an image has none."""
    result = torch.zeros_like(u)
    wire = max(0.014, 1.1 / u.shape[-1])
    rows = v.expand_as(u)
    for index in range(len(u)):
        if float(latents.p("pacemaker")[index, 0, 0]) < rate:
            result[index] = _pacemaker(u[index], rows[index], a, latents, index, wire)
        if float(latents.p("tube")[index, 0, 0]) < rate:
            tube = _tube(u[index], rows[index], latents, index, wire)
            result[index] = torch.maximum(result[index], tube)
    return result
