"""Render chests: factors and noise in; pictures, masks and measurements out."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from . import thickness as tissue
from .anatomy import Anatomy, Latents, build_anatomy
from .config import PhantomConfig
from .devices import device_map
from .imaging import BONE, SOFT_TISSUE, display, expose, marker, scatter, shutters
from .noise import grain_fields
from .thickness import Thorax
from .vessels import TREES, sample_vessels

_TEXTURE = 16  # side of the coarse grid of parenchymal texture
_TILT = 0.02  # standard deviation of the patient's lean, as a shear
_ZOOM = 1.06


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
    zoom = _ZOOM * torch.exp(0.035 * latents.z("zoom"))
    v = (film[None, :, None] - 0.03 * latents.z("shift_y")) / zoom
    u = (film[None, None, :] - 0.03 * latents.z("shift_x")) / zoom - _TILT * latents.z("tilt") * v
    return film, u, v


def _rows(resolution: int, low: float, high: float) -> slice:
    """Rows of the film that can hold a v between ``low`` and ``high``, whatever zoom and shift."""
    zooms = (_ZOOM * math.exp(-0.0875), _ZOOM * math.exp(0.0875))  # 2.5 standard deviations, as all nuisances
    first = min(zoom * low for zoom in zooms) - 0.075
    last = max(zoom * high for zoom in zooms) + 0.075
    first, last = (int((edge + 1.0) * 0.5 * resolution) for edge in (max(first, -1.0), min(last, 1.0)))
    return slice(first, min(last + 1, resolution))


@lru_cache(maxsize=8)
def _upsampling(resolution: int) -> Tensor:
    """Cubic interpolation from the texture's coarse grid, ``(R, _TEXTURE)``."""
    identity = torch.eye(_TEXTURE)[:, None]
    matrix = interpolate(identity[..., None], size=(resolution, 1), mode="bicubic", align_corners=False)
    return matrix[:, 0, :, 0].T.contiguous()


def _texture(coarse: Tensor, resolution: int) -> Tensor:
    weights = _upsampling(resolution)
    return weights @ coarse.view(-1, _TEXTURE, _TEXTURE) @ weights.T


def _lung_air(a: Anatomy, t: Thorax, v: Tensor) -> Tensor:
    """Cavity above the diaphragm that neither heart nor vessels nor aorta fill, cm."""
    room = t.cavity * (1.0 - t.mediastinum)
    air = (room - tissue.dome(t.heart).mul_(0.52 * a.depth)).clamp_(min=0.0)
    below = t.diaphragm - v
    return air.mul_(0.82 * tissue.step(below) + 0.18 * tissue.step(below + 0.05, 0.05))


def _vessels(u: Tensor, v: Tensor, air: Tensor, latents: Latents) -> Tensor:
    """Vessels in the lung, cm of blood."""
    tree = (latents.p("vessel_tree")[:, 0, 0] * TREES).long().clamp(max=TREES - 1)
    flip = 1.0 - 2.0 * (latents.p("vessel_flip") < 0.5).float()
    vessels = sample_vessels(u, v, tree, flip, 0.92 + 0.05 * latents.z("vessel_scale"))
    strength = 1.9 * torch.exp(0.2 * latents.z("vessel_strength"))
    return vessels.mul_(strength).mul_(air / (air + 3.0))


def _stomach_gas(a: Anatomy, u: Tensor, v: Tensor, latents: Latents) -> Tensor:
    """Gas bubble under the left hemidiaphragm, cm of air."""
    size = (0.05 + 0.03 * latents.z("gas_size")).clamp(min=0.005)
    x = (u - 0.33 - 0.06 * latents.z("gas_x")) / (1.6 * size)
    y = (v - a.dome_left - 0.06 - size) / size
    return tissue.dome(x * x + y * y).mul_(60.0 * size)


def _dilate(mask: Tensor) -> Tensor:
    """3 x 3 dilation of ``(B, R, R)`` bool: the reach of the detector's blur."""
    mask = mask.clone()
    for axis in (1, 2):
        n = mask.shape[axis]
        grown = mask.clone()
        grown.narrow(axis, 1, n - 1).logical_or_(mask.narrow(axis, 0, n - 1))
        grown.narrow(axis, 0, n - 1).logical_or_(mask.narrow(axis, 1, n - 1))
        mask = grown
    return mask


@dataclass
class _Pathology:
    fluid: Tensor  # share of the cavity filled with fluid
    haze: Tensor  # share of the air lost
    touch: Tensor  # bool, where do(finding) may change the picture


def _pathology(a: Anatomy, t: Thorax, u: Tensor, v: Tensor, config: PhantomConfig) -> _Pathology:
    """What the finding does to the lungs, and the region in which any severity of it would act."""
    fluid, reach = torch.zeros_like(u), torch.zeros_like(u)
    low = _rows(u.shape[-1], -0.30, 2.0)  # fluid at its maximum stays below
    fluid[:, low] = tissue.fluid_fraction(a, t, v, low, a.fluid_right, a.fluid_left)
    if config.finding == "Effusion":
        affected = t.by_side((a.fluid_right > 0).float(), (a.fluid_left > 0).float())
        basal = tissue.smoothstep((v - 0.05) / 0.40) * affected
        reach[:, low] = tissue.fluid_fraction(a, t, v, low, a.fluid_maximum_right, a.fluid_maximum_left)
    else:
        basal = tissue.step(0.44 - t.q, 0.12) * tissue.step(0.30 - (v - 0.02).abs(), 0.10)
        reach = 1.0 - tissue.heart_radius(a, u, v, a.heart_scale_maximum)
    reach = ((reach > 0) | (basal > 0)) & (t.cavity > 0) & (v < t.diaphragm + 0.11)
    return _Pathology(fluid, a.haze * basal, _dilate(reach))


