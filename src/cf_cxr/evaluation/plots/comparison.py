"""Methods side by side: distance from reality, amplification, error to the true counterfactual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .frame import PALETTE, new_figure, number_text, styled, wrapped, zero_axis
from .inputs import as_interval
from .png import write_png


@styled
def comparison_figure(rows: Sequence[Mapping[str, Any]], *, unit: str = "AUC points") -> Figure:
    """Methods side by side: distance of effectiveness from reality, mean |amplification|, true-counterfactual error.

    Args:
        rows: `{"name": str, "distance": I, "amplification": I, "error": I or None}` per method, I = (estimate, low,
            high); drawn from top to bottom. The error panel (grey levels of 255) is left out if no method has one.
        unit: of distance and amplification.

    Raises:
        ValueError: no rows, or an interval that is none.
    """
    if not rows:
        raise ValueError("A comparison needs at least one method; got no rows.")
    panels = [
        ("distance", f"distance of effectiveness\nfrom real images ({unit})"),
        ("amplification", f"mean |amplification|\n({unit})"),
        ("error", "error to the true\ncounterfactual (grey levels)"),
    ]
    caption = "Points: estimates; whiskers: 95 % intervals. Ideal 0."
    if all(row.get("error") is None for row in rows):
        panels = panels[:2]
    figure = new_figure(0.42 * len(rows) + 1.0, {}, "", caption)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (key, title) in zip(grid, panels):
        axes.set_title(title)
        axes.set_gid(f"comparison/{key}")
        intervals = [as_interval(row.get(key), f"{row['name']}: {key}") for row in rows]
        if zero_axis(axes, "x", [v for i in intervals for v in i]):
            axes.set_xlabel("(logarithmic above 1)", fontsize=8)
        axes.grid(axis="x", color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
        for y, (row, (estimate, low, high)) in enumerate(zip(rows, intervals)):
            gid = f"{key}/{row['name']}"
            if not np.isfinite(estimate):
                axes.text(
                    0.03,
                    y,
                    "n/a",
                    transform=axes.get_yaxis_transform(),
                    va="center",
                    color="#555555",
                    gid=gid,
                )
                continue
            colour = PALETTE[y % len(PALETTE)]
            if np.isfinite([low, high]).all():
                axes.hlines(y, low, high, color=colour, linewidth=1.8, gid=f"whisker/{gid}")
                axes.plot([low, high], [y, y], "|", color=colour, markersize=9, markeredgewidth=1.8)
            axes.plot(estimate, y, "o", color=colour, markersize=5.5, gid=gid)
            axes.annotate(
                number_text(estimate),
                (estimate, y),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
            )
        axes.set_ylim(len(rows) - 0.5, -0.7)
        axes.tick_params(axis="y", length=0)
    grid[0].set_yticks(range(len(rows)), [wrapped(str(row["name"]), 26) for row in rows])
    return figure


def comparison_plot(path: Path, rows: Sequence[Mapping[str, Any]], *, unit: str = "AUC points") -> Path:
    """Writes `comparison_figure(rows)` as PNG; returns the path."""
    return write_png(Path(path), comparison_figure(rows, unit=unit))
