"""Bars per intervention: an independent judge's score of every attribute under every do(·).

Those of A = Xia et al., MICCAI 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .frame import WIDTH, add_legend, as_interval, colour, new_figure, number_text, styled, wrapped


class Bar(NamedTuple):
    """One bar: the score of `attribute` under do(`do`), `which` is "real", "counterfactual" or "difference"."""

    do: str
    attribute: str
    which: str
    estimate: float
    low: float
    high: float


def effectiveness_figure(schema, graph, results: Mapping[str, Any]) -> Figure:
    """The judge's score on real images beside its score under each do(k), for every attribute it can be read from.

    For the intervened attribute the counterfactual score is `effectiveness` (against the intervened value); for
    any other, real score + `amplification` (against the factual label), whose interval is that of the paired
    difference. Descendants of k are left out: their right answer changes with the intervention.
    """
    bars = []
    for k, row in results["do"].items():
        for j in (j for j in schema.names if j not in graph.descendants(k)):
            real = as_interval(results["real"][j])
            after = as_interval(row["effectiveness"] if j == k else row["amplification"].get(j))
            after = after if j == k else tuple(real[0] + difference for difference in after)
            bars += [Bar(k, j, "real", *real), Bar(k, j, "counterfactual", *after)]

    def finish(axes, unit: str | None, bars: Sequence[Bar], values: list[float], title: str) -> None:
        floor = 50 if unit is None and min(values, default=50) >= 50 else 0
        _draw_bars(axes, bars, schema, floor)
        axes.set_title(title)
        if unit is None:
            axes.set_ylim(floor, 100 + 0.24 * (100 - floor))
            axes.set_yticks(np.arange(floor, 101, 10 if floor else 25))
            axes.set_ylabel("judge's AUC × 100" + ("\n(axis starts at chance)" if floor else ""))
            if not floor:
                axes.axhline(50, color="black", linewidth=0.8, linestyle=":", zorder=0)
        else:
            axes.set_ylim(0, 1.35 * max(values, default=1) or 1)
            axes.set_ylabel(f"judge's mean absolute\nerror, {unit}")

    caption = (
        "★ intervened attribute, scored against the intervened value; all others against the factual label, with "
        "the interval of the paired difference from real. Whiskers: 95 % intervals by patient."
    )
    title = "Effectiveness: what the judge reads in real images and under each intervention"
    return _bar_figure(bars, schema, graph, results, title, caption, finish)


def amplification_figure(schema, graph, results: Mapping[str, Any]) -> Figure:
    """The do × attribute matrix: score under do(k) minus score on real images, for j neither k nor downstream."""
    bars = [
        Bar(k, j, "difference", *as_interval(row["amplification"].get(j)))
        for k, row in results["do"].items()
        for j in schema.names
        if j != k and j not in graph.descendants(k)
    ]
    scalars = results.get("mean_abs_amplification") or {}

    def finish(axes, unit: str | None, bars: Sequence[Bar], values: list[float], title: str) -> None:
        _draw_bars(axes, bars, schema)
        axes.axhline(0, color="black", linewidth=1)
        low, high = min([0.0, *values]), max([0.0, *values])
        room = 0.28 * ((high - low) or 1.0)
        axes.set_ylim(low - room, high + room)
        names = ["auc_points"] if unit is None else list(dict.fromkeys(b.attribute for b in bars))
        means = [as_interval(scalars[name]) for name in names if name in scalars]
        axes.set_title("\n".join([title, *("mean |·| {:.2f} [{:.2f}, {:.2f}]".format(*m) for m in means)]))
        more, less = ("amplified", "weakened") if unit is None else ("weakened", "amplified")
        what = "AUC, points" if unit is None else f"error, {unit}"
        axes.set_ylabel(f"change of {what}\n(> 0 {more}, < 0 {less})")

    caption = "Score under do(·) minus score on real images, factual labels; ideal 0. Whiskers: 95 % intervals by patient."
    title = "Amplification: what changes in attributes that nobody intervened on"
    return _bar_figure(bars, schema, graph, results, title, caption, finish)


@styled
def _bar_figure(
    bars: Sequence[Bar], schema, graph, results: Mapping, title: str, caption: str, finish: Callable
) -> Figure:
    """A panel for discrete attributes (unit None) and one per unit, each drawn by `finish`.

    Side by side, or below one another where there are too many bars for that.
    """
    left_out = [f"{j} under do({k})" for k in schema.names for j in schema.names if j in graph.descendants(k)]
    if left_out:
        caption += f" Left out: {', '.join(left_out)}, which the intervention may change."
    chosen: dict[str | None, list[Bar]] = {}
    for bar in bars:
        a = schema[bar.attribute]
        chosen.setdefault(None if a.is_discrete else (a.unit or f"units of {a.name}"), []).append(bar)
    units = sorted(chosen, key=lambda u: (u is not None, u or ""))
    names = [n for n in schema.names if any(b.attribute == n for b in bars)]
    handles = [Patch(color=colour(schema.index(n))) for n in names]
    if any(bar.which == "real" for bar in bars):
        handles.append(Patch(facecolor="white", edgecolor="#333333", hatch="////"))
        handles.append(Patch(facecolor="#333333", edgecolor="#333333"))
        names += ["on real images", "under do(·)"]
    widths = [len(chosen[u]) + 1.5 * len({b.do for b in chosen[u]}) + 3 for u in units]
    stacked = sum(widths) > 56
    figure = new_figure(2.6 * len(units) if stacked else 3.6, results, title, caption, names)
    if not units:
        axes = figure.subplots()
        axes.axis("off")
        axes.text(0.5, 0.5, "n/a: no pair of variables to compare", ha="center")
        return figure
    shape = {"nrows": len(units)} if stacked else {"ncols": len(units), "width_ratios": widths}
    add_legend(figure, handles, names)
    for axes, unit in zip(figure.subplots(**shape, squeeze=False).ravel(), units):
        values = [v for b in chosen[unit] for v in b[3:] if np.isfinite(v)]
        words = wrapped(f"Continuous: {', '.join(dict.fromkeys(b.attribute for b in chosen[unit]))}", 32)
        finish(axes, unit, chosen[unit], values, "Discrete attributes" if unit is None else words)
    return figure


def _draw_bars(axes, bars: Sequence[Bar], schema, floor: float = 0) -> None:
    """Groups of bars, one group per do(·); estimates are written above (negative ones below) their whiskers.

    `floor` is where the axis begins, for the n/a of bars that are not defined.
    """
    x, ticks, previous = 0.0, {}, None
    largest = max((abs(b.estimate) for b in bars if np.isfinite(b.estimate)), default=1.0)
    for bar in bars:
        if previous is not None:
            x += 2.2 if bar.do != previous.do else 1.25 if bar.attribute != previous.attribute else 1.0
        previous = bar
        ticks.setdefault(bar.do, []).append(x)
        text = {"ha": "center", "rotation": 90, "fontsize": 8.5, "textcoords": "offset points"}
        gid, hue = "/".join(bar[:3]), colour(schema.index(bar.attribute))
        if not np.isfinite(bar.estimate):
            axes.annotate("n/a", (x, floor), xytext=(0, 4), color="#555555", gid=gid, **text)
            continue
        real = bar.which == "real"
        look = {"color": "white" if real else hue, "hatch": "////" if real else None}
        axes.bar(x, bar.estimate, width=0.92, edgecolor=hue, linewidth=1.2, **look)[0].set_gid(gid)
        ends = [bar.estimate]
        if np.isfinite([bar.low, bar.high]).all():
            ends += [bar.low, bar.high]
            axes.vlines(x, bar.low, bar.high, color="black", linewidth=1.1, gid=f"whisker/{gid}")
        end, side = max(ends), {"xytext": (0, 4)}
        if bar.estimate < 0:
            end, side = min(ends), {"xytext": (0, -4), "va": "top"}
        star = " ★" if bar.do == bar.attribute and bar.which == "counterfactual" else ""
        axes.annotate(number_text(bar.estimate, largest) + star, (x, end), **text, **side)
    labels = [f"do({k})" for k in ticks]
    axes.set_xticks([float(np.mean(v)) for v in ticks.values()], labels)
    axes.tick_params(axis="x", length=0)
    ratios, place = axes.get_gridspec().get_width_ratios(), axes.get_subplotspec().colspan.start
    room = (100 * WIDTH * ratios[place] / sum(ratios) - 75) / len(labels)  # pixels per label
    if max(map(len, labels)) * 6.2 > room:
        for label in axes.get_xticklabels():
            label.set(rotation=25, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.9, x + 0.9)