def _costophrenic_angles(a: Anatomy) -> Tensor:
    """Costophrenic angles ``(B, 2)`` in degrees."""
    chord, result = 0.12, []
    q = torch.tensor([1.0, 1.0 - chord]).view(1, 1, 2)
    for top, fluid in ((a.dome_right, a.fluid_right), (a.dome_left, a.fluid_left)):
        corner = top + a.dome_drop
        line = torch.minimum(tissue.diaphragm_height(a, top, q), tissue.meniscus(q, fluid, corner))
        run = chord * tissue.cavity_half_width(a, corner)[0]
        result.append(torch.atan2(run[..., 0], line[..., 0] - line[..., 1])[:, 0])
    return torch.rad2deg(torch.stack(result, dim=1))


def _measurements(a: Anatomy, latents: Latents) -> tuple[Tensor, Tensor]:
    """Cardiothoracic ratio ``(B,)`` and costophrenic angles ``(B, 2)``."""
    shear = _TILT * latents.z("tilt")
    heart_low, heart_high = tissue.heart_extent(a, shear)
    low, high = tissue.thorax_extent(a, shear)
    return ((heart_high - heart_low) / (high - low))[:, 0, 0], _costophrenic_angles(a)


def _bones(a: Anatomy, t: Thorax, u: Tensor, v: Tensor, latents: Latents) -> Tensor:
    """All bone and calcium along the beam, cm, before demineralisation."""
    bone = tissue.spine(a, u, v) + tissue.ribs(a, t, v)
    rows = _rows(u.shape[-1], -1.30, -0.35)
    bone[:, rows] += tissue.clavicles(a, t, v, rows)
    rows = _rows(u.shape[-1], -0.80, 0.60)
    bone[:, rows] += tissue.calcium(a, t, u, v, rows)
    bone += tissue.shoulders(t, v, latents.z("scapula"), slice(None))
    return bone


def _masks(
    t: Thorax, v: Tensor, a: Anatomy, fluid: Tensor, devices: Tensor, finding: str
) -> dict[str, Tensor]:
    heart = t.heart < 1.0
    pleura = (t.q < 1.0) & (v > a.apex) & (t.x > t.medial) & (v < t.diaphragm)
    pleura = pleura & (t.mediastinum < 0.4) & ~heart
    wet = pleura & (fluid > 0.5)
    return {
        "lung_mask": pleura & ~wet,
        "heart_mask": heart,
        "device_mask": devices > 0.1,
        "finding_mask": wet if finding == "Effusion" else heart,
    }


def render_latents(factors: Tensor, nuisances: Tensor, grain: Tensor, config: PhantomConfig) -> PhantomImages:
    """Render one batch.

    Args:
        factors: ``(B, len(FACTORS))``. nuisances: ``(B, len(NUISANCES))`` normal. grain: ``(B,)`` integers.
    """
    side, latents = config.resolution, Latents(factors.float(), nuisances.float())
    a = build_anatomy(latents, config)
    film, u, v = _axes(latents, side)
    t = tissue.build_thorax(a, u, v)
    grains = grain_fields(grain, side * side + _TEXTURE**2)
    pathology = _pathology(a, t, u, v, config)

    air = _lung_air(a, t, v)
    lung = air * (_texture(grains[:, side * side :], side) * 0.03 + 1.0)
    lung.mul_(a.air).mul_(1.0 - pathology.haze).sub_(_vessels(u, v, air, latents))
    habitus = tissue.body(a, u, v)
    soft = habitus - lung.mul_(1.0 - pathology.fluid)
    rows = _rows(u.shape[-1], -0.35, 0.95)
    soft[:, rows] += tissue.breasts(a, t, v, rows)
    rows = _rows(u.shape[-1], 0.10, 1.20)
    soft[:, rows] -= _stomach_gas(a, u[:, rows], v[:, rows], latents)
    rows = _rows(u.shape[-1], -1.30, 0.25)
    soft[:, rows] -= tissue.airway(u, v, t, rows)
    devices = device_map(u, v, a, latents, config.device_rate)
    bone = _bones(a, t, u, v, latents)
    integral = soft.clamp_(min=0.0).mul_(SOFT_TISSUE).add_(bone.mul_(BONE * a.bone)).add_(devices)

    photons = grains[:, : side * side].view(-1, side, side)
    log_signal = expose(integral, scatter(habitus, latents), photons, latents, config)
    picture = display(log_signal, latents) * shutters(film, film, latents)
    picture = picture + (0.97 - picture).clamp(min=0.0) * marker(film, film, latents)
    pixels = (picture * 255.0).round() / 127.5 - 1.0

    ratio, angles = _measurements(a, latents)
    masks = _masks(t, v, a, pathology.fluid, devices, config.finding)
    return PhantomImages(
        pixel_values=pixels[:, None],
        touch_mask=pathology.touch[:, None],
        cardiothoracic_ratio=ratio,
        costophrenic_angles=angles,
        **{name: mask[:, None] for name, mask in masks.items()},
    )
