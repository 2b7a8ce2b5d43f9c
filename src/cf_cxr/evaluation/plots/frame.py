"""What the pictures share: style, palette, title, caption, legend, the note on the judge, axes and numbers."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#7A5C00",
    "#444444",
)  # Okabe, Ito
REAL = "#9A9A9A"
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


def styled(function: Callable) -> Callable:
    """Runs a drawing function in the package's style, whatever style the user has set."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with matplotlib.style.context(["default", _STYLE]):
            return function(*args, **kwargs)

    return wrapper


def new_figure(
    height: float, results: Mapping[str, Any], title: str = "", caption: str = "", legend: Sequence[str] = ()
) -> Figure:
    """An empty figure: around the `height` inches for axes, room for note and title above, legend and caption below.

    The note says that the judge was used in training, where it was.
    """
    note = judged_by_training(results)
    lines = textwrap.wrap(caption, 140)
    above = 0.28 * note + 0.27 * bool(title)
    caption_height = 0.15 * len(lines) + 0.07 * bool(lines)
    below = caption_height + 0.07 * bool(legend) + 0.2 * _legend_rows(legend)
    height += above + below
    figure = Figure(figsize=(WIDTH, height), dpi=100)
    FigureCanvasAgg(figure)
    rect = (0, below / height, 1, 1 - (above + below) / height)
    figure.set_layout_engine("constrained", rect=rect, w_pad=0.06, h_pad=0.05)
    figure.legend_bottom = caption_height / height
    if note:
        add_judge_note(figure)
    if title:
        figure.text(0.5, 1 - (above - 0.14) / height, title, ha="center", va="center", fontsize=11)
    figure.text(0.008, 0.05 / height, "\n".join(lines), va="bottom", fontsize=8, color="#444444")
    return figure


def judged_by_training(results: Mapping[str, Any]) -> bool:
    """Whether the results say that their judge took part in training."""
    return (results.get("identity") or {}).get("judge_is_training_classifier") is True


def add_judge_note(figure: Figure) -> None:
    """Writes `TRAINING_JUDGE_NOTE` across the top."""
    figure.text(
        0.5,
        1 - 0.15 / figure.get_figheight(),
        TRAINING_JUDGE_NOTE,
        ha="center",
        va="center",
        color="#8A2C00",
        fontsize=9.5,
        fontweight="bold",
        bbox={"facecolor": "#FFE0CC", "edgecolor": "none", "pad": 3},
    )


def _legend_rows(labels: Sequence[str]) -> int:
    return math.ceil(sum(6.2 * len(label) + 60 for label in labels) / (98 * WIDTH))


def add_legend(figure, handles, labels) -> None:
    """A legend in as many rows as its labels need, in the room that `new_figure` left above the caption."""
    figure.legend(
        handles,
        labels,
        loc="lower center",
        bbox_to_anchor=(0.5, figure.legend_bottom),
        ncols=math.ceil(len(labels) / _legend_rows(labels)),
        borderaxespad=0.2,
    ).set_in_layout(False)


def zero_axis(axes, which: str, values) -> bool:
    """An axis from zero to beyond the largest value; if that is far off, logarithmic above 1. Says whether it is."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    top, low = finite.max(initial=0.0) or 1.0, finite.min(initial=0.0)
    if top > 25:
        getattr(axes, f"set_{which}scale")("symlog", linthresh=1.0, linscale=0.5)
        ticks = [t for t in (0, 1, 3, 10, 30, 100, 300, 1000) if t <= 1.5 * top]
        getattr(axes, f"set_{which}ticks")(ticks, [f"{t}" for t in ticks])
        getattr(axes, f"set_{which}lim")(-0.15, 1.5 * top)
    else:
        getattr(axes, f"set_{which}lim")(low - 0.06 * top, 1.12 * top)
    (axes.axvline if which == "x" else axes.axhline)(0, color="black", linewidth=0.8, zorder=0)
    return bool(top > 25)


def number_text(value: float, largest: float = 1.0) -> str:
    """One decimal, two below 10, more where even the `largest` beside it is small; with a true minus sign."""
    decimals = 2 if largest >= 1 or not largest > 0 else 2 - math.floor(math.log10(largest))
    text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.{min(decimals, 6)}f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "")


def wrapped(text: str, width: int) -> str:
    """At most two lines of `width` characters."""
    return "\n".join(textwrap.wrap(text, width)[:2])
