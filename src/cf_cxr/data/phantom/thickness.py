"""Projected thickness (cm along the beam) of every tissue, and the outlines of the organs.

All maps are ``(B, R, R)`` float32; curves that depend on the row only are ``(B, R, 1)``. Functions accept any
block of rows of the film. Branches are avoided: a side or a region is a weight in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .anatomy import Anatomy

EDGE = 0.016  # half width of a tissue edge in film units
_BLEND = 0.9  # of the heart's two ellipsoids
KNOB_Y, TRUNK_Y, HEART_Y, ATRIUM_Y = -0.33, -0.14, 0.215, 0.185


def smoothstep(t: Tensor) -> Tensor:
    """Cubic step from 0 at t = 0 to 1 at t = 1."""
    t = t.clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def step(distance: Tensor, edge: float = EDGE) -> Tensor:
    """Linear step through 1/2 at distance 0, saturated at plus and minus ``edge``."""
    return (distance * (0.5 / edge) + 0.5).clamp_(0.0, 1.0)


def dome(squared_radius: Tensor) -> Tensor:
    """Chord of a unit ellipsoid, sqrt(1 - r^2), 0 outside."""
    return (1.0 - squared_radius).clamp_(min=0.0).sqrt_()


def bump(t: Tensor) -> Tensor:
    """Parabola 1 - t^2, 0 outside."""
    return (1.0 - t * t).clamp_(min=0.0)


def bone_profile(t: Tensor) -> Tensor:
    """Profile of a long bone across its width: the cortex makes the rims brighter."""
    t2 = t * t
    return (1.0 - t2 * t2 * t2).clamp_(min=0.0).mul_(0.55 + 0.75 * t2)


@dataclass
class Thorax:
    """Pleural cavity: ``q = |u| / half(v)`` is 0 at the midline and 1 at the chest wall."""

    left: Tensor  # 1 on the patient's left (u > 0, image right), else 0
    x: Tensor  # |u|
    q: Tensor
    medial: Tensor  # (B, R, 1) medial limit of the apex
    diaphragm: Tensor  # height of the diaphragm at every pixel
    cavity: Tensor  # cm of cavity, above and below the diaphragm
    heart: Tensor  # squared normalised radius of the heart
    mediastinum: Tensor  # share of the cavity's depth taken by great vessels

    def by_side(self, right: Tensor, left: Tensor) -> Tensor:
        """``right`` on the image's left half, ``left`` on its right half; both ``(B, 1, 1)``."""
        return right + (left - right) * self.left


def cavity_half_width(a: Anatomy, v: Tensor) -> tuple[Tensor, Tensor]:
    """Inner half width of the thorax and depth profile in [0, 1], per row."""
    s = ((v - a.apex) / (a.base - a.apex)).clamp(0.0, 1.0)
    arch = (1.0 - (1.0 - s) ** 2.6) ** 0.62
    taper = 1.0 - 0.05 * ((s - 0.80).clamp(min=0.0) / 0.20) ** 2
    half = (a.apex_x + (a.half_width - a.apex_x) * arch) * taper
    return half, (s * 2.0).clamp(max=1.0).sqrt()


def diaphragm_height(a: Anatomy, top: Tensor, q: Tensor) -> Tensor:
    """Height of a hemidiaphragm: a dome at q = 0.45 that drops to the costophrenic angle at q = 1."""
    lateral = ((q - 0.45) * (1.0 / 0.55)).clamp_(min=0.0)
    medial = ((0.45 - q) * (1.0 / 0.45)).clamp_(min=0.0)
    lateral, medial = lateral * lateral, medial * medial
    return top + a.dome_drop * lateral * (0.7 + 0.3 * lateral) + 0.05 * medial


def build_thorax(a: Anatomy, u: Tensor, v: Tensor) -> Thorax:
    """The cavity in which the lungs lie, and what else lies in it."""
    left = (u > 0).float()
    x = u.abs()
    half, profile = cavity_half_width(a, v)
    s = ((v - a.apex) / (a.base - a.apex)).clamp(min=0.0)
    medial = a.apex_x * (1.0 - s / 0.14).clamp(min=0.0) ** 2
    q = x * (1.0 / half)
    cavity = dome(q * q).mul_(0.72 * a.depth * profile * step(v - a.apex)).mul_(step(x - medial, 0.03))
    top = a.dome_right + (a.dome_left - a.dome_right) * left
    heart = heart_radius(a, u, v, a.heart_scale)
    return Thorax(left, x, q, medial, diaphragm_height(a, top, q), cavity, heart, mediastinum(a, u, v, x))


def meniscus(q: Tensor, height: Tensor, corner: Tensor) -> Tensor:
    """Surface of pleural fluid: ``height`` above the costophrenic corner at the wall, falling medially."""
    return corner + 0.012 - height * torch.exp((q - 1.0) / (0.16 + 0.9 * height))


