"""Bars per intervention: an independent judge's score of every attribute under every do(·).

Those of A = Xia et al., MICCAI 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .frame import PALETTE, WIDTH, add_legend, new_figure, number_text, styled, wrapped
from .inputs import as_interval, interventions


class Bar(NamedTuple):
    """One bar: the score of `attribute` under do(`do`), `which` is "real", "counterfactual" or "difference"."""

    do: str
    attribute: str
    which: str
    estimate: float
    low: float
    high: float


def effectiveness_bars(schema, graph, results: Mapping[str, Any]) -> list[Bar]:
    """The judge's score on real images beside its score under each do(k), for every attribute it can be read from.

    For the intervened attribute the counterfactual score is `effectiveness` (against the intervened value); for
    any other, real score + `amplification` (against the factual label), whose interval is that of the paired
    difference. Descendants of k are left out: their right answer changes with the intervention.
    """
    bars = []
    for k, row in interventions(schema, results):
        for j in schema.names:
            if j in graph.descendants(k):
                continue
            real = as_interval(results["real"].get(j), f"real/{j}")
            if j == k:
                after = as_interval(row.get("effectiveness"), f"do/{k}/effectiveness")
            else:
                difference = as_interval(row.get("amplification", {}).get(j), f"do/{k}/amplification/{j}")
                after = tuple(real[0] + d for d in difference)
            bars += [Bar(k, j, "real", *real), Bar(k, j, "counterfactual", *after)]
    return bars


def amplification_bars(schema, graph, results: Mapping[str, Any]) -> list[Bar]:
    """The do × attribute matrix: score under do(k) minus score on real images, for j neither k nor downstream."""
    return [
        Bar(
            k, j, "difference", *as_interval(row.get("amplification", {}).get(j), f"do/{k}/amplification/{j}")
        )
        for k, row in interventions(schema, results)
        for j in schema.names
        if j != k and j not in graph.descendants(k)
    ]


@styled
def effectiveness_figure(schema, graph, results: Mapping[str, Any]) -> Figure:
    """Bars of `effectiveness_bars`, AUC points in the left panel, each unit of continuous attributes in its own."""
    bars = effectiveness_bars(schema, graph, results)
    caption = (
        "★ intervened attribute, scored against the intervened value; all others against the factual label, with "
        "the interval of the paired difference from real. Whiskers: 95 % intervals by patient."
    )
    title = "Effectiveness: what the judge reads in real images and under each intervention"
    figure, panels = _bar_panels(bars, schema, results, title, _with_descendants(caption, schema, graph))
    for axes, unit, chosen in panels:
        values = [v for b in chosen for v in b[3:] if np.isfinite(v)]
        floor = 50 if unit is None and min(values, default=50) >= 50 else 0
        _draw_bars(axes, chosen, schema, floor)
        if unit is None:
            axes.set_ylim(floor, 100 + 0.24 * (100 - floor))
            axes.set_yticks(np.arange(floor, 101, 10 if floor else 25))
            axes.set_title("Discrete attributes")
            axes.set_ylabel("judge's AUC × 100" + ("\n(axis starts at chance)" if floor else ""))
            if not floor:
                axes.axhline(50, color="black", linewidth=0.8, linestyle=":", zorder=0)
        else:
            axes.set_ylim(0, 1.35 * max(values, default=1) or 1)
            axes.set_title(_continuous(chosen))
            axes.set_ylabel(f"judge's mean absolute\nerror, {unit}")
    return figure


@styled
def amplification_figure(schema, graph, results: Mapping[str, Any]) -> Figure:
    """Bars of `amplification_bars` about a zero line; AUC points left, units of continuous attributes apart."""
    bars = amplification_bars(schema, graph, results)
    caption = "Score under do(·) minus score on real images, factual labels; ideal 0. Whiskers: 95 % intervals by patient."
    title = "Amplification: what changes in attributes that nobody intervened on"
    figure, panels = _bar_panels(bars, schema, results, title, _with_descendants(caption, schema, graph))
    scalars = results.get("mean_abs_amplification") or {}
    for axes, unit, chosen in panels:
        _draw_bars(axes, chosen, schema)
        axes.axhline(0, color="black", linewidth=1)
        values = [0.0, *(v for b in chosen for v in b[3:] if np.isfinite(v))]
        span = (max(values) - min(values)) or 1.0
        axes.set_ylim(min(values) - 0.28 * span, max(values) + 0.28 * span)
        names = ["auc_points"] if unit is None else list(dict.fromkeys(b.attribute for b in chosen))
        means = [as_interval(scalars[n], f"mean_abs_amplification/{n}") for n in names if n in scalars]
        title = "Discrete attributes" if unit is None else _continuous(chosen)
        lines = [title, *(f"mean |·| {m[0]:.2f} [{m[1]:.2f}, {m[2]:.2f}]" for m in means)]
        axes.set_title("\n".join(lines))
        axes.set_ylabel(
            "change of AUC, points\n(> 0 amplified, < 0 weakened)"
            if unit is None
            else f"change of error, {unit}\n(> 0 weakened, < 0 amplified)"
        )
    return figure


def _bar_panels(bars: Sequence[Bar], schema, results, title: str, caption: str) -> tuple[Figure, list]:
    """A figure with a panel for discrete attributes (unit None) and one per unit: [(axes, unit, bars)].

    Side by side, or below one another where there are too many bars for that.
    """
    chosen: dict[str | None, list[Bar]] = {}
    for bar in bars:
        attribute = schema[bar.attribute]
        unit = None if attribute.is_discrete else (attribute.unit or f"units of {attribute.name}")
        chosen.setdefault(unit, []).append(bar)
    units = sorted(chosen, key=lambda u: (u is not None, u or ""))
    names = [n for n in schema.names if any(b.attribute == n for b in bars)]
    handles = [Patch(color=PALETTE[schema.index(n) % len(PALETTE)]) for n in names]
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
        return figure, []
    if stacked:
        grid = figure.subplots(len(units), 1, squeeze=False)[:, 0]
    else:
        grid = figure.subplots(1, len(units), squeeze=False, width_ratios=widths)[0]
    add_legend(figure, handles, names)
    return figure, [(axes, unit, chosen[unit]) for axes, unit in zip(grid, units)]


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
        colour = PALETTE[schema.index(bar.attribute) % len(PALETTE)]
        text = {
            "ha": "center",
            "rotation": 90,
            "fontsize": 8.5,
            "xytext": (0, 4),
            "textcoords": "offset points",
        }
        gid = "/".join(bar[:3])
        if not np.isfinite(bar.estimate):
            axes.annotate("n/a", (x, floor), color="#555555", gid=gid, **text)
            continue
        drawn = axes.bar(
            x,
            bar.estimate,
            width=0.92,
            color="white" if bar.which == "real" else colour,
            edgecolor=colour,
            hatch="////" if bar.which == "real" else None,
            linewidth=1.2,
        )
        drawn[0].set_gid(gid)
        ends = [bar.estimate]
        if np.isfinite([bar.low, bar.high]).all():
            ends += [bar.low, bar.high]
            axes.vlines(x, bar.low, bar.high, color="black", linewidth=1.1, gid=f"whisker/{gid}")
        downwards = bar.estimate < 0
        if downwards:
            text |= {"xytext": (0, -4), "va": "top"}
        star = " ★" if bar.do == bar.attribute and bar.which == "counterfactual" else ""
        axes.annotate(
            number_text(bar.estimate, largest) + star, (x, min(ends) if downwards else max(ends)), **text
        )
    labels = [f"do({k})" for k in ticks]
    axes.set_xticks([float(np.mean(v)) for v in ticks.values()], labels)
    axes.tick_params(axis="x", length=0)
    ratios, place = axes.get_gridspec().get_width_ratios(), axes.get_subplotspec().colspan.start
    room = (100 * WIDTH * ratios[place] / sum(ratios) - 75) / len(labels)  # pixels per label
    if max(map(len, labels)) * 6.2 > room:
        for label in axes.get_xticklabels():
            label.set(rotation=25, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.9, x + 0.9)


def _continuous(bars: Sequence[Bar]) -> str:
    return wrapped(f"Continuous: {', '.join(dict.fromkeys(b.attribute for b in bars))}", 32)


def _with_descendants(caption: str, schema, graph) -> str:
    left_out = [f"{j} under do({k})" for k in schema.names for j in schema.names if j in graph.descendants(k)]
    return caption + (
        f" Left out: {', '.join(left_out)}, which the intervention may change." if left_out else ""
    )
