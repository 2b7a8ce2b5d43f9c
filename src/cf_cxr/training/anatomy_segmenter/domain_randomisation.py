"""Domain randomisation: phantoms made to look like any radiograph, so that a segmenter also works on real films.

Geometry moves image and masks alike; tone, blur, noise, text and shutters change the image only, but what a shutter
covers is no longer seen and leaves the masks, and drawn wires join the mask of the devices. Grey levels are never
inverted (bone stays bright), and images are never mirrored (the heart lies on one side).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..augmentation import AugmentationConfig, CXRAugmentation

_SEGMENTS = 16  # straight pieces of a wire
_TONE_KNOTS = 8


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator | None = None) -> Tensor:
    """Uniform numbers in [low, high), float32."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def shutters(
    count: int, size: tuple[int, int], width: float, tilt: float = 3.0, generator: Generator | None = None
) -> Tensor:
    """Collimation: each of the four sides is covered by up to `width`, the frame turned by up to `tilt` degrees."""
    x, y = _coordinates(size)
    angle = uniform((count, 1, 1), -math.radians(tilt), math.radians(tilt), generator)
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    left, right, top, bottom = (1 - 2 * uniform((4, count, 1, 1), 0, width, generator)).unbind()
    inside = torch.stack([u + left, right - u, v + top, bottom - v]).amin(0)
    return (0.5 - inside * max(size) / 2).clamp(0, 1)[:, None]


