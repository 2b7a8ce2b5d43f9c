"""Densities of the judge's answer: real images of a value against counterfactuals given that value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .frame import PALETTE, REAL, add_legend, new_figure, styled, wrapped
from .inputs import interventions, record_array

MAX_LOGIT = 8.0  # a judge saturates; beyond this, logits differ by rounding only


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 − p)) of probabilities of any shape, clipped to ±`MAX_LOGIT`."""
    p = np.clip(np.asarray(probability, np.float64), 0, 1)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(p) - np.log1p(-p), -MAX_LOGIT, MAX_LOGIT)


def density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Histogram density of `values` (N,) over bins `edges` (B + 1,); integrates to 1. Values must lie within."""
    return np.histogram(values, edges, density=True)[0]


@styled
def judge_density_figure(records: Mapping[str, np.ndarray], schema, results: Mapping[str, Any]) -> Figure:
    """What the judge makes of the intervened attribute: real images of a class against counterfactuals made so.

    One panel per intervention k, one row per class: densities of the judge's logit (binary: of class 1;
    categorical: of the row's class), clipped to ±`MAX_LOGIT`; continuous: of prediction minus intended value, in
    units. Counterfactuals are those whose value the intervention changed. A counterfactual curve further out
    than the real one is over-exaggeration.
    """
    names = [k for k, _ in interventions(schema, results)]
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)
    heights = [max(1.8, 0.62 * max(1, schema[k].n_classes) + 0.75) for k in names]
    row_heights = [max(heights[r * columns : (r + 1) * columns]) for r in range(rows)]
    caption = "Counterfactuals: images whose value the intervention changed. Dashed lines: medians."
    labels = ["real images of that value", "counterfactuals given that value"]
    title = "Does the judge find counterfactuals more typical than reality?"
    figure = new_figure(sum(row_heights), results, title, caption, labels)
    outer = figure.add_gridspec(rows, columns, height_ratios=row_heights, hspace=0.1, wspace=0.08)
    for index, k in enumerate(names):
        _draw_densities(figure, outer[index // columns, index % columns], records, schema, k)
    handles = [Patch(color=REAL, alpha=0.6), Line2D([], [], color=PALETTE[0], linewidth=1.8)]
    add_legend(figure, handles, labels)
    return figure


def _draw_densities(figure, cell, records, schema, k: str) -> None:
    attribute, column = schema[k], schema.index(k)
    factual = record_array(records, "factual")[:, column]
    intended = record_array(records, f"do/{k}/attributes")[:, column]
    real, fake = (
        record_array(records, f"{where}/judge/{k}").astype(np.float64) for where in ("real", f"do/{k}")
    )
    changed = factual != intended
    if not attribute.is_discrete:
        clouds = [(attribute.unit or "value", real - factual, (fake - intended)[changed])]
        label = f"judge − intended value, {attribute.unit}".rstrip(", ")
        finite = np.concatenate([c[np.isfinite(c)] for c in clouds[0][1:]])
        limit = float(np.abs(finite).max(initial=1e-9))
    else:
        clouds, limit = [], MAX_LOGIT
        for c, name in enumerate(attribute.categories):
            of = (lambda p: p) if attribute.scored_as == "binary" else (lambda p, c=c: p[:, c])
            clouds.append((name, logit(of(real[factual == c])), logit(of(fake[changed & (intended == c)]))))
        which = attribute.categories[1] if attribute.scored_as == "binary" else "the row's class"
        label = f"judge's logit of {which}" + f" (clipped at ±{MAX_LOGIT:g})"
    inner = cell.subgridspec(len(clouds), 1, hspace=0.0)
    first = None
    for row, (name, *values) in enumerate(clouds):
        axes = figure.add_subplot(inner[row], sharex=first)
        first = first or axes
        axes.set_gid(f"density/{k}/{name}")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        if attribute.is_discrete:
            axes.set_ylabel(
                wrapped(name, 12), rotation=0, ha="right", va="center", multialignment="right", fontsize=8.5
            )
        values = [v[np.isfinite(v)] for v in values]
        bins = int(np.clip(2 * np.sqrt(min((len(v) for v in values if len(v)), default=1)), 8, 40))
        edges = np.linspace(-limit, limit, bins + 1)
        for v, which in zip(values, ("real", "counterfactual")):
            if not len(v):
                side = 0.02 if which == "real" else 0.98
                axes.text(
                    side,
                    0.6,
                    f"{which}: n/a",
                    transform=axes.transAxes,
                    ha="left" if which == "real" else "right",
                    fontsize=8.5,
                )
                continue
            style = (
                {"fill": True, "color": REAL, "alpha": 0.55}
                if which == "real"
                else {"color": PALETTE[0], "linewidth": 1.6}
            )
            axes.stairs(density(v, edges), edges, gid=which, **style)
            axes.axvline(
                np.median(v),
                color="#555555" if which == "real" else PALETTE[0],
                linestyle=(0, (3, 2)),
                linewidth=1.1,
                gid=f"median/{which}",
            )
        axes.set_xlim(-limit, limit)
        axes.set_ylim(bottom=0)
        if row < len(clouds) - 1:
            axes.tick_params(labelbottom=False)
    first.set_title(f"do({k})")
    axes.set_xlabel(label)
