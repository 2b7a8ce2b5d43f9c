"""Projected thickness (cm along the beam) of every tissue, and the outlines of the organs.

Maps are ``(B, R, R)`` float32, or a window of that; curves that depend on the row only are ``(B, R, 1)``.
Branches are avoided: a side or a region is a weight in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .anatomy import Anatomy
from .grid import Grid

EDGE = 0.016  # half width of a tissue edge in film units
KNOB_Y, TRUNK_Y, HEART_Y, ATRIUM_Y = -0.33, -0.14, 0.215, 0.185

# Boxes (v, u) outside which a map is zero, for every possible anatomy.
HEART_BOX = (-0.45, 0.85), (-0.50, 0.90)
MEDIASTINUM_BOX = (-9.0, 9.0), (-0.30, 0.48)
AIRWAY_BOX = (-9.0, 0.25), (-0.20, 0.20)
SPINE_BOX = (-9.0, 9.0), (-0.16, 0.16)
CLAVICLE_BOX = (-1.05, -0.42), (-0.85, 0.85)
SHOULDER_BOX = (-0.80, 0.22), (-9.0, 9.0)
ARCH_BOX = (-0.66, 0.0), (-0.02, 0.48)
PULMONARY_BOX = (-0.28, 0.0), (-0.01, 0.21)
CARTILAGE_BOX = (-0.56, 0.66), (-0.48, 0.48)
BREAST_BOX = (-0.45, 0.95), (-9.0, 9.0)
FLUID_BOX = (-0.50, 9.0), (-9.0, 9.0)
GAS_BOX = (0.15, 9.0), (-0.05, 0.80)


def smoothstep(t: Tensor) -> Tensor:
    """Cubic step from 0 at t = 0 to 1 at t = 1."""
    t = t.clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def step(distance: Tensor, edge: float = EDGE) -> Tensor:
    """Linear step through 1/2 at distance 0, saturated at plus and minus ``edge``."""
    return (distance * (0.5 / edge)).add_(0.5).clamp_(0.0, 1.0)


def dome(squared_radius: Tensor) -> Tensor:
    """Chord of a unit ellipsoid, sqrt(1 - r^2), 0 outside."""
    return (1.0 - squared_radius).clamp_(min=0.0).sqrt_()


def bump(t: Tensor) -> Tensor:
    """Parabola 1 - t^2, 0 outside."""
    return (1.0 - t * t).clamp_(min=0.0)


def bone_profile(t: Tensor) -> Tensor:
    """Profile of a long bone across its width: the cortex makes the rims brighter."""
    t2 = t * t
    return (1.0 - t2 * t2 * t2).clamp_(min=0.0).mul_(t2.mul_(0.75).add_(0.55))


def _oval(g: Grid, cx: Tensor | float, cy: float, radius: Tensor | float) -> Tensor:
    """Squared distance from (cx, cy) relative to an upright oval, a quarter higher than wide."""
    x, y = (g.u - cx) * (1.0 / radius), (g.v - cy) * (1.0 / (1.25 * radius))
    return x.mul_(x).add_(y * y)


def cavity_half_width(a: Anatomy, v: Tensor) -> tuple[Tensor, Tensor]:
    """Inner half width of the thorax and depth profile in [0, 1], per row."""
    s = ((v - a.apex) / (a.base - a.apex)).clamp(0.0, 1.0)
    arch = (1.0 - (1.0 - s) ** 2.6) ** 0.62
    taper = 1.0 - 0.05 * ((s - 0.80).clamp(min=0.0) / 0.20) ** 2
    half = (a.apex_x + (a.half_width - a.apex_x) * arch) * taper
    return half, (s * 2.0).clamp(max=1.0).sqrt()


def apex_medial(a: Anatomy, v: Tensor) -> Tensor:
    """Medial limit of the lung's apex, per row."""
    s = ((v - a.apex) / (a.base - a.apex)).clamp(min=0.0)
    return a.apex_x * (1.0 - s / 0.14).clamp(min=0.0) ** 2