def wires(
    count: int, size: tuple[int, int], most: int = 3, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Between 1 and `most` smooth wires per image, 0.005 to 0.02 wide, some with a round electrode at their end.

    Returns:
        The map, and the opacity `(B, 1, 1, 1)` in [0.15, 0.8] with which to draw it.
    """
    x, y = _coordinates(size)
    pixel = 2 / max(size)
    number = torch.randint(1, most + 1, (count,), generator=generator)
    drawn = torch.zeros(count, *size)
    for k in range(most):
        ends = uniform((count, 3, 2), -1.1, 1.1, generator)
        half_width = uniform((count, 1, 1), 0.005, 0.02, generator)
        radius = uniform((count, 1, 1), 0.02, 0.05, generator)
        radius = torch.where(uniform((count, 1, 1), 0, 1, generator) < 0.4, radius, torch.zeros(()))
        rows = (number > k).nonzero()[:, 0]
        if not len(rows):
            continue
        t = torch.linspace(0, 1, _SEGMENTS + 1)[None, :, None]
        p0, p1, p2 = (ends[rows, i, None] for i in range(3))
        curve = (1 - t) ** 2 * p0 + 2 * t * (1 - t) * p1 + t**2 * p2
        line = _coverage(_distance_to_curve(x, y, curve), half_width[rows], pixel)
        centre = ends[rows, 2]
        away = ((x - centre[:, 0, None, None]) ** 2 + (y - centre[:, 1, None, None]) ** 2).sqrt()
        disc = _coverage(away, radius[rows], pixel) * (radius[rows] > 0)
        drawn[rows] = torch.maximum(drawn[rows], torch.maximum(line, disc))
    return drawn[:, None], uniform((count, 1, 1, 1), 0.15, 0.8, generator)


def lettering(
    count: int, size: tuple[int, int], most: int = 3, generator: Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Between 1 and `most` words of invented letters per image, mostly near the upper or lower border.

    Returns:
        The map, and the grey level `(B, 1, 1, 1)` in [0, 1] in which to write: mostly bright, sometimes dark.
    """
    written = torch.zeros(count, 1, *size)
    height, width = size
    largest = max(1, min(size) // 48)
    for row in range(count):
        for _ in range(int(torch.randint(1, most + 1, (), generator=generator))):
            cell = int(torch.randint(1, largest + 1, (), generator=generator))
            letters = int(torch.randint(1, 8, (), generator=generator))
            letters = max(1, min(letters, width // (cell * 4) - 1))
            glyphs = torch.rand(letters, 5, 3, generator=generator) < 0.6
            word = F.pad(glyphs, (0, 1)).permute(1, 0, 2).flatten(1).float()
            word = word.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width]
            h, w = word.shape
            free = height - h
            down, across, place = torch.rand(3, generator=generator).tolist()
            top = round((free if place < 0.2 else min(free, round(0.18 * height))) * down)
            top = free - top if place > 0.6 else top
            left = round((width - w) * across)
            written[row, 0, top : top + h, left : left + w].clamp_(min=word)
    dark = torch.rand(count, 1, 1, 1, generator=generator) < 0.15
    bright = uniform((count, 1, 1, 1), 0.8, 1.0, generator)
    return written, torch.where(dark, 1 - bright, bright)


def _coordinates(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pixel centres, x `(1, 1, W)` and y `(1, H, 1)`, in [-1, 1]."""
    rows, columns = ((torch.arange(n) + 0.5) / n * 2 - 1 for n in size)
    return columns[None, None], rows[None, :, None]


def _distance_to_curve(x: Tensor, y: Tensor, curve: Tensor) -> Tensor:
    """Distance `(B, H, W)` of every pixel to a chain of straight pieces through `(B, K, 2)` points."""
    nearest = torch.tensor(math.inf)
    for start, end in zip(curve[:, :-1].unbind(1), curve[:, 1:].unbind(1)):
        dx, dy = ((end - start)[:, i, None, None] for i in range(2))
        px, py = x - start[:, 0, None, None], y - start[:, 1, None, None]
        along = ((px * dx + py * dy) / (dx**2 + dy**2).clamp_min(1e-12)).clamp(0, 1)
        nearest = torch.minimum(nearest, (px - along * dx) ** 2 + (py - along * dy) ** 2)
    return nearest.sqrt()


def _coverage(distance: Tensor, reach: Tensor, pixel: float) -> Tensor:
    """1 within `reach`, falling to 0 over one pixel."""
    return ((reach - distance) / pixel + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class RandomisationConfig(AugmentationConfig):
    """Ranges; 0 switches a part off. Parameters are drawn per image, uniformly unless said otherwise.

    Args (besides those of `AugmentationConfig`):
        crop: largest share of the image cut off at each of the four sides, independently, hence also a change of
            proportions: real films are framed more tightly than phantoms, and patients differ in build.
        tone: standard deviation of the log slopes of the 8 pieces of an increasing tone curve from black to white.
        local_contrast: largest gain of the difference from a local mean over a quarter of the side (as in films
            processed for display).
        resolution_loss: largest factor, minus 1, by which the image is shrunk and enlarged again.
        grain: largest standard deviation of noise that is smooth over 2 to 4 pixels, on intensities in [0, 1].
        shutter_probability, shutter_width: of a collimated film; largest width per side, fraction of the side.
        text_probability: of one to three burnt-in words or markers.
        wire_probability: of one to three wires with or without electrodes.

    Raises:
        ValueError: for a value that is negative, not finite, above 1 where it is a fraction, or a crop or shutter that
            could take half the film.
    """

    crop: float = 0.0
    tone: float = 0.0
    local_contrast: float = 0.0
    resolution_loss: float = 0.0
    grain: float = 0.0
    shutter_probability: float = 0.0
    shutter_width: float = 0.12
    text_probability: float = 0.0
    wire_probability: float = 0.0

    HIGHEST: ClassVar[dict[str, float]] = {
        **AugmentationConfig.HIGHEST,
        **dict.fromkeys(("bias_field", "text_probability", "wire_probability", "shutter_probability"), 1.0),
        "crop": 0.4,
        "shutter_width": 0.25,
    }


RANDOMISATION_PRESETS: dict[str, RandomisationConfig] = {
    "none": RandomisationConfig(),
    "light": RandomisationConfig(
        crop=0.06, rotation=5.0, translation=0.04, scale=0.1, tone=0.3, gamma=0.2, contrast=0.2, brightness=0.06,
        bias_field=0.05, local_contrast=0.3, resolution_loss=0.3, blur=0.5, noise=0.015, grain=0.015,
        shutter_probability=0.2, text_probability=0.3, wire_probability=0.2,
    ),
    "strong": RandomisationConfig(
        crop=0.15, rotation=12.0, translation=0.08, scale=0.22, tone=0.6, gamma=0.4, contrast=0.4, brightness=0.12,
        bias_field=0.15, local_contrast=0.8, resolution_loss=0.8, blur=1.0, noise=0.04, grain=0.04,
        shutter_probability=0.4, text_probability=0.5, wire_probability=0.4,
    ),
}  # fmt: skip


class DomainRandomisation:
    """Applies a `RandomisationConfig` to a batch of radiographs and their masks.

    Args:
        config: ranges, or the name of a preset.
        devices: position of the devices among the masks, which wires join; None draws no wires.
    """

    def __init__(self, config: RandomisationConfig | str = "strong", devices: int | None = None):
        self.config = RANDOMISATION_PRESETS[config] if isinstance(config, str) else config
        self.devices = devices

        self._geometry, self._exposure, self._texture = (
            CXRAugmentation(AugmentationConfig(**{name: getattr(self.config, name) for name in names}))
            for names in (
                ("rotation", "translation", "scale", "flip_probability"),
                ("gamma", "contrast", "brightness", "bias_field"),
                ("blur", "noise", "erasing_probability", "erasing_size"),
            )
        )

    @torch.no_grad()
    def __call__(
        self, pixel_values: Tensor, masks: Tensor, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Randomises every image with parameters of its own.

        Args:
            pixel_values: `(B, 1, H, W)` in [-1, 1].
            masks: `(B, L, H, W)`, bool or in [0, 1].
            generator: on the CPU; makes the draw reproducible.

        Returns:
            Images in [-1, 1] and masks in [0, 1], float32, of the same shapes. Where geometry moved an edge, a mask
            says which part of the pixel it covers.
        """
        together = self._crop(torch.cat([pixel_values.float(), masks.float() * 2 - 1], dim=1), generator)
        together = (self._geometry(together, generator) + 1) / 2
        x, masks = self._wires(together[:, :1], together[:, 1:], generator)
        x = (self._exposure(self._tone(x, generator) * 2 - 1, generator) + 1) / 2
        x = self._lose_resolution(self._local_contrast(x, generator), generator)
        x = self._grain((self._texture(x * 2 - 1, generator) + 1) / 2, generator)
        x, masks = self._shutters(x, masks, generator)
        x = self._text(x, generator)
        return x.clamp(0, 1) * 2 - 1, masks

    def _crop(self, together: Tensor, generator: Generator | None) -> Tensor:
        """A rectangle of every image, stretched over the whole of it."""
        if not self.config.crop:
            return together
        low, high = uniform((2, len(together), 2), 0, self.config.crop, generator)
        theta = torch.cat([torch.diag_embed(1 - low - high), (low - high)[:, :, None]], dim=2)
        grid = F.affine_grid(theta.to(together.device), list(together.shape), align_corners=False)
        return F.grid_sample(together, grid, padding_mode="border", align_corners=False)

    def _wires(self, x: Tensor, masks: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        rows = _chosen(x, self.config.wire_probability, generator)
        if self.devices is None or not len(rows):
            return x, masks
        drawn, opacity = (v.to(x.device) for v in wires(len(rows), x.shape[2:], generator=generator))
        x, masks = x.clone(), masks.clone()
        x[rows] += opacity * drawn * (1 - x[rows])
        masks[rows, self.devices] = torch.maximum(masks[rows, self.devices], drawn[:, 0])
        return x, masks

    def _tone(self, x: Tensor, generator: Generator | None) -> Tensor:
        """A piecewise linear, strictly increasing curve per image that keeps black and white."""
        if not self.config.tone:
            return x
        slopes = (torch.randn(len(x), _TONE_KNOTS, generator=generator) * self.config.tone).exp()
        heights = F.pad((slopes / slopes.sum(1, keepdim=True)).cumsum(1), (1, 0)).to(x.device)
        position = x.clamp(0, 1).flatten(1) * _TONE_KNOTS
        piece = position.long().clamp_max(_TONE_KNOTS - 1)
        low, high = heights.gather(1, piece), heights.gather(1, piece + 1)
        return torch.lerp(low, high, position - piece).view_as(x)

    def _local_contrast(self, x: Tensor, generator: Generator | None) -> Tensor:
        """More, or less, of the difference from the mean of a window, taken one axis after the other: many times faster."""
        if not self.config.local_contrast:
            return x
        rows, columns = (max(2, side // 4) // 2 for side in x.shape[2:])
        mean = F.avg_pool2d(x, (2 * rows + 1, 1), 1, (rows, 0), count_include_pad=False)
        mean = F.avg_pool2d(mean, (1, 2 * columns + 1), 1, (0, columns), count_include_pad=False)
        gain = uniform((len(x), 1, 1, 1), 0, self.config.local_contrast, generator).to(x.device)
        return (x + gain * (x - mean)).clamp(0, 1)

    def _lose_resolution(self, x: Tensor, generator: Generator | None) -> Tensor:
        """One factor per batch: images of different sizes cannot be computed together."""
        if not self.config.resolution_loss:
            return x
        factor = 1 + float(uniform((1,), 0, self.config.resolution_loss, generator))
        small = [max(2, round(side / factor)) for side in x.shape[2:]]
        shrunk = F.interpolate(x, size=small, mode="bilinear", antialias=True)
        return F.interpolate(shrunk, size=x.shape[2:], mode="bilinear")

    def _grain(self, x: Tensor, generator: Generator | None) -> Tensor:
        if not self.config.grain:
            return x
        coarseness = int(torch.randint(2, 5, (), generator=generator))
        small = [max(2, side // coarseness) for side in x.shape[2:]]
        noise = torch.randn(len(x), 1, *small, generator=generator)
        strength = uniform((len(x), 1, 1, 1), 0, self.config.grain, generator)
        return x + (F.interpolate(noise, size=x.shape[2:], mode="bilinear") * strength).to(x.device)

    def _shutters(self, x: Tensor, masks: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        rows = _chosen(x, self.config.shutter_probability, generator)
        if not len(rows) or not self.config.shutter_width:
            return x, masks
        covered = shutters(len(rows), x.shape[2:], self.config.shutter_width, generator=generator)
        black = uniform((len(rows), 1, 1, 1), 0, 0.1, generator)
        masks = masks.clone()
        masks[rows] *= 1 - covered.to(x.device)
        return _covered(x, rows, black, covered), masks

    def _text(self, x: Tensor, generator: Generator | None) -> Tensor:
        rows = _chosen(x, self.config.text_probability, generator)
        if not len(rows):
            return x
        written, level = lettering(len(rows), x.shape[2:], generator=generator)
        return _covered(x, rows, level, written)


def _chosen(x: Tensor, probability: float, generator: Generator | None) -> Tensor:
    """Rows for which a coin of this probability fell."""
    if not probability:
        return torch.zeros(0, dtype=torch.long, device=x.device)
    return (torch.rand(len(x), generator=generator) < probability).nonzero()[:, 0].to(x.device)


def _covered(x: Tensor, rows: Tensor, level: Tensor, cover: Tensor) -> Tensor:
    """Images of which some go to a grey level `(R, 1, 1, 1)` where a map `(R, 1, H, W)` is 1."""
    x = x.clone()
    x[rows] = torch.lerp(x[rows], level.to(x.device).expand_as(x[rows]), cover.to(x.device))
    return x
