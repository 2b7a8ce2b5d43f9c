"""What explanations reach: the posterior per target, and the anatomy along the series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...model_cards.explanation_results import MEASURE_NAMES
from .frame import PALETTE, REAL, add_legend, colour, new_figure, styled

_COLOURS = {"negative": PALETTE[0], "positive": PALETTE[4]}


@styled
def exaggeration_figure(methods: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Mean posterior reached per target bin, a panel per source group, against the identity.

    With one method the bins of the source posterior are drawn too, in grey.

    Args:
        methods: name -> results.
    """
    alone, bins = len(methods) == 1, "by bin of the source posterior"
    legend = ["identity", *(name for name in methods if name), *([bins] if alone else [])]
    caption = "Points: mean posterior per target bin; whiskers: 95 % intervals by patient."
    caption += " Grey: images whose own posterior is in one bin." if alone else ""
    figure = new_figure(3.9, {}, "", caption, legend)
    lines: dict[str, Any] = {}
    for axes, group in zip(figure.subplots(1, 2, sharey=True), _COLOURS):
        [lines["identity"]] = axes.plot([0, 1], [0, 1], color="black", linewidth=0.9, linestyle="--")
        images = next(iter(methods.values()))["images"][group]
        axes.set_title(f"source decision: {group} ({images} images)")
        for number, (name, results) in enumerate(methods.items()):
            for key, curve in results["exaggeration"].items() if alone else ():
                if key.startswith("source") and curve["images"] and _side(key, results) == group:
                    mean = np.array([m[0] for m in curve["means"]], float)
                    [lines[bins]] = axes.plot(curve["centres"], mean, color=REAL, linewidth=0.8, alpha=0.8)
            curve = results["exaggeration"][group]
            mean, low, high = np.array(curve["means"], float).T
            bars = np.stack([np.maximum(mean - low, 0), np.maximum(high - mean, 0)])
            aside = 0.008 * (number - (len(methods) - 1) / 2)  # so that methods do not hide each other
            look = {"color": _COLOURS[group] if alone else colour(number), "marker": "o", "markersize": 3.5}
            lines[name] = axes.errorbar(np.array(curve["centres"]) + aside, mean, bars, linewidth=1.4, **look)
            if alone and curve["slope"][0] is not None:
                text = f"slope {curve['slope'][0]:.2f}, MAE {curve['mae'][0]:.3f}"
                axes.text(0.03, 0.95, text, transform=axes.transAxes, va="top")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="posterior asked for")
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
    found, centres = results["anatomy"], results["exaggeration"]["all"]["centres"]
    caption = "Means over the images of a source group, by the segmenter's masks. Crosses: the images themselves, on their side."
    figure = new_figure(2.9, {}, "", caption, list(_COLOURS))
    lines: dict[str, Any] = {}
    for axes, (name, groups) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items()):
        for group, hue in _COLOURS.items():
            values = np.array(groups[group]["series"], float)
            [lines[group]] = axes.plot(centres, values, color=hue, marker="o", markersize=3.5)
            if groups[group]["before"] is not None:
                at = centres[0 if group == "negative" else -1]
                axes.plot(at, groups[group]["before"], "x", color=hue, markersize=8)
        axes.set_title(name.replace("_", " ") + f" ({MEASURE_NAMES[name]})")
        axes.set_xlabel("posterior asked for")
    add_legend(figure, list(lines.values()), list(lines))
    return figure