def cavity(a: Anatomy, g: Grid, q: Tensor, profile: Tensor) -> Tensor:
    """Pleural cavity with what lies in it, above and below the diaphragm, cm."""
    row = 0.72 * a.depth * profile * step(g.v - a.apex)
    return dome(q * q).mul_(row).mul_(step(g.x - apex_medial(a, g.v), 0.03))


def diaphragm_height(a: Anatomy, top: Tensor, q: Tensor) -> Tensor:
    """Height of a hemidiaphragm: a dome at q = 0.45 that drops to the costophrenic angle at q = 1."""
    lateral = ((q - 0.45) * (1.0 / 0.55)).clamp_(min=0.0)
    medial = ((0.45 - q) * (1.0 / 0.45)).clamp_(min=0.0)
    lateral, medial = lateral.mul_(lateral), medial.mul_(medial)
    return (lateral * 0.3).add_(0.7).mul_(lateral).mul_(a.dome_drop).add_(top).add_(medial.mul_(0.05))


def meniscus(q: Tensor, height: Tensor, corner: Tensor) -> Tensor:
    """Surface of pleural fluid: ``height`` above the costophrenic corner at the wall, falling medially."""
    return corner + 0.012 - height * torch.exp((q - 1.0) / (0.16 + 0.9 * height))


