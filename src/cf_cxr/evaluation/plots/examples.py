"""Example images: factual, counterfactuals, and signed differences on one scale."""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...images.grey_levels import GREY_LEVELS
from ...visualization.counterfactuals import describe_do
from ...visualization.drawing import DIFFERENCE_COLOURS, difference_limit
from .frame import add_judge_note, judged_by_training, styled
from .inputs import record_array
from .png import MAX_BYTES, write_png

MAX_EXAMPLES = 3  # images in the picture


@styled
def examples_figure(
    examples: Mapping[str, np.ndarray],
    schema,
    results: Mapping[str, Any],
    *,
    limit: float | None = None,
    count: int = MAX_EXAMPLES,
    levels: int = 128,
) -> Figure:
    """Factual images, one counterfactual per intervention, and the signed differences below.

    Args:
        examples: `image` (M, H, W) and, per intervention k, `do/{k}/image` (M, H, W), on [-1, 1] (floats) or 0..255
            (uint8); `factual` (M, n) and `do/{k}/attributes` (M, n), raw attributes. Images may have a channel
            axis of size 1: (M, 1, H, W).
        limit: end of the symmetric scale of the difference maps in grey levels of 255, common to all of them;
            default: the 99.8th percentile of |difference|, at least 4.
        count: at most this many images, the first ones.
        levels: grey levels and colours that are told apart; fewer make a smaller file.

    Raises:
        ValueError: an array is missing or its shape does not fit.
    """
    factual = _images(examples, "image")[:count]
    names = [k for k in schema.names if f"do/{k}/image" in examples]
    if not len(factual) or not names:
        raise ValueError("The examples need at least one image and one `do/{variable}/image`.")
    images = {k: _images(examples, f"do/{k}/image")[:count] for k in names}
    for k, stack in images.items():
        if stack.shape != factual.shape:
            raise ValueError(f"Example do/{k}/image has shape {stack.shape}, the images {factual.shape}.")
    attributes = record_array(examples, "factual", "examples")
    side = _panel_side(factual.shape[2])
    factual = _resized(factual, side)
    images = {k: _resized(stack, side) for k, stack in images.items()}
    differences = {k: (stack - factual) * GREY_LEVELS for k, stack in images.items()}
    if limit is None:
        limit = difference_limit([d / GREY_LEVELS for d in differences.values()]) * GREY_LEVELS
    high, columns, rows = round(side * factual.shape[1] / factual.shape[2]), 1 + len(names), len(factual)
    titles = {
        k: [_title(k, raw, schema, side) for raw in record_array(examples, f"do/{k}/attributes", "examples")]
        for k in names
    }
    two_lines = any("\n" in t for k in names for t in titles[k][:rows])
    gap, title, note = 4, 33 if two_lines else 20, 28 * judged_by_training(results)
    pictures = columns * (side + gap) + gap  # width of the grid; colour bar and its label take 80 pixels more
    width = max(pictures + 80, 690 if note else 0)
    height = note + rows * (2 * high + title + 2 * gap) + gap
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    if note:
        add_judge_note(figure)

    def panel(row: int, column: int):
        """Axes on whole pixels, so that images are shown as they are; odd rows hold the difference maps."""
        top = note + (row // 2) * (2 * high + title + 2 * gap) + title + (row % 2) * (high + gap)
        left = gap + column * (side + gap)
        axes = figure.add_axes((left / width, 1 - (top + high) / height, side / width, high / height))
        axes.axis("off")
        return axes

    for r in range(rows):
        _show(panel(2 * r, 0), _rounded(factual[r], 1.0, levels), "factual")
        lines = [f"{a.name}: {_value(a, raw)}" for a, raw in zip(schema, attributes[r])]
        lines = ["\n".join(textwrap.wrap(t, max(12, side // 6), subsequent_indent="  ")) for t in lines]
        text = panel(2 * r + 1, 0)
        text.text(
            0.02, 0.97, "\n".join(lines), transform=text.transAxes, va="top", fontsize=8, linespacing=1.4
        )
        for c, k in enumerate(names, start=1):
            _show(panel(2 * r, c), _rounded(images[k][r], 1.0, levels), titles[k][r])
            maps = panel(2 * r + 1, c).imshow(
                _rounded(differences[k][r], limit, levels),
                cmap=DIFFERENCE_COLOURS,
                vmin=-limit,
                vmax=limit,
                interpolation="nearest",
            )
    length = min(0.9 * (height - note), 420) / height
    bar = figure.add_axes(((pictures + 8) / width, (1 - note / height - length) / 2, 14 / width, length))
    colour_bar = figure.colorbar(maps, cax=bar)
    colour_bar.ax.tick_params(labelsize=8)
    colour_bar.set_label("counterfactual − factual (grey levels of 255)", fontsize=8.5)
    return figure


def write_examples(
    path: Path, examples: Mapping[str, np.ndarray], schema, results: Mapping[str, Any]
) -> Path:
    """The most images and levels of grey that fit into the file: noise does not compress."""
    stacks = [_images(examples, name) for name in examples if name == "image" or name.endswith("/image")]
    side = _panel_side(stacks[0].shape[2]) if stacks else 1
    for count, levels in (
        (MAX_EXAMPLES, 128),
        (MAX_EXAMPLES, 64),
        (MAX_EXAMPLES, 32),
        (2, 64),
        (2, 32),
        (1, 64),
    ):
        shown = [_resized(stack[:count], side) for stack in stacks]
        shown += [stack - shown[0] for stack in shown[1:]]
        bits = [np.round(stack * levels / 2).astype(np.int8) for stack in shown]
        if sum(len(zlib.compress(b.tobytes())) for b in bits) < 0.8 * MAX_BYTES:
            break
    figure = examples_figure(examples, schema, results, count=count, levels=levels)
    return write_png(path, figure, ((100, "maps"), (100, 64), (70, 64), (50, 32)))


def _panel_side(width: int) -> int:
    """Pixels of a panel: a multiple of the image's width near 150, or fewer than the image has if it is large."""
    return width * max(1, round(150 / width)) if width <= 180 else 150


def _resized(images: np.ndarray, side: int) -> np.ndarray:
    """Images (M, H, W) averaged down to width `side`, aspect kept; narrower ones as they are."""
    from PIL import Image

    height, width = images.shape[1:]
    if width <= side:
        return images
    size = (side, max(1, round(height * side / width)))
    stack = [
        np.asarray(Image.fromarray(i.astype(np.float32)).resize(size, Image.Resampling.BOX)) for i in images
    ]
    return np.stack(stack)


def _rounded(values: np.ndarray, limit: float, levels: int) -> np.ndarray:
    """Values on [−limit, limit] rounded to `levels` steps about zero, so that files stay small."""
    step = 2 * limit / levels
    return np.clip(np.round(values / step) * step, -limit, limit)


def _show(axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=8, pad=3, linespacing=1.05)


def _title(k: str, raw: np.ndarray, schema, side: int) -> str:
    """`do(k=value)`, in two lines where one would be wider than the panel of `side` pixels."""
    text, most = describe_do({k: schema[k].format(raw[schema.index(k)])}), int(side / 5.6)
    if len(text) <= most:
        return text
    return "\n".join(
        line if len(line) <= most else line[: most - 1] + "…"
        for line in text.replace("=", "=\n", 1).split("\n")
    )


def _value(attribute, raw: float) -> str:
    value = attribute.format(raw)
    if value is None:
        return "unknown"
    return f"{value:.3g} {attribute.unit}".rstrip() if isinstance(value, float) else str(value)


def _images(examples: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Images (M, H, W) on [-1, 1], whatever form they came in."""
    images = np.asarray(record_array(examples, name, "examples"))
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim != 3:
        raise ValueError(f"Example {name} has shape {images.shape}; expected (M, H, W) or (M, 1, H, W).")
    return (
        images / GREY_LEVELS - 1.0 if images.dtype == np.uint8 else np.asarray(images, np.float64).clip(-1, 1)
    )
