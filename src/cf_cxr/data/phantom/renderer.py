"""Render chests: factors and noise in; pictures, masks and measurements out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from . import thickness as tissue
from .anatomy import Anatomy, Latents, build_anatomy
from .config import PhantomConfig
from .devices import device_map
from .grid import Grid, Window, film_axis, lean, window
from .imaging import BONE, SOFT_TISSUE, display, expose, scatter, shutters, stamp_marker
from .noise import grain_fields
from .vessels import TREES, sample_vessels

_TEXTURE = 16  # side of the coarse grid of parenchymal texture
Box = tuple[tuple[float, float], tuple[float, float]]


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


@lru_cache(maxsize=8)
def _upsampling(resolution: int) -> Tensor:
    """Cubic interpolation from the texture's coarse grid, ``(R, _TEXTURE)``."""
    identity = torch.eye(_TEXTURE)[:, None]
    matrix = interpolate(identity[..., None], size=(resolution, 1), mode="bicubic", align_corners=False)
    return matrix[:, 0, :, 0].T.contiguous()


def _texture(coarse: Tensor, resolution: int) -> Tensor:
    weights = _upsampling(resolution)
    return weights @ coarse.view(-1, _TEXTURE, _TEXTURE) @ weights.T


@dataclass
class _Chest:
    """The cavity, and what lies in it; maps ``(B, R, R)``."""

    q: Tensor  # 0 at the midline, 1 at the chest wall
    cavity: Tensor  # cm
    diaphragm: Tensor  # its height at every pixel
    heart: Tensor  # fourth power of its relative thickness, 0 outside
    mediastinum: Tensor  # share of the cavity


def _windowed(shape: Tensor, box: Box, draw: Callable[[Window], Tensor]) -> Tensor:
    """A map that is zero except in a box, where it is drawn."""
    result = torch.zeros_like(shape)
    place = window(shape.shape[-1], *box)
    result[place] = draw(place)
    return result


def _add(
    result: Tensor, g: Grid, box: Box, draw: Callable[..., Tensor], *args: Anatomy, sign: int = 1
) -> Tensor:
    """Adds, in place, what is drawn on the pixels of a box."""
    place = window(result.shape[-1], *box)
    result[place] += draw(*args, g.crop(place)) if sign > 0 else draw(*args, g.crop(place)).neg_()
    return result


def _chest(a: Anatomy, g: Grid) -> _Chest:
    half, profile = tissue.cavity_half_width(a, g.v)
    q = g.x * (1.0 / half)
    return _Chest(
        q=q,
        cavity=tissue.cavity(a, g, q, profile),
        diaphragm=tissue.diaphragm_height(a, g.by_side(a.dome_right, a.dome_left), q),
        heart=_windowed(q, tissue.HEART_BOX, lambda w: tissue.heart_power(a, g.crop(w), a.heart_scale)),
        mediastinum=_mediastinum(a, g),
    )


def _mediastinum(a: Anatomy, g: Grid) -> Tensor:
    """Share of the cavity's depth taken by all great vessels, ``(B, R, R)``."""
    result = _windowed(g.u, tissue.MEDIASTINUM_BOX, lambda w: tissue.mediastinum(a, g.crop(w)))
    for box, draw in ((tissue.ARCH_BOX, tissue.aortic_knob), (tissue.PULMONARY_BOX, tissue.pulmonary_trunk)):
        place = window(g.u.shape[-1], *box)
        result[place] = torch.maximum(result[place], draw(a, g.crop(place)))
    return result


def _lung_air(a: Anatomy, g: Grid, c: _Chest) -> Tensor:
    """Cavity above the diaphragm that neither heart nor vessels nor aorta fill, cm."""
    air = (1.0 - c.mediastinum).mul_(c.cavity)
    heart = window(len(g.u[0]), *tissue.HEART_BOX)
    air[heart] -= c.heart[heart].sqrt().sqrt_().mul_(0.52 * a.depth)
    below = c.diaphragm - g.v
    clear = tissue.step(below).mul_(0.82).add_(tissue.step(below.add_(0.05), 0.05), alpha=0.18)
    return air.clamp_(min=0.0).mul_(clear)


def _vessels(g: Grid, air: Tensor, latents: Latents) -> Tensor:
    """Vessels in the lung, cm of blood."""
    tree = (latents.p("vessel_tree")[:, 0, 0] * TREES).long().clamp(max=TREES - 1)
    flip = 1.0 - 2.0 * (latents.p("vessel_flip") < 0.5).float()
    vessels = sample_vessels(g.u, g.v, tree, flip, 0.92 + 0.05 * latents.z("vessel_scale"))
    strength = 1.9 * torch.exp(0.2 * latents.z("vessel_strength"))
    return vessels.mul_(strength).mul_(air).div_(air + 3.0)


def _all_positive(first: Tensor, *others: Tensor) -> Tensor:
    """Where every map is above zero; one comparison, since comparisons cost more than minima."""
    for other in others:
        first = torch.minimum(first, other)
    return first > 0


def _dilate(mask: Tensor) -> Tensor:
    """3 x 3 dilation of ``(B, R, R)`` bool: the reach of the detector's blur."""
    for axis in (1, 2):
        n = mask.shape[axis]
        grown = mask.clone()
        grown.narrow(axis, 1, n - 1).logical_or_(mask.narrow(axis, 0, n - 1))
        grown.narrow(axis, 0, n - 1).logical_or_(mask.narrow(axis, 1, n - 1))
        mask = grown
    return mask


