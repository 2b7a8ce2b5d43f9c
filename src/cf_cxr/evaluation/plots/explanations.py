"""Pictures of one evaluation: exaggeration curves, anatomy along the series, example series."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...images.grey_levels import GREY_LEVELS
from ...model_cards.explanation_results import MEASURE_NAMES
from ...visualization.drawing import DIFFERENCE_COLOURS, difference_limit
from .frame import PALETTE, REAL, add_legend, new_figure, styled
from .png import write_png

CURVES_FILE, ANATOMY_FILE, EXAMPLES_FILE = "exaggeration.png", "anatomy.png", "examples.png"
_COLOURS = {"negative": PALETTE[0], "positive": PALETTE[4]}
_PANEL = 0.95  # inches
_EXAMPLES_LADDER = (
    (160, None),
    (100, "maps"),
    (70, "maps"),
    (50, "maps"),
)  # a few colours would spoil the maps


def write_explanation_plots(
    folder: Path, records: Mapping[str, np.ndarray], results: Mapping[str, Any], count: int = 6
) -> list[Path]:
    """Writes every picture into `folder`; returns their paths.

    Args:
        folder: is made if it is not there.
        records: of the evaluation. results: its numbers.
        count: series in the example sheet.
    """
    paths = [write_png(folder / CURVES_FILE, exaggeration_figure({"": results}))]
    if results["anatomy"]:
        paths.append(write_png(folder / ANATOMY_FILE, anatomy_figure(results)))
    rows = choose_examples(records, results["identity"]["classifier"]["threshold"], count)
    if len(rows):
        paths.append(write_png(folder / EXAMPLES_FILE, examples_figure(records, rows), _EXAMPLES_LADDER))
    return paths


@styled
def exaggeration_figure(methods: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Mean posterior reached per target bin, a panel per source group, against the identity.

    With one method the bins of the source posterior are drawn too, in grey.

    Args:
        methods: name -> results.
    """
    legend = ["identity", *(name for name in methods if name)]
    caption = "Points: mean posterior per target bin; whiskers: 95 % intervals by patient."
    if len(methods) == 1:
        legend.append("by bin of the source posterior")
        caption += " Grey: images whose own posterior is in one bin."
    figure = new_figure(3.9, {}, "", caption, legend)
    lines: dict[str, Any] = {}
    for axes, group in zip(figure.subplots(1, 2, sharey=True), ("negative", "positive")):
        lines["identity"] = axes.plot([0, 1], [0, 1], color="black", linewidth=0.9, linestyle="--")[0]
        images = next(iter(methods.values()))["images"][group]
        axes.set_title(f"source decision: {group} ({images} images)")
        for number, (name, results) in enumerate(methods.items()):
            if len(methods) == 1:
                for key, curve in results["exaggeration"].items():
                    if key.startswith("source") and curve["images"] and _side(key, results) == group:
                        mean = np.array([m[0] for m in curve["means"]], float)
                        lines["by bin of the source posterior"] = axes.plot(
                            curve["centres"], mean, color=REAL, linewidth=0.8, alpha=0.8
                        )[0]
            curve = results["exaggeration"][group]
            colour = _COLOURS[group] if len(methods) == 1 else PALETTE[number % len(PALETTE)]
            mean, low, high = np.array(curve["means"], float).T
            bars = np.stack([np.maximum(mean - low, 0), np.maximum(high - mean, 0)])
            aside = 0.008 * (number - (len(methods) - 1) / 2)  # so that methods do not hide each other
            drawn = axes.errorbar(
                np.array(curve["centres"]) + aside,
                mean,
                bars,
                color=colour,
                marker="o",
                markersize=3.5,
                linewidth=1.4,
            )
            lines[name] = drawn
            if len(methods) == 1 and curve["slope"][0] is not None:
                text = f"slope {curve['slope'][0]:.2f}, MAE {curve['mae'][0]:.3f}"
                axes.text(0.03, 0.95, text, transform=axes.transAxes, va="top")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xlabel("posterior asked for")
    figure.axes[0].set_ylabel("posterior reached")
    shown = [name for name in legend if name in lines]
    add_legend(figure, [lines[name] for name in shown], shown)
    return figure


def _side(group: str, results: Mapping[str, Any]) -> str:
    """Decision of most of a source bin `"source 0.3-0.4"`."""
    low, high = (float(word) for word in group.removeprefix("source ").split("-"))
    threshold = results["identity"]["classifier"]["threshold"]
    return "positive" if (low + high) / 2 >= threshold else "negative"


