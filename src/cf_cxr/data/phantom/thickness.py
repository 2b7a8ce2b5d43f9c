"""Projected thickness (cm along the beam) of every tissue, and the outlines of the organs.

All maps are ``(B, R, R)`` float32; curves that depend on the row only are ``(B, R, 1)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .anatomy import Anatomy

EDGE = 0.016  # half width of a tissue edge in film units


def smoothstep(t: Tensor) -> Tensor:
    """Cubic step from 0 at t = 0 to 1 at t = 1."""
    t = t.clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def step(distance: Tensor, edge: float = EDGE) -> Tensor:
    """Linear step through 1/2 at distance 0, saturated at plus and minus ``edge``."""
    return (0.5 + distance * (0.5 / edge)).clamp(0.0, 1.0)


def dome(squared_radius: Tensor) -> Tensor:
    """Chord of a unit ellipsoid, sqrt(1 - r^2), 0 outside."""
    return (1.0 - squared_radius).clamp(min=0.0).sqrt()


def by_side(u: Tensor, right: Tensor, left: Tensor) -> Tensor:
    """``right`` where u < 0 (image left is the patient's right), else ``left``."""
    return torch.where(u < 0, right, left)


@dataclass
class Thorax:
    """Pleural cavity: ``q = |u| / half(v)`` is 0 at the midline and 1 at the chest wall."""

    half: Tensor  # (B, R, 1) inner half width per row
    q: Tensor
    medial: Tensor  # (B, R, 1) medial limit of the apex
    diaphragm: Tensor  # height of the diaphragm at every pixel's u
    cavity: Tensor  # cm of cavity, above and below the diaphragm
    above: Tensor  # 1 above the diaphragm, 0 below


def cavity_half_width(a: Anatomy, v: Tensor) -> tuple[Tensor, Tensor]:
    """Inner half width of the thorax and depth profile in [0, 1], per row."""
    s = ((v - a.apex) / (a.base - a.apex)).clamp(0.0, 1.0)
    arch = (1.0 - (1.0 - s) ** 2.6) ** 0.62
    taper = 1.0 - 0.05 * ((s - 0.80).clamp(min=0.0) / 0.20) ** 2
    half = (a.apex_x + (a.half_width - a.apex_x) * arch) * taper
    return half, (s * 2.0).clamp(max=1.0).sqrt()


def diaphragm_height(a: Anatomy, u: Tensor, q: Tensor) -> Tensor:
    """Height of the diaphragm: a dome at q = 0.45 that drops to the costophrenic angle at q = 1."""
    top = by_side(u, a.dome_right, a.dome_left)
    lateral = ((q - 0.45).clamp(min=0.0) / 0.55) ** 2
    medial = ((0.45 - q).clamp(min=0.0) / 0.45) ** 2
    return top + a.dome_drop * lateral * (0.7 + 0.3 * lateral) + 0.05 * medial


def build_thorax(a: Anatomy, u: Tensor, v: Tensor) -> Thorax:
    """The cavity in which the lungs lie."""
    half, profile = cavity_half_width(a, v)
    s = ((v - a.apex) / (a.base - a.apex)).clamp(min=0.0)
    medial = a.apex_x * (1.0 - s / 0.14).clamp(min=0.0) ** 2
    q = u.abs() / half
    cavity = (0.68 * a.depth) * profile * dome(q * q) * step(u.abs() - medial, 0.03) * step(v - a.apex)
    diaphragm = diaphragm_height(a, u, q)
    return Thorax(half, q, medial, diaphragm, cavity, step(diaphragm - v))


def meniscus(q: Tensor, height: Tensor, corner: Tensor) -> Tensor:
    """Surface of pleural fluid: ``height`` above the costophrenic corner at the wall, falling medially."""
    reach = 0.16 + 0.9 * height
    return corner - height * torch.exp((q - 1.0) / reach) + 0.012


def fluid_fraction(a: Anatomy, t: Thorax, u: Tensor, v: Tensor, maximal: bool = False) -> Tensor:
    """Share of the cavity filled with fluid, in [0, 1]; ``maximal`` is the envelope over all severities."""
    right, left = (a.fluid_maximum_right, a.fluid_maximum_left) if maximal else (a.fluid_right, a.fluid_left)
    corner = by_side(u, a.dome_right, a.dome_left) + a.dome_drop
    height = by_side(u, right, left)
    surface = meniscus(t.q, height, corner)
    return ((v - surface) / (0.035 + 0.10 * height)).clamp(0.0, 1.0) * (height > 0)


def body(a: Anatomy, u: Tensor, v: Tensor) -> Tensor:
    """Soft tissue of trunk, shoulders and neck, cm."""
    rise = smoothstep((v + 0.98) / 0.30)
    arms = smoothstep((v + 0.30) / 0.55)
    half = a.neck + (a.shoulder - a.neck) * rise + (a.trunk - a.shoulder) * arms
    depth = a.depth * (0.58 + 0.42 * smoothstep((v + 0.95) / 0.60))
    r = (u / half) ** 2
    return depth * dome(r * r)


def breasts(a: Anatomy, t: Thorax, u: Tensor, v: Tensor) -> Tensor:
    """Breast shadows: steeper at their lower edge, cm."""
    radius = 0.24 + 0.028 * a.breast.clamp(max=6.0)
    x = (u.abs() - 0.62 * a.half_width) / (radius * 1.08)
    y = (v - a.breast_y) / radius
    y = torch.where(y > 0, 1.12 * y, 0.72 * y)
    r = x * x + y * y
    return by_side(u, a.breast, a.breast * a.breast_ratio) * dome(r)


def _ellipse(
    u: Tensor, v: Tensor, cx: Tensor, cy: float, long: Tensor, short: Tensor, angle: Tensor
) -> Tensor:
    cosine, sine = torch.cos(angle), torch.sin(angle)
    x, y = u - cx, v - cy
    along, across = (x * cosine + y * sine) / long, (y * cosine - x * sine) / short
    return along * along + across * across


def heart_ellipses(a: Anatomy, scale: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Left heart (tilted) and right atrium: centre, semi-axes and angle."""
    one = torch.ones_like(scale)
    grow = 1.0 + 0.45 * (scale - 1.0)
    left = {"cx": a.heart_x + 0.055 * (scale - 1.0), "long": 0.33 * scale, "short": 0.235 * scale}
    right = {"cx": a.heart_x - 0.155 * grow, "long": 0.160 * grow, "short": 0.205 * grow}
    return {**left, "angle": a.heart_angle * one}, {**right, "angle": 0.0 * one}


HEART_Y, ATRIUM_Y = 0.215, 0.185


def heart_radius(a: Anatomy, u: Tensor, v: Tensor, scale: Tensor) -> Tensor:
    """Squared normalised radius of the heart, the smaller of its two ellipsoids; 1 on the outline."""
    left, right = heart_ellipses(a, scale)
    return torch.minimum(_ellipse(u, v, cy=HEART_Y, **left), _ellipse(u, v, cy=ATRIUM_Y, **right))


def heart_extent(a: Anatomy, shear: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest u + shear * v on the heart's outline, ``(B, 1, 1)`` each."""
    low, high = [], []
    for ellipse, cy in zip(heart_ellipses(a, a.heart_scale), (HEART_Y, ATRIUM_Y), strict=True):
        cosine, sine = torch.cos(ellipse["angle"]), torch.sin(ellipse["angle"])
        along, across = ellipse["long"] * (cosine + shear * sine), ellipse["short"] * (shear * cosine - sine)
        centre, reach = ellipse["cx"] + shear * cy, (along**2 + across**2).sqrt()
        low.append(centre - reach)
        high.append(centre + reach)
    return torch.minimum(*low), torch.maximum(*high)


def thorax_extent(a: Anatomy, shear: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest u + shear * v on the chest wall above the costophrenic corners, ``(B, 1, 1)`` each."""
    share = torch.linspace(0.0, 1.0, 201).view(1, -1, 1)
    result = []
    for sign, top in ((-1.0, a.dome_right), (1.0, a.dome_left)):
        v = a.apex + share * (top + a.dome_drop - a.apex)
        wall = sign * cavity_half_width(a, v)[0] + shear * v
        result.append(wall.amin(1, keepdim=True) if sign < 0 else wall.amax(1, keepdim=True))
    return result[0], result[1]


def mediastinum(a: Anatomy, u: Tensor, v: Tensor) -> Tensor:
    """Share of the cavity's depth taken by great vessels and aorta, in [0, 1]."""
    flare = 0.05 * smoothstep((v + 0.25) / 0.35) + 0.03 * smoothstep((-0.45 - v) / 0.3)
    trunk = step(a.mediastinum + flare - u.abs(), 0.025)
    x, y = u - a.knob_x, v + 0.33
    knob = step(a.knob_radius - (x * x + y * y).sqrt())
    descending = step(a.knob_x + 0.75 * a.knob_radius - u, 0.022) * step(u, 0.05) * step(v + 0.33, 0.05)
    return torch.maximum(torch.maximum(0.85 * trunk, 0.80 * knob), 0.55 * descending)


def airway(a: Anatomy, u: Tensor, v: Tensor) -> Tensor:
    """Trachea and main bronchi, cm of air."""
    trachea = dome((u - 0.008) ** 2 / 0.044**2) * step(-0.20 - v, 0.04)
    slope = torch.where(u < 0, 0.62, 0.95)
    bronchi = dome((v + 0.20 - u.abs() / slope) ** 2 / 0.042**2) * step(0.15 - u.abs(), 0.03)
    return 1.7 * torch.maximum(trachea, 0.8 * bronchi)


def spine(a: Anatomy, u: Tensor, v: Tensor) -> Tensor:
    """Vertebral column with discs, pedicles and spinous processes, cm of bone."""
    x = (u - a.scoliosis * torch.sin(3.0 * v)) / a.spine_width
    phase = (v + 0.9) * (2.0 * math.pi / 0.135) + 3.0 * a.rib_phase
    ring = torch.cos(phase)
    row = 0.80 + 0.20 * ring + 0.10 * (ring > 0.80)
    pedicle = (1.0 - ((x.abs() - 0.62) / 0.22) ** 2).clamp(min=0.0) * (torch.cos(phase - 0.8) - 0.2).clamp(
        min=0.0
    )
    process = (1.0 - (x / 0.16) ** 2).clamp(min=0.0) * (torch.cos(phase - 2.4) - 0.3).clamp(min=0.0)
    x2 = x * x
    return 2.6 * row * dome(x2 * x2) + 0.7 * pedicle + 0.8 * process


def _tube(t: Tensor) -> Tensor:
    """Profile of a long bone across its width: a thin cortex makes the rims brighter."""
    t2 = t * t
    return (0.55 + 0.75 * t2) * (t2 < 1.0) * (1.0 - t2 * t2 * t2).clamp(min=0.0)


def ribs(a: Anatomy, t: Thorax, u: Tensor, v: Tensor) -> Tensor:
    """Posterior and anterior ribs, one periodic family each, cm of bone."""
    q = t.q.clamp(max=1.02)
    q2 = q * q
    bend = a.rib_slope * q2 * q - 0.10 * q * (1.0 - q)
    shade = 1.0 / (dome(0.94 * q2) + 0.25)
    inside = step(1.02 - t.q, 0.02)
    half = a.rib_half / a.rib_spacing

    phase = (v - bend) / a.rib_spacing + a.rib_phase
    posterior = _tube((phase - torch.floor(phase) - 0.5) / half) * step(q - 0.10, 0.04)
    fall = (a.rib_slope + 0.50 * (1.0 - q) * (1.0 + 0.4 * (1.0 - q))) / a.rib_spacing
    phase = v / a.rib_spacing - fall + a.rib_phase
    reach = 0.46 - 0.05 * a.calcification
    anterior = _tube((phase - torch.floor(phase) - 0.5) / (1.15 * half)) * step(q - reach, 0.08)
    limits = smoothstep((v - a.apex + 0.02) / 0.10) * smoothstep((0.95 - v) / 0.35)
    return (0.62 * posterior + 0.40 * anterior * step(0.62 - v, 0.1)) * shade * inside * limits


def clavicles(a: Anatomy, u: Tensor, v: Tensor) -> Tensor:
    """Clavicles, cm of bone."""
    x = u.abs()
    lift = by_side(u, a.clavicle_right, a.clavicle_left)
    line = -0.60 + 0.25 * lift - (0.17 + lift) * x - 0.045 * torch.sin(5.2 * (x - 0.1))
    end = step(x - 0.085, 0.02) * step(0.80 - x, 0.03)
    return 0.95 * _tube((v - line) / a.clavicle_half) * end


def shoulders(a: Anatomy, u: Tensor, v: Tensor, scapula: Tensor) -> Tensor:
    """Scapulae, humeral heads and shafts, cm of bone."""
    x = u.abs()
    medial = 0.66 + 0.04 * scapula + 0.10 * (v + 0.3)
    lateral = 0.98 - 0.42 * (v + 0.55).clamp(min=0.0)
    blade = step(x - medial, 0.012) * step(lateral - x, 0.02) * step(v + 0.70, 0.03)
    rim = (
        (1.0 - ((x - lateral + 0.035) / 0.035) ** 2).clamp(min=0.0)
        * step(v + 0.62, 0.04)
        * step(0.15 - v, 0.05)
    )
    head = dome(((x - 1.0) ** 2 + (v + 0.58) ** 2) / 0.14**2)
    shaft = _tube((x - 1.02 - 0.10 * (v + 0.58)) / 0.062) * step(v + 0.55, 0.03)
    return 0.22 * blade + 0.40 * rim + 1.6 * torch.maximum(head, 0.9 * shaft)


def calcium(a: Anatomy, t: Thorax, u: Tensor, v: Tensor) -> Tensor:
    """Calcified rim of the aortic arch and of the costal cartilages, cm of bone."""
    radius = ((u - a.knob_x) ** 2 + (v + 0.33) ** 2).sqrt()
    rim = (1.0 - ((radius - 0.86 * a.knob_radius) / 0.022) ** 2).clamp(min=0.0) * step(u - 0.04, 0.04)
    fall = 0.50 * (1.0 - t.q) * (1.0 + 0.4 * (1.0 - t.q)) + a.rib_slope
    wave = torch.sin((v - fall) * (2.0 * math.pi / a.rib_spacing) + 6.28 * a.rib_phase - 1.57)
    band = (1.0 - ((t.q - 0.36) / 0.15) ** 2).clamp(min=0.0) * (wave - 0.2).clamp(min=0.0)
    return a.calcification * (0.85 * rim + 0.60 * band * step(v + 0.45, 0.1) * step(0.55 - v, 0.1))