def _pathology(a: Anatomy, g: Grid, c: _Chest, config: PhantomConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Share of the cavity that is fluid, share of the air lost, and (bool) where do(finding) may act."""
    box = tissue.FLUID_BOX
    fluid = _windowed(c.q, box, lambda w: tissue.fluid_fraction(a, g.crop(w), c.q[w]))
    if config.finding == "Effusion":
        affected = g.by_side((a.fluid_right > 0).float(), (a.fluid_left > 0).float())
        spread = affected.mul_(tissue.smoothstep((g.v - 0.05) / 0.40))
        top = a.fluid_maximum_right, a.fluid_maximum_left
        reach = _windowed(c.q, box, lambda w: tissue.fluid_depth(a, g.crop(w), c.q[w], *top)[0])
    else:
        spread = tissue.step(0.44 - c.q, 0.12).mul_(tissue.step(0.30 - (g.v - 0.02).abs(), 0.10))
        largest = a.heart_scale_maximum
        reach = _windowed(c.q, tissue.HEART_BOX, lambda w: tissue.heart_power(a, g.crop(w), largest))
    acts = torch.maximum(reach, spread)
    acts = _all_positive(acts, c.cavity, (c.diaphragm - g.v).add_(0.11))
    return fluid, spread * a.haze, _dilate(acts)


def _costophrenic_angles(a: Anatomy) -> Tensor:
    """Costophrenic angles ``(B, 2)`` in degrees."""
    chord, result = 0.12, []
    q = torch.tensor([1.0, 1.0 - chord]).expand(len(a.base), 1, 2)
    for top, fluid in ((a.dome_right, a.fluid_right), (a.dome_left, a.fluid_left)):
        corner = top + a.dome_drop
        line = torch.minimum(tissue.diaphragm_height(a, top, q), tissue.meniscus(q, fluid, corner))
        run = chord * tissue.cavity_half_width(a, corner)[0]
        result.append(torch.atan2(run[..., 0], line[..., 0] - line[..., 1])[:, 0])
    return torch.rad2deg(torch.stack(result, dim=1))


def _cardiothoracic_ratio(a: Anatomy, latents: Latents) -> Tensor:
    """Maximal heart width over maximal inner thorax width on the film, ``(B,)``."""
    heart_low, heart_high = tissue.heart_extent(a, lean(latents))
    low, high = tissue.thorax_extent(a, lean(latents))
    return ((heart_high - heart_low) / (high - low))[:, 0, 0]


def _bones(a: Anatomy, g: Grid, q: Tensor) -> Tensor:
    """All bone and calcium along the beam, cm, before demineralisation."""
    bone = tissue.ribs(a, g, q)
    _add(bone, g, tissue.SPINE_BOX, tissue.spine, a)
    _add(bone, g, tissue.CLAVICLE_BOX, tissue.clavicles, a)
    _add(bone, g, tissue.SHOULDER_BOX, tissue.shoulders, a)
    _add(bone, g, tissue.ARCH_BOX, tissue.aortic_calcium, a)
    place = window(q.shape[-1], *tissue.CARTILAGE_BOX)
    bone[place] += tissue.cartilage_calcium(a, g.crop(place), q[place])
    return bone


def _soft_tissue(a: Anatomy, g: Grid, habitus: Tensor, lung: Tensor) -> Tensor:
    """Soft tissue along the beam, cm, with air spaces taken out."""
    soft = _add(habitus - lung, g, tissue.BREAST_BOX, tissue.breasts, a)
    _add(soft, g, tissue.GAS_BOX, tissue.stomach_gas, a, sign=-1)
    _add(soft, g, tissue.AIRWAY_BOX, tissue.airway, sign=-1)
    return soft.clamp_(min=0.0)


def _masks(a: Anatomy, g: Grid, c: _Chest, fluid: Tensor, devices: Tensor, finding: str) -> dict[str, Tensor]:
    heart = c.heart > 0
    row = torch.minimum(g.x - tissue.apex_medial(a, g.v), g.v - a.apex)
    pleura = _all_positive(row, c.cavity, c.diaphragm - g.v, 0.4 - c.mediastinum) & ~heart
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
    side, latents = config.resolution, Latents(factors, nuisances)
    a, film = build_anatomy(latents, config), film_axis(side)
    g = Grid.build(film, latents)
    c = _chest(a, g)
    fluid, haze, touch = _pathology(a, g, c, config)
    grains = grain_fields(grain, side * side + _TEXTURE**2)

    air = _lung_air(a, g, c)
    lung = _texture(grains[:, side * side :], side).mul_(0.03).add_(1.0).mul_(air).mul_(a.air)
    lung = lung.mul_(1.0 - haze).sub_(_vessels(g, air, latents)).mul_(1.0 - fluid)
    habitus = tissue.body(a, g)
    devices = device_map(g.u, g.v, a, latents, config.device_rate)
    integral = _soft_tissue(a, g, habitus, lung).mul_(SOFT_TISSUE)
    integral.add_(_bones(a, g, c.q).mul_(BONE * a.bone)).add_(devices)

    photons = grains[:, : side * side].view(-1, side, side)
    log_signal = expose(integral, scatter(habitus, latents), photons, latents, config)
    picture = display(log_signal, latents).mul_(shutters(film, film, latents))
    picture = stamp_marker(picture, film, latents)
    pixels = picture.mul_(255.0).round_().div_(127.5).sub_(1.0)

    masks = _masks(a, g, c, fluid, devices, config.finding)
    return PhantomImages(
        pixel_values=pixels[:, None],
        touch_mask=touch[:, None],
        cardiothoracic_ratio=_cardiothoracic_ratio(a, latents),
        costophrenic_angles=_costophrenic_angles(a),
        **{name: mask[:, None] for name, mask in masks.items()},
    )