@styled
def anatomy_figure(results: Mapping[str, Any]) -> Figure:
    """Mean cardiothoracic ratio and costophrenic score along the series, per source group."""
    found = results["anatomy"]
    caption = "Means over the images of a source group, by the segmenter's masks. Crosses: the images themselves, on their side."
    figure = new_figure(2.9, {}, "", caption, list(_COLOURS))
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    lines: dict[str, Any] = {}
    for axes, (name, groups) in zip(panels, found.items()):
        centres = results["exaggeration"]["all"]["centres"]
        for group, colour in _COLOURS.items():
            row = groups[group]
            values = np.array(row["series"], float)
            lines[group] = axes.plot(centres, values, color=colour, marker="o", markersize=3.5)[0]
            if row["before"] is not None:
                at = centres[0] if group == "negative" else centres[-1]
                axes.plot(at, row["before"], "x", color=colour, markersize=8)
        axes.set_title(name.replace("_", " ") + f" ({MEASURE_NAMES[name]})")
        axes.set_xlabel("posterior asked for")
    add_legend(figure, list(lines.values()), list(lines))
    return figure


def choose_examples(records: Mapping[str, np.ndarray], threshold: float, count: int) -> np.ndarray:
    """Rows of the example pool: both decisions in turn, images with devices first.

    Returns:
        at most `count` row numbers.
    """
    pool = len(records.get("examples/query", ()))
    source = records["source_posterior"][:pool]
    packed = records.get("masks/devices/true", records.get("masks/devices/source"))
    area = np.zeros(pool) if packed is None else np.unpackbits(packed[:pool], axis=1).sum(1)
    order = np.argsort(-(area > 0).astype(int), kind="stable")
    sides = [[i for i in order if (source[i] >= threshold) == positive] for positive in (False, True)]
    # devices in every other one, so that images without are seen too
    sides = [_alternating(side, area) for side in sides]
    chosen = [side[i] for i in range(pool) for side in sides if i < len(side)]
    return np.array(chosen[:count], int)


def _alternating(rows: list[int], area: np.ndarray) -> list[int]:
    with_device = [i for i in rows if area[i] > 0]
    without = [i for i in rows if area[i] == 0]
    both = [i for pair in zip(with_device, without) for i in pair]
    return both + with_device[len(without) :] + without[len(with_device) :]


@styled
def examples_figure(records: Mapping[str, np.ndarray], rows: np.ndarray) -> Figure:
    """A row per image: query, its series with the posteriors reached, and the final explanation minus the query."""
    queries, series = records["examples/query"], records["examples/series"]
    targets, reached = records["target"], records["reached"]
    columns = series.shape[1] + 2
    width, gap, title = columns * (_PANEL + 0.03) + 0.85, 0.03, 0.18
    height = len(rows) * (_PANEL + title + 0.04) + 0.2
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    final = records["final"]
    differences = {i: series[i, final[i]].astype(float) - queries[i] for i in rows}
    limit = difference_limit([d / GREY_LEVELS for d in differences.values()]) * GREY_LEVELS

    def panel(row: int, column: int, text: str):
        left, top = 0.04 + column * (_PANEL + gap), height - 0.04 - row * (_PANEL + title + 0.04) - title
        axes = figure.add_axes((left / width, (top - _PANEL) / height, _PANEL / width, _PANEL / height))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(text, fontsize=7.5, pad=2)
        return axes

    grey = {"cmap": "gray", "vmin": 0, "vmax": 255}
    maps = None
    for r, i in enumerate(rows):
        panel(r, 0, f"query {records['source_posterior'][i]:.2f}").imshow(queries[i], **grey)
        for s in range(series.shape[1]):
            axes = panel(r, 1 + s, f"{targets[i, s]:.2f} → {reached[i, s]:.2f}")
            axes.imshow(series[i, s], **grey)
            for spine in axes.spines.values():
                spine.set(visible=bool(s == final[i]), color=PALETTE[4], linewidth=1.6)
        axes = panel(r, columns - 1, "change")
        maps = axes.imshow(differences[i], cmap=DIFFERENCE_COLOURS, vmin=-limit, vmax=limit)
    length = min(2.5, height - 0.5)
    bar = figure.add_axes(
        ((width - 0.72) / width, (height - length) / 2 / height, 0.12 / width, length / height)
    )
    figure.colorbar(maps, cax=bar).set_label("change (grey levels of 255)", fontsize=7.5)
    bar.tick_params(labelsize=7)
    figure.text(
        0.04 / width,
        0.05 / height,
        "Above each image: posterior asked for → reached; framed: the final explanation.",
        fontsize=7.5,
        color="#444444",
    )
    return figure


__all__ = [
    "anatomy_figure",
    "choose_examples",
    "examples_figure",
    "exaggeration_figure",
    "write_explanation_plots",
]
