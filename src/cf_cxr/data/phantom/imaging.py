"""From line integrals to a picture: Beer-Lambert, scatter, blur, photon noise, display curve, collimation."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate, softplus

from .anatomy import Latents
from .config import PhantomConfig
from .thickness import step

SOFT_TISSUE, BONE = 0.185, 0.33  # effective attenuation, 1/cm, at about 70 keV after hardening

_GLYPHS = {"L": ("100", "100", "100", "100", "111"), "R": ("110", "101", "110", "101", "101")}


def binomial_blur(image: Tensor) -> Tensor:
    """Detector blur: the separable kernel (1, 6, 1) / 8, edges repeated; ``(B, R, R)``."""
    for axis in (-2, -1):
        n = image.shape[axis]
        before = torch.cat([image.narrow(axis, 0, 1), image.narrow(axis, 0, n - 1)], dim=axis)
        after = torch.cat([image.narrow(axis, 1, n - 1), image.narrow(axis, n - 1, 1)], dim=axis)
        image = 0.75 * image + 0.125 * (before + after)
    return image


def scatter(soft_tissue: Tensor, latents: Latents) -> Tensor:
    """Scattered radiation relative to the open beam: smooth, a function of the patient's habitus only.

    It is computed from the trunk without organs, hence no organ changes the picture far from itself.
    """
    cells = max(soft_tissue.shape[-1] // 8, 4)
    coarse = interpolate(soft_tissue[:, None], size=(cells, cells), mode="area")
    coarse = torch.exp(-0.62 * SOFT_TISSUE * coarse) * 0.035 * torch.exp(0.25 * latents.z("scatter"))[:, None]
    return interpolate(coarse, size=soft_tissue.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def expose(
    integral: Tensor, scattered: Tensor, photon_noise: Tensor, latents: Latents, config: PhantomConfig
) -> Tensor:
    """-log of the detected signal: primary exp(-integral), blur, scatter, Poisson noise as a Gaussian."""
    signal = binomial_blur(torch.exp(integral.neg())) + scattered
    pixel_area = (128.0 / config.resolution) ** 2
    relative = torch.exp(0.55 * latents.f("grain_level")) / (config.photons * pixel_area)
    noisy = signal + (signal * relative).sqrt_().mul_(photon_noise)
    return noisy.clamp_(min=1e-3).log_().neg_()


def display(log_signal: Tensor, latents: Latents) -> Tensor:
    """Sigmoid display curve, in [0, 1]: its slope is a site factor, its centre the exposure."""
    gain = 1.70 * torch.exp(0.13 * latents.f("display_gain"))
    centre = 2.65 + 0.10 * latents.z("exposure")
    return torch.sigmoid((log_signal - centre) * gain)


def shutters(x: Tensor, y: Tensor, latents: Latents) -> Tensor:
    """1 inside the collimated field, 0 outside; ``x`` ``(R,)`` and ``y`` ``(R,)`` are film coordinates."""
    width = 0.060 * softplus(1.1 * latents.f("collimation") + 0.3)
    balance = 0.35 * latents.z("shutter_balance")
    sides = step(1.0 - width * torch.exp(balance) - x, 0.01) * step(
        x + 1.0 - width * torch.exp(-balance), 0.01
    )
    return sides * step(1.0 - 0.8 * width - y[:, None], 0.01) * step(y[:, None] + 1.0 - 0.6 * width, 0.01)


def stamp_marker(picture: Tensor, film: Tensor, latents: Latents) -> Tensor:
    """The picture with a lead side marker; its distance from the midline is a site factor."""
    right = latents.p("marker_side") < 0.5
    distance = 0.66 + 0.055 * latents.f("marker").clamp(-4.5, 4.5)
    centre_x = torch.where(right, -distance, distance)
    centre_y = -0.80 + 0.03 * latents.z("marker_height")
    cell = 0.026  # side of one cell of the 5 x 3 glyph
    y = film[: int(0.25 * len(film))]
    rows = torch.arange(5, dtype=film.dtype) * cell + centre_y - 2 * cell
    columns = torch.arange(3, dtype=film.dtype) * cell + centre_x - cell
    reach = 2.0 * max(0.5 * cell, 1.0 / len(film))
    row_weight = (1.0 - (y[None, :, None] - rows).abs() / reach).clamp(min=0.0)  # (B, rows, 5)
    column_weight = (1.0 - (film[None, :, None] - columns).abs() / reach).clamp(min=0.0)  # (B, R, 3)
    glyph = torch.where(right, _glyph("R"), _glyph("L"))  # (B, 5, 3)
    opacity = (row_weight @ glyph @ column_weight.mT).clamp(max=1.0)
    top = picture[:, : len(y)]
    top += (0.97 - top).clamp(min=0.0) * opacity
    return picture


@lru_cache(maxsize=2)
def _glyph(letter: str) -> Tensor:
    return torch.tensor([[float(cell) for cell in row] for row in _GLYPHS[letter]])
