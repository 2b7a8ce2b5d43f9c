"""Render chests: factors and noise in; pictures, masks and measurements out."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from . import thickness as tissue
from .anatomy import Anatomy, Latents, build_anatomy
from .config import PhantomConfig
from .devices import device_map
from .imaging import BONE, SOFT_TISSUE, display, expose, marker, scatter, shutters
from .noise import grain_fields
from .vessels import TREES, sample_vessels

_TEXTURE = 16  # side of the coarse grid of parenchymal texture
_TILT = 0.02  # standard deviation of the patient's lean, as a shear


@dataclass
class PhantomImages:
    """A batch of rendered chests.

    Attributes:
        pixel_values: ``(n, 1, R, R)`` float32 in [-1, 1], on the 256 grey levels of an 8-bit picture.
        lung_mask: aerated lung, ``(n, 1, R, R)`` bool, as are all masks.
        heart_mask: heart silhouette.
        device_mask: pacemaker, leads and tubes.
        finding_mask: pleural fluid (effusion) or the heart (cardiomegaly) as far as it is pathological tissue.
        touch_mask: every pixel that do(finding) may change, whatever the severity; the rest stays identical.
        cardiothoracic_ratio: ``(n,)`` maximal heart width over maximal inner thorax width, exact.
        costophrenic_angles: ``(n, 2)`` degrees, patient's right (image left) first: between the chest wall and
            the chord of the lower border of the lung over the lateral 12 % of the half thorax.
    """

    pixel_values: Tensor
    lung_mask: Tensor
    heart_mask: Tensor
    device_mask: Tensor
    finding_mask: Tensor
    touch_mask: Tensor
    cardiothoracic_ratio: Tensor
    costophrenic_angles: Tensor

    def __len__(self) -> int:
        return len(self.pixel_values)

    @classmethod
    def concatenate(cls, parts: list[PhantomImages]) -> PhantomImages:
        """One batch out of several."""
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)})


def _axes(latents: Latents, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Film coordinates ``(R,)``, and anatomical u ``(B, R, R)`` and v ``(B, R, 1)``."""
    film = (torch.arange(resolution, dtype=torch.float32) + 0.5) * (2.0 / resolution) - 1.0
    zoom = torch.exp(0.035 * latents.z("zoom"))
    v = (film[None, :, None] - 0.03 * latents.z("shift_y")) / zoom
    u = (film[None, None, :] - 0.03 * latents.z("shift_x")) / zoom - _TILT * latents.z("tilt") * v
    return film, u, v


def _texture(fields_: Tensor, resolution: int) -> Tensor:
    coarse = fields_.view(-1, 1, _TEXTURE, _TEXTURE)
    return interpolate(coarse, size=(resolution, resolution), mode="bicubic", align_corners=False)[:, 0]


def _lung_air(a: Anatomy, t: tissue.Thorax, u: Tensor, v: Tensor, latents: Latents) -> tuple[Tensor, Tensor]:
    """Air along the beam before fluid and haze, cm; and cm of vessels in it."""
    domes = 0.82 * t.above + 0.18 * tissue.step(t.diaphragm + 0.05 - v, 0.05)
    heart = 0.52 * a.depth * tissue.dome(tissue.heart_radius(a, u, v, a.heart_scale))
    room = t.cavity * (1.0 - tissue.mediastinum(a, u, v))
    air = (room - heart).clamp(min=0.0) * domes
    tree = (latents.p("vessel_tree")[:, 0, 0] * TREES).long().clamp(max=TREES - 1)
    flip = 1.0 - 2.0 * (latents.p("vessel_flip") < 0.5).float()
    vessels = sample_vessels(u, v, tree, flip, 0.92 + 0.05 * latents.z("vessel_scale"))
    strength = 1.15 * torch.exp(0.2 * latents.z("vessel_strength"))
    return air, strength * vessels * (air / (air + 3.0))


def _stomach_gas(a: Anatomy, u: Tensor, v: Tensor, latents: Latents) -> Tensor:
    """Gas bubble under the left hemidiaphragm, cm of air."""
    size = 0.06 + 0.03 * latents.z("gas_size")
    x = (u - 0.33 - 0.06 * latents.z("gas_x")) / (1.6 * size.clamp(min=0.01))
    y = (v - a.dome_left - 0.05 - size) / size.clamp(min=0.01)
    return 70.0 * size.clamp(min=0.0) * tissue.dome(x * x + y * y)


