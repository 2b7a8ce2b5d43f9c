"""Methods side by side: distance from reality, amplification, error to the true counterfactual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .frame import as_interval, colour, new_figure, number_text, styled, wrapped, zero_axis

#: Panel -> path of its statistic, and title.
PANELS = {
    "distance": "mean_distance/auc_points",
    "amplification": "mean_abs_amplification/auc_points",
    "error": "mean_error",
}
TITLES = {
    "distance": "distance of effectiveness\nfrom real images (AUC points)",
    "amplification": "mean |amplification|\n(AUC points)",
    "error": "error to the true\ncounterfactual (grey levels)",
}


@styled
def comparison_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Methods side by side: distance of effectiveness from reality, mean |amplification|, true-counterfactual error.

    Args:
        rows: `{"name": str, "distance": I, "amplification": I, "error": I or None}` per method, I = (estimate, low,
            high); drawn from top to bottom. The error panel (grey levels of 255) is left out if no method has one.
    """
    panels = [key for key in PANELS if key != "error" or any(row["error"] is not None for row in rows)]
    caption = "Points: estimates; whiskers: 95 % intervals. Ideal 0."
    figure = new_figure(0.42 * len(rows) + 1.0, {}, "", caption)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, key in zip(grid, panels):
        axes.set_title(TITLES[key])
        axes.set_gid(f"comparison/{key}")
        intervals = [as_interval(row[key]) for row in rows]
        if zero_axis(axes, np.ravel(intervals)):
            axes.set_xlabel("(logarithmic above 1)", fontsize=8)
        axes.grid(axis="x", color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
        for y, (row, (estimate, low, high)) in enumerate(zip(rows, intervals)):
            gid, look = f"{key}/{row['name']}", {"color": colour(y)}
            if not np.isfinite(estimate):
                place = {"transform": axes.get_yaxis_transform(), "va": "center"}
                axes.text(0.03, y, "n/a", color="#555555", gid=gid, **place)
                continue
            if np.isfinite([low, high]).all():
                axes.hlines(y, low, high, linewidth=1.8, gid=f"whisker/{gid}", **look)
                axes.plot([low, high], [y, y], "|", markersize=9, markeredgewidth=1.8, **look)
            axes.plot(estimate, y, "o", markersize=5.5, gid=gid, **look)
            place = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
            axes.annotate(number_text(estimate), (estimate, y), fontsize=8.5, **place)
        axes.set_ylim(len(rows) - 0.5, -0.7)
        axes.tick_params(axis="y", length=0)
    grid[0].set_yticks(range(len(rows)), [wrapped(str(row["name"]), 26) for row in rows])
    return figure