def fluid_fraction(a: Anatomy, t: Thorax, v: Tensor, rows: slice, right: Tensor, left: Tensor) -> Tensor:
    """Share of the cavity filled with fluid, in [0, 1], for heights at the wall ``(B, 1, 1)`` per side."""
    block = t.left[:, rows]
    height = right + (left - right) * block
    corner = a.dome_right + (a.dome_left - a.dome_right) * block + a.dome_drop
    depth = v[:, rows] - meniscus(t.q[:, rows], height, corner)
    return (depth / (0.035 + 0.10 * height)).clamp_(0.0, 1.0).mul_((height * 1e9).clamp_(max=1.0))


def body(a: Anatomy, u: Tensor, v: Tensor) -> Tensor:
    """Soft tissue of trunk, shoulders and neck, cm."""
    rise = smoothstep((v + 0.98) / 0.30)
    arms = smoothstep((v + 0.30) / 0.55)
    half = a.neck + (a.shoulder - a.neck) * rise + (a.trunk - a.shoulder) * arms
    depth = a.depth * (0.58 + 0.42 * smoothstep((v + 0.95) / 0.60) + 0.08 * smoothstep((v - 0.2) / 0.6))
    r = u * (1.0 / half)
    r = r * r
    return dome(r * r).mul_(depth)


def breasts(a: Anatomy, t: Thorax, v: Tensor, rows: slice) -> Tensor:
    """Breast shadows: steeper at their lower edge, cm."""
    radius = 0.24 + 0.028 * a.breast.clamp(max=6.0)
    x = (t.x[:, rows] - 0.62 * a.half_width) / (radius * 1.08)
    y = (v[:, rows] - a.breast_y) / radius
    y = 1.12 * y.clamp(min=0.0) + 0.72 * y.clamp(max=0.0)
    thick = a.breast + (a.breast * a.breast_ratio - a.breast) * t.left[:, rows]
    return dome(x * x + y * y).mul_(thick)


def _ellipse(
    u: Tensor, v: Tensor, cx: Tensor, cy: float, long: Tensor, short: Tensor, angle: Tensor
) -> Tensor:
    cosine, sine = torch.cos(angle), torch.sin(angle)
    x, y = u - cx, v - cy
    along = x * (cosine / long) + y * (sine / long)
    across = y * (cosine / short) - x * (sine / short)
    return along * along + across * across