def _pathology(
    a: Anatomy, t: tissue.Thorax, u: Tensor, v: Tensor, config: PhantomConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Fluid fraction, relative loss of air by haze, and the region do(finding) may touch."""
    fluid = tissue.fluid_fraction(a, t, u, v)
    if config.finding == "Effusion":
        affected = tissue.by_side(u, a.fluid_right, a.fluid_left) > 0
        basal = tissue.smoothstep((v - 0.05) / 0.40) * affected
        reach = (tissue.fluid_fraction(a, t, u, v, maximal=True) > 0) | (basal > 0)
    else:
        basal = tissue.step(0.44 - t.q, 0.12) * tissue.step(0.30 - (v - 0.02).abs(), 0.10)
        reach = (tissue.heart_radius(a, u, v, a.heart_scale_maximum) < 1.0) | (basal > 0)
    reach = reach & (t.cavity > 0) & (v < t.diaphragm + 0.11)
    touch = max_pool2d(reach[:, None].float(), 3, stride=1, padding=1) > 0  # the detector blur's reach
    return fluid, a.haze * basal, touch


def _costophrenic_angles(a: Anatomy) -> Tensor:
    """Costophrenic angles ``(B, 2)`` in degrees."""
    chord, result = 0.12, []
    q = torch.tensor([1.0, 1.0 - chord]).view(1, 1, 2)
    for sign, top, fluid in ((-1.0, a.dome_right, a.fluid_right), (1.0, a.dome_left, a.fluid_left)):
        corner = top + a.dome_drop
        line = tissue.diaphragm_height(a, torch.full_like(q, sign), q)
        line = torch.minimum(line, tissue.meniscus(q, fluid, corner))
        run = chord * tissue.cavity_half_width(a, corner)[0]
        result.append(torch.atan2(run[..., 0], line[..., 0] - line[..., 1])[:, 0])
    return torch.rad2deg(torch.stack(result, dim=1))


def _measurements(a: Anatomy, latents: Latents) -> tuple[Tensor, Tensor]:
    """Cardiothoracic ratio ``(B,)`` and costophrenic angles ``(B, 2)``."""
    shear = _TILT * latents.z("tilt")
    heart_low, heart_high = tissue.heart_extent(a, shear)
    low, high = tissue.thorax_extent(a, shear)
    return ((heart_high - heart_low) / (high - low))[:, 0, 0], _costophrenic_angles(a)


def render_latents(factors: Tensor, nuisances: Tensor, grain: Tensor, config: PhantomConfig) -> PhantomImages:
    """Render one batch.

    Args:
        factors: ``(B, len(FACTORS))``. nuisances: ``(B, len(NUISANCES))`` normal. grain: ``(B,)`` integers.
    """
    side, latents = config.resolution, Latents(factors.float(), nuisances.float())
    a = build_anatomy(latents, config)
    film, u, v = _axes(latents, side)
    t = tissue.build_thorax(a, u, v)
    noise = grain_fields(grain, side * side + _TEXTURE**2)
    fluid, haze, touch = _pathology(a, t, u, v, config)
    air, vessels = _lung_air(a, t, u, v, latents)
    air = air * a.air * (1.0 + 0.03 * _texture(noise[:, side * side :], side))

    habitus = tissue.body(a, u, v)
    soft = habitus + tissue.breasts(a, t, u, v) - tissue.airway(a, u, v) - _stomach_gas(a, u, v, latents)
    soft = soft - (air * (1.0 - haze) - vessels) * (1.0 - fluid)
    bone = tissue.spine(a, u, v) + tissue.ribs(a, t, u, v) + tissue.clavicles(a, u, v)
    bone = bone + tissue.shoulders(a, u, v, latents.z("scapula")) + tissue.calcium(a, t, u, v)
    devices = device_map(u, v, a, latents, config.device_rate)
    integral = SOFT_TISSUE * soft.clamp(min=0.0) + BONE * a.bone * bone + devices

    grainy = noise[:, : side * side].view(-1, side, side)
    log_signal = expose(integral, scatter(habitus, latents), grainy, latents, config)
    picture = display(log_signal, latents) * shutters(film, film, latents)
    picture = picture + (0.97 - picture).clamp(min=0.0) * marker(film, film, latents)
    pixels = (picture * 255.0).round() / 127.5 - 1.0

    ratio, angles = _measurements(a, latents)
    heart = tissue.heart_radius(a, u, v, a.heart_scale) < 1.0
    pleura = (t.q < 1.0) & (v > a.apex) & (u.abs() > t.medial) & (v < t.diaphragm) & ~heart
    pleura = pleura & (tissue.mediastinum(a, u, v) < 0.4)
    fluid_mask = pleura & (fluid > 0.5)
    masks = {
        "lung_mask": pleura & ~fluid_mask,
        "heart_mask": heart,
        "device_mask": devices > 0.1,
        "finding_mask": fluid_mask if config.finding == "Effusion" else heart,
    }
    return PhantomImages(
        pixel_values=pixels[:, None],
        touch_mask=touch,
        cardiothoracic_ratio=ratio,
        costophrenic_angles=angles,
        **{name: mask[:, None] for name, mask in masks.items()},
    )
