"""Figures as PNG files on opaque white, of bounded size."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ...visualization.drawing import DIFFERENCE_COLOURS
from .frame import styled

MAX_BYTES = 250_000


@styled
def write_png(
    path: Path, figure: Figure, ladder=((160, None), (160, 256), (100, 128), (100, 48), (60, 24))
) -> Path:
    """Saves as PNG with the first (dots per inch, colours) of the ladder that stays below `MAX_BYTES`."""
    for dpi, colours in ladder:
        data = _png(figure, dpi, colours)
        if len(data) <= MAX_BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _in_map_palette(image):
    """An RGB image in 120 greys, 128 steps of the difference maps' colours, and the colours of the note."""
    from PIL import Image

    greys = np.repeat(np.linspace(0, 255, 120)[:, None], 3, axis=1)
    maps = 255 * matplotlib.colormaps[DIFFERENCE_COLOURS](np.linspace(0, 1, 128))[:, :3]
    note = np.linspace([255, 224, 204], [138, 44, 0], 8)
    palette = np.concatenate([greys, maps, note]).round()
    pixels = np.asarray(image).reshape(-1, 3).astype(np.int64) @ [65536, 256, 1]
    colours, index = np.unique(pixels, return_inverse=True)
    rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(float)
    distance = (rgb**2).sum(1)[:, None] - 2 * rgb @ palette.T + (palette**2).sum(1)
    nearest = distance.argmin(1).astype(np.uint8)[index.ravel()].reshape(image.height, image.width)
    out = Image.fromarray(nearest).convert("P")
    out.putpalette(palette.astype(np.uint8).tobytes())
    return out


def _png(figure: Figure, dpi: int, colours: int | str | None) -> bytes:
    """RGB on white, with an adaptive palette of `colours`, or ("maps") with that of `_in_map_palette`."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    image = Image.open(buffer).convert("RGB")
    if colours == "maps":
        image = _in_map_palette(image)
    elif colours:
        image = image.quantize(colours)
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