def heart_ellipses(a: Anatomy, scale: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Left heart (tilted) and right atrium: centre, semi-axes and angle."""
    grow = 1.0 + 0.45 * (scale - 1.0)
    left = {"cx": a.heart_x + 0.055 * (scale - 1.0), "long": 0.33 * scale, "short": 0.235 * scale}
    right = {"cx": a.heart_x - 0.155 * grow, "long": 0.160 * grow, "short": 0.205 * grow}
    return {**left, "angle": a.heart_angle}, {**right, "angle": torch.zeros_like(scale)}


def heart_radius(a: Anatomy, u: Tensor, v: Tensor, scale: Tensor) -> Tensor:
    """Squared normalised radius of the heart, 1 on the outline.

    A smooth minimum of two ellipsoids; at the silhouette's lateral extremes it is the nearer one exactly.
    """
    left, right = heart_ellipses(a, scale)
    left, right = _ellipse(u, v, cy=HEART_Y, **left), _ellipse(u, v, cy=ATRIUM_Y, **right)
    share = ((right - left) * (0.5 / _BLEND) + 0.5).clamp_(0.0, 1.0)
    return torch.lerp(right, left, share).sub_(share * (1.0 - share) * _BLEND)


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


def mediastinum(a: Anatomy, u: Tensor, v: Tensor, x: Tensor) -> Tensor:
    """Share of the cavity's depth taken by great vessels, aorta and hila, in [0, 1]."""
    flare = 0.05 * smoothstep((v + 0.25) / 0.35) + 0.03 * smoothstep((-0.45 - v) / 0.3)
    result = step(a.mediastinum + flare - x, 0.03).mul_(0.85)
    knob = dome(((u - a.knob_x) ** 2 + (v - KNOB_Y) ** 2) * (1.0 / a.knob_radius**2))
    trunk = dome(((u - 0.10) ** 2 + (v - TRUNK_Y) ** 2) * (1.0 / 0.10**2))
    below = step(v - KNOB_Y, 0.05)
    descending = step(a.knob_x + 0.75 * a.knob_radius - u, 0.022).mul_(below).mul_(step(u, 0.05))
    result = torch.maximum(result, knob.mul_(0.85))
    return torch.maximum(torch.maximum(result, trunk.mul_(0.70)), descending.mul_(0.55))


def airway(u: Tensor, v: Tensor, t: Thorax, rows: slice) -> Tensor:
    """Trachea and main bronchi, cm of air."""
    u, v, x = u[:, rows], v[:, rows], t.x[:, rows]
    trachea = dome(((u - 0.008) * (1.0 / 0.044)) ** 2).mul_(step(-0.20 - v, 0.04))
    slope = 1.0 / 0.62 + (1.0 / 0.95 - 1.0 / 0.62) * t.left[:, rows]
    bronchi = dome(((v + 0.20 - x * slope) * (1.0 / 0.042)) ** 2).mul_(step(0.15 - x, 0.03))
    return torch.maximum(trachea, bronchi.mul_(0.8)).mul_(1.7)


def spine(a: Anatomy, u: Tensor, v: Tensor) -> Tensor:
    """Vertebral column with discs, pedicles and spinous processes, cm of bone."""
    x = (u - a.scoliosis * torch.sin(3.0 * v)) * (1.0 / a.spine_width)
    phase = (v + 0.9) * (2.0 * math.pi / 0.135) + 3.0 * a.rib_phase
    ring = torch.cos(phase)
    row = 0.78 + 0.22 * ring
    pedicle = bump((x.abs() - 0.62) * (1.0 / 0.22)).mul_((torch.cos(phase - 0.8) - 0.2).clamp(min=0.0))
    process = bump(x * (1.0 / 0.16)).mul_((torch.cos(phase - 2.4) - 0.3).clamp(min=0.0))
    x = x * x
    return dome(x * x).mul_(1.9 * row) + 0.6 * pedicle + 0.7 * process


def ribs(a: Anatomy, t: Thorax, v: Tensor) -> Tensor:
    """Posterior and anterior ribs, one periodic family each, cm of bone."""
    q = t.q.clamp(max=1.02)
    q2 = q * q
    medial = 1.0 - q
    half = a.rib_half / a.rib_spacing
    row = v / a.rib_spacing + a.rib_phase

    phase = row - (a.rib_slope * q2 * q - 0.11 * q * medial) / a.rib_spacing
    posterior = bone_profile((phase - phase.floor() - 0.5) / half).mul_(step(q - 0.10, 0.04))
    phase = row - (a.rib_slope + 0.62 * medial + 0.20 * medial * medial) / a.rib_spacing
    reach = 0.46 - 0.05 * a.calcification
    anterior = bone_profile((phase - phase.floor() - 0.5) / (1.15 * half)).mul_(step(q - reach, 0.08))
    limits = smoothstep((v - a.apex + 0.02) / 0.10) * smoothstep((0.95 - v) / 0.35)
    shade = step(1.02 - t.q, 0.02).mul_(limits).div_(dome(0.94 * q2).add_(0.28))
    return (0.66 * posterior + anterior * (0.26 * step(0.62 - v, 0.1))).mul_(shade)


def clavicles(a: Anatomy, t: Thorax, v: Tensor, rows: slice) -> Tensor:
    """Clavicles, cm of bone."""
    x, v = t.x[:, rows], v[:, rows]
    lift = a.clavicle_right + (a.clavicle_left - a.clavicle_right) * t.left[:, rows]
    line = 0.25 * lift - 0.60 - (0.17 + lift) * x - 0.045 * torch.sin(5.2 * x - 0.52)
    end = step(x - 0.085, 0.02).mul_(step(0.80 - x, 0.03))
    return bone_profile((v - line) / a.clavicle_half).mul_(end).mul_(1.35)


def shoulders(t: Thorax, v: Tensor, scapula: Tensor, rows: slice) -> Tensor:
    """Scapulae, humeral heads and shafts, cm of bone."""
    x, v = t.x[:, rows], v[:, rows]
    medial = 0.66 + 0.04 * scapula + 0.10 * (v + 0.3)
    lateral = 0.98 - 0.42 * (v + 0.55).clamp(min=0.0)
    blade = step(x - medial, 0.012).mul_(step(lateral - x, 0.02)).mul_(step(v + 0.70, 0.03))
    rim = bump((x - lateral + 0.035) / 0.035).mul_(step(v + 0.62, 0.04) * step(0.15 - v, 0.05))
    head = dome(((x - 0.98) ** 2 + (v + 0.60) ** 2).mul_(1.0 / 0.14**2))
    shaft = bone_profile((x - 1.00 - 0.10 * (v + 0.58)) / 0.062).mul_(step(v + 0.55, 0.03))
    return 0.25 * blade + 0.40 * rim + 1.6 * torch.maximum(head, 0.9 * shaft)


def calcium(a: Anatomy, t: Thorax, u: Tensor, v: Tensor, rows: slice) -> Tensor:
    """Calcified rim of the aortic arch and of the costal cartilages, cm of bone."""
    u, v, q = u[:, rows], v[:, rows], t.q[:, rows]
    radius = ((u - a.knob_x) ** 2 + (v - KNOB_Y) ** 2).sqrt_()
    rim = bump((radius - 0.86 * a.knob_radius) * (1.0 / 0.022)).mul_(step(u - 0.04, 0.04))
    medial = 1.0 - q
    fall = a.rib_slope + 0.62 * medial + 0.20 * medial * medial
    wave = torch.sin((v - fall) * (2.0 * math.pi / a.rib_spacing) + (2.0 * math.pi) * a.rib_phase - 1.57)
    band = bump((q - 0.36) * (1.0 / 0.15)).mul_((wave - 0.2).clamp_(min=0.0))
    return (0.85 * rim + band.mul_(0.60 * step(v + 0.45, 0.1) * step(0.55 - v, 0.1))).mul_(a.calcification)