def fluid_depth(a: Anatomy, g: Grid, q: Tensor, right: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Depth below the fluid's surface and its height at the wall, for heights ``(B, 1, 1)`` per side."""
    height = g.by_side(right, left)
    corner = g.by_side(a.dome_right, a.dome_left) + a.dome_drop
    depth = g.v - meniscus(q, height, corner)
    return depth.mul_((height * 1e9).clamp_(max=1.0)), height  # a side without fluid has depth 0


def fluid_fraction(a: Anatomy, g: Grid, q: Tensor) -> Tensor:
    """Share of the cavity filled with fluid, in [0, 1]: the film of fluid thins out towards its surface."""
    depth, height = fluid_depth(a, g, q, a.fluid_right, a.fluid_left)
    return depth.div_(height.mul_(0.10).add_(0.035)).clamp_(0.0, 1.0)


def body(a: Anatomy, g: Grid) -> Tensor:
    """Soft tissue of trunk, shoulders and neck, cm."""
    v = g.v
    rise = smoothstep((v + 0.98) / 0.30)
    arms = smoothstep((v + 0.30) / 0.55)
    half = a.neck + (a.shoulder - a.neck) * rise + (a.trunk - a.shoulder) * arms
    depth = a.depth * (0.58 + 0.42 * smoothstep((v + 0.95) / 0.60) + 0.08 * smoothstep((v - 0.2) / 0.6))
    r = g.u * (1.0 / half)
    r = r.mul_(r)
    return dome(r.mul_(r)).mul_(depth)


def breasts(a: Anatomy, g: Grid) -> Tensor:
    """Breast shadows: steeper at their lower edge, cm."""
    radius = 0.24 + 0.028 * a.breast.clamp(max=6.0)
    x = (g.x - 0.62 * a.half_width) * (1.0 / (radius * 1.08))
    y = (g.v - a.breast_y) / radius
    y = 1.12 * y.clamp(min=0.0) + 0.72 * y.clamp(max=0.0)
    return dome(x.mul_(x).add_(y * y)).mul_(g.by_side(a.breast, a.breast * a.breast_ratio))


def _ellipse(g: Grid, cx: Tensor, cy: float, long: Tensor, short: Tensor, angle: Tensor) -> Tensor:
    cosine, sine = torch.cos(angle), torch.sin(angle)
    x, y = g.u - cx, g.v - cy
    along = (x * (cosine / long)).add_(y * (sine / long))
    across = (x * (sine / short)).sub_(y * (cosine / short))
    return along.mul_(along).add_(across.mul_(across))


def heart_ellipses(a: Anatomy, scale: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Left heart (tilted) and right atrium: centre, semi-axes and angle."""
    grow = 1.0 + 0.45 * (scale - 1.0)
    left = {"cx": a.heart_x + 0.055 * (scale - 1.0), "long": 0.33 * scale, "short": 0.235 * scale}
    right = {"cx": a.heart_x - 0.155 * grow, "long": 0.160 * grow, "short": 0.215 * grow}
    return {**left, "angle": a.heart_angle}, {**right, "angle": torch.zeros_like(scale)}


def heart_power(a: Anatomy, g: Grid, scale: Tensor) -> Tensor:
    """Fourth power of the heart's relative thickness: 0 outside, a smooth union of two ellipsoids inside."""
    left, right = heart_ellipses(a, scale)
    left = (1.0 - _ellipse(g, cy=HEART_Y, **left)).clamp_(min=0.0)
    right = (1.0 - _ellipse(g, cy=ATRIUM_Y, **right)).clamp_(min=0.0)
    return left.mul_(left).add_(right.mul_(right))


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


def mediastinum(a: Anatomy, g: Grid) -> Tensor:
    """Share of the cavity's depth taken by great vessels and descending aorta, in [0, 1]."""
    flare = 0.07 * smoothstep((g.v + 0.25) / 0.35) + 0.03 * smoothstep((-0.45 - g.v) / 0.3)
    middle = step(a.mediastinum + flare - g.x, 0.035).mul_(0.95)
    below = 0.60 * step(g.v - KNOB_Y, 0.05)
    descending = step(a.knob_x + 0.80 * a.knob_radius - g.u, 0.03).mul_(below).mul_(step(g.u, 0.05))
    return torch.maximum(middle, descending)


def aortic_knob(a: Anatomy, g: Grid) -> Tensor:
    """Share of the cavity's depth taken by the aortic arch."""
    return dome(_oval(g, a.knob_x, KNOB_Y, a.knob_radius)).mul_(0.75)


def pulmonary_trunk(a: Anatomy, g: Grid) -> Tensor:
    """Share of the cavity's depth taken by the pulmonary trunk."""
    return dome(_oval(g, 0.10, TRUNK_Y, 0.10)).mul_(0.70)


def airway(g: Grid) -> Tensor:
    """Trachea and main bronchi, cm of air."""
    trachea = dome(((g.u - 0.008) * (1.0 / 0.044)) ** 2).mul_(step(-0.20 - g.v, 0.04))
    slope = 1.0 / 0.62 + (1.0 / 0.95 - 1.0 / 0.62) * g.left
    bronchi = dome(((g.v + 0.20 - g.x * slope) * (1.0 / 0.042)) ** 2).mul_(step(0.15 - g.x, 0.03))
    return torch.maximum(trachea, bronchi.mul_(0.8)).mul_(1.7)


def stomach_gas(a: Anatomy, g: Grid) -> Tensor:
    """Gas bubble under the left hemidiaphragm, cm of air."""
    x = (g.u - a.gas_x) * (1.0 / (1.6 * a.gas_size))
    y = (g.v - a.dome_left - 0.06 - a.gas_size) / a.gas_size
    return dome(x.mul_(x).add_(y * y)).mul_(60.0 * a.gas_size)


def spine(a: Anatomy, g: Grid) -> Tensor:
    """Vertebral column with discs, pedicles and spinous processes, cm of bone."""
    x = (g.u - a.scoliosis * torch.sin(3.0 * g.v)) * (1.0 / a.spine_width)
    phase = (g.v + 0.9) * (2.0 * math.pi / 0.135) + 3.0 * a.rib_phase
    row = 0.78 + 0.22 * torch.cos(phase)
    pedicle = bump((x.abs() - 0.62) * (1.0 / 0.22)).mul_((torch.cos(phase - 0.8) - 0.2).clamp(min=0.0))
    process = bump(x * (1.0 / 0.16)).mul_((torch.cos(phase - 2.4) - 0.3).clamp(min=0.0))
    x = x * x
    return dome(x * x).mul_(1.9 * row) + 0.6 * pedicle + 0.7 * process


def _anterior_fall(a: Anatomy, q: Tensor) -> Tensor:
    """How far an anterior rib lies below its posterior origin."""
    medial = 1.0 - q
    return (medial * 0.20).add_(0.62).mul_(medial).add_(a.rib_slope)


def ribs(a: Anatomy, g: Grid, q: Tensor) -> Tensor:
    """Posterior and anterior ribs, one periodic family each, cm of bone."""
    inside = step(1.02 - q, 0.02)
    q = q.clamp(max=1.02)
    q2 = q * q
    density, row = 1.0 / a.rib_spacing, g.v / a.rib_spacing + a.rib_phase
    across = a.rib_spacing / a.rib_half

    bend = (q2 * a.rib_slope).add_(q, alpha=0.11).sub_(0.11).mul_(q).mul_(density)
    phase = row - bend
    posterior = bone_profile((phase - phase.floor()).sub_(0.5).mul_(across)).mul_(step(q - 0.10, 0.04))
    phase = row - _anterior_fall(a, q).mul_(density)
    reach = 0.46 - 0.05 * a.calcification
    anterior = bone_profile((phase - phase.floor()).sub_(0.5).mul_(across / 1.15))
    anterior = anterior.mul_(step(q - reach, 0.08)).mul_(0.26 * step(0.62 - g.v, 0.1))
    limits = smoothstep((g.v - a.apex + 0.02) / 0.10) * smoothstep((0.95 - g.v) / 0.35)
    tangential = dome(q2.mul_(0.94)).add_(0.28)  # the wall's ribs are crossed at a slant
    return posterior.mul_(0.66).add_(anterior).mul_(limits).mul_(inside).div_(tangential)


def clavicles(a: Anatomy, g: Grid) -> Tensor:
    """Clavicles, cm of bone."""
    lift = g.by_side(a.clavicle_right, a.clavicle_left)
    line = 0.25 * lift - 0.60 - (0.17 + lift) * g.x - 0.045 * torch.sin(5.2 * g.x - 0.52)
    end = step(g.x - 0.085, 0.02).mul_(step(0.80 - g.x, 0.03))
    return bone_profile((g.v - line) / a.clavicle_half).mul_(end).mul_(1.35)


def shoulders(a: Anatomy, g: Grid) -> Tensor:
    """Scapulae, humeral heads and proximal shafts, cm of bone."""
    x, v = g.x, g.v
    lateral = 0.98 - 0.42 * (v + 0.55).clamp(min=0.0)
    medial = a.scapula_x + 0.10 * (v + 0.3)
    blade = step(x - medial, 0.012).mul_(step(lateral - x, 0.02)).mul_(0.25 * step(v + 0.70, 0.03))
    rim = bump((x - (lateral - 0.035)) * (1.0 / 0.035)).mul_(
        0.4 * step(v + 0.62, 0.04) * step(0.15 - v, 0.05)
    )
    head = dome(((x - 0.98) ** 2).add_((v + 0.60) ** 2).mul_(1.0 / 0.14**2))
    shaft = bone_profile((x - (1.00 + 0.10 * (v + 0.58))) * (1.0 / 0.062))
    shaft = shaft.mul_(0.9 * step(v + 0.55, 0.03) * smoothstep((0.2 - v) / 0.3))
    return blade.add_(rim).add_(torch.maximum(head, shaft).mul_(1.6)).mul_(step(0.2 - v))


def aortic_calcium(a: Anatomy, g: Grid) -> Tensor:
    """Calcified rim of the aortic arch, cm of bone."""
    radius = _oval(g, a.knob_x, KNOB_Y, a.knob_radius).sqrt_()
    rim = bump((radius - 0.86) * (a.knob_radius / 0.022)).mul_(step(g.u - 0.04, 0.04))
    return rim.mul_(0.85 * a.calcification)


def cartilage_calcium(a: Anatomy, g: Grid, q: Tensor) -> Tensor:
    """Calcified costal cartilages, medial continuations of the anterior ribs, cm of bone."""
    row = (2.0 * math.pi / a.rib_spacing) * g.v + (2.0 * math.pi) * a.rib_phase - 1.57
    wave = torch.sin(row - _anterior_fall(a, q).mul_(2.0 * math.pi / a.rib_spacing))
    limits = 0.60 * a.calcification * step(g.v + 0.45, 0.1) * step(0.55 - g.v, 0.1)
    return bump((q - 0.36) * (1.0 / 0.15)).mul_(wave.sub_(0.2).clamp_(min=0.0)).mul_(limits)
