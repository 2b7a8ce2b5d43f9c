"""What the pictures share: grey panels, difference maps on one scale with its colour bar, and titles."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..images.grey_levels import GREY_LEVELS

DIFFERENCE_COLOURS = "RdBu_r"
_DPI = 100


def printable(text: Any) -> str:
    """A text that can be printed, drawn and encoded: bytes of a file name that are no UTF-8 become `\\xff`."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def wrapped(text: Any, width: int) -> list[str]:
    """Lines of a printable text."""
    return textwrap.wrap(printable(text), width)


def check_names(names: Sequence[str], count: int, what: str) -> list[str]:
    """A title each.

    Raises:
        ValueError: there are more or fewer.
    """
    if len(names) != count:
        raise ValueError(f"{len(names)} names for {count} {what}.")
    return list(names)


def difference_limit(differences: Sequence[np.ndarray], percentile: float = 99.8) -> float:
    """The common end of a symmetric colour scale, on the scale of the differences.

    The percentile of |difference| over all maps, so that a single pixel does not wash out the rest; at least four
    grey levels, so that rounding noise does not look like a change.
    """
    values = np.abs(np.concatenate([np.ravel(d) for d in differences])) if differences else np.zeros(1)
    return float(max(np.percentile(values, percentile), 4 / GREY_LEVELS))


def new_figure(width: float, height: float) -> Any:
    """A white figure of so many inches at 100 pixels per inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def show_grey(axes: Any, picture: Any) -> None:
    """A grey PIL image, enlarged smoothly."""
    axes.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=255, interpolation="bicubic")


def show_difference(axes: Any, difference: np.ndarray, limit: float) -> Any:
    """A difference on [-2, 2], red where positive and blue where negative; gives the map, for `finish`."""
    end = limit * GREY_LEVELS
    return axes.imshow(
        difference * GREY_LEVELS, cmap=DIFFERENCE_COLOURS, vmin=-end, vmax=end, interpolation="nearest"
    )


def finish(figure: Any, maps: Any, axes: Any, label: str, size: int) -> Image.Image:
    """The figure as RGB, with the scale of its difference maps in `axes`.

    Args:
        label: of the scale, in letters of `size` points.
    """
    bar = figure.colorbar(maps, cax=axes)
    bar.set_label(f"{label} (grey levels of 255)", fontsize=size)
    bar.ax.tick_params(labelsize=min(size, 8))
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
