"""What the pictures share: style, palette, title, caption, legend, the note on the judge, axes, numbers, PNG files."""

from __future__ import annotations

import functools
import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ...visualization.drawing import DIFFERENCE_COLOURS

MAX_BYTES = 250_000
PALETTE = "#0072B2 #E69F00 #009E73 #CC79A7 #D55E00 #56B4E9 #7A5C00 #444444".split()  # Okabe, Ito
REAL, CAPTION = "#9A9A9A", "#444444"
TRAINING_JUDGE_NOTE = (
    "Judge was used in training: it grades its own pupil, these numbers are not independent."
)
WIDTH = 9.0  # inches; 900 pixels at 100 per inch, where 8 points are 11 pixels
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def colour(index: int) -> str:
    """The palette, again and again."""
    return PALETTE[index % len(PALETTE)]


def as_interval(value: Any) -> tuple[float, float, float]:
    """(estimate, low, high) of results as floats; None anywhere becomes NaN."""
    return tuple(np.array(value if value is not None else [None] * 3, float).tolist())


def styled(function: Callable) -> Callable:
    """Runs a drawing function in the package's style, whatever style the user has set."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with matplotlib.style.context(["default", _STYLE]):
            return function(*args, **kwargs)

    return wrapper


def blank_figure(
    width: float, height: float, results: Mapping[str, Any], caption: str
) -> tuple[Figure, float, float]:
    """A figure of `height` inches and room for the note above and the caption below, which are written.

    The note says that the judge was used in training, where it was.

    Returns:
        figure; inches above and below.
    """
    note = (results.get("identity") or {}).get("judge_is_training_classifier") is True
    lines = textwrap.wrap(caption, int(15.5 * width))
    above, below = 0.28 * note, 0.15 * len(lines) + 0.07 * bool(lines)
    height += above + below
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    if note:
        figure.text(
            0.5, 1 - 0.15 / height, TRAINING_JUDGE_NOTE, ha="center", va="center", color="#8A2C00", fontsize=9.5,
            fontweight="bold", bbox={"facecolor": "#FFE0CC", "edgecolor": "none", "pad": 3},
        )  # fmt: skip
    figure.text(0.008, 0.05 / height, "\n".join(lines), va="bottom", fontsize=8, color=CAPTION)
    return figure, above, below


def new_figure(
    height: float, results: Mapping[str, Any], title: str = "", caption: str = "", legend: Sequence[str] = ()
) -> Figure:
    """An empty figure: around the `height` inches for axes, room for note, title, legend and caption."""
    legend_height = 0.07 * bool(legend) + 0.2 * _legend_rows(legend)
    figure, above, below = blank_figure(WIDTH, height + 0.27 * bool(title) + legend_height, results, caption)
    total, above = figure.get_figheight(), above + 0.27 * bool(title)
    figure.legend_bottom = below / total
    below += legend_height
    rect = (0, below / total, 1, 1 - (above + below) / total)
    figure.set_layout_engine("constrained", rect=rect, w_pad=0.06, h_pad=0.05)
    if title:
        figure.text(0.5, 1 - (above - 0.14) / total, title, ha="center", va="center", fontsize=11)
    return figure


def _legend_rows(labels: Sequence[str]) -> int:
    return math.ceil(sum(6.2 * len(label) + 60 for label in labels) / (98 * WIDTH))


def add_legend(figure, handles, labels) -> None:
    """A legend in as many rows as its labels need, in the room that `new_figure` left above the caption."""
    columns = math.ceil(len(labels) / _legend_rows(labels))
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, figure.legend_bottom), "borderaxespad": 0.2}
    figure.legend(handles, labels, ncols=columns, **place).set_in_layout(False)


def zero_axis(axes, values) -> bool:
    """x from zero to beyond the largest value; if that is far off, logarithmic above 1. Says whether it is."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    top, low = finite.max(initial=0.0) or 1.0, finite.min(initial=0.0)
    if top > 25:
        axes.set_xscale("symlog", linthresh=1.0, linscale=0.5)
        ticks = [t for t in (0, 1, 3, 10, 30, 100, 300, 1000) if t <= 1.5 * top]
        axes.set_xticks(ticks, [f"{t}" for t in ticks])
        axes.set_xlim(-0.15, 1.5 * top)
    else:
        axes.set_xlim(low - 0.06 * top, 1.12 * top)
    axes.axvline(0, color="black", linewidth=0.8, zorder=0)
    return bool(top > 25)


def number_text(value: float, largest: float = 1.0) -> str:
    """One decimal, two below 10, more where even the `largest` beside it is small; with a true minus sign."""
    decimals = 2 if largest >= 1 or not largest > 0 else 2 - math.floor(math.log10(largest))
    text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.{min(decimals, 6)}f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "")


def wrapped(text: str, width: int) -> str:
    """At most two lines of `width` characters."""
    return "\n".join(textwrap.wrap(text, width)[:2])


@styled
def write_png(
    path: Path, figure: Figure, ladder=((160, None), (160, 256), (100, 128), (100, 48), (60, 24))
) -> Path:
    """Saves as PNG, on opaque white, with the first (dots per inch, colours) of the ladder that `MAX_BYTES` hold.

    Colours: None for all, a number for an adaptive palette, "maps" for greys and the colours of difference maps.
    """
    for dpi, colours in ladder:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
        image = Image.open(buffer).convert("RGB")
        if colours == "maps":
            image = _in_map_palette(image)
        elif colours:
            image = image.quantize(colours)
        buffer = io.BytesIO()
        image.save(buffer, format="png", optimize=True)
        if buffer.tell() <= MAX_BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return path


def _in_map_palette(image: Image.Image) -> Image.Image:
    """An RGB image in 120 greys, 128 steps of the difference maps' colours, and the colours of the note."""
    greys = np.repeat(np.linspace(0, 255, 120)[:, None], 3, axis=1)
    maps = 255 * matplotlib.colormaps[DIFFERENCE_COLOURS](np.linspace(0, 1, 128))[:, :3]
    note = np.linspace([255, 224, 204], [138, 44, 0], 8)
    palette = np.concatenate([greys, maps, note]).round()
    pixels = np.asarray(image).reshape(-1, 3).astype(np.int64) @ [65536, 256, 1]
    colours, index = np.unique(pixels, return_inverse=True)
    rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(float)
    nearest = ((palette**2).sum(1) - 2 * rgb @ palette.T).argmin(1).astype(np.uint8)[index.ravel()]
    out = Image.fromarray(nearest.reshape(image.height, image.width)).convert("P")
    out.putpalette(palette.astype(np.uint8).tobytes())
    return out
