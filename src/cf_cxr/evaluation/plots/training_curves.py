"""Where methods go during fine-tuning: effectiveness and amplification checkpoint by checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from .frame import PALETTE, add_legend, new_figure, styled, zero_axis
from .inputs import as_interval
from .png import write_png

_CURVE = ("distance", "amplification")
_MARKERS = "osD^vPX*"


@styled
def training_curves_figure(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], *, unit: str = "AUC points"
) -> Figure:
    """Where methods go during fine-tuning: distance of effectiveness against amplification, and amplification by step.

    Args:
        curves: method -> checkpoints `{"step": int, "distance": I, "amplification": I}`, I = (estimate, low, high),
            in any order. Left, a line through a method's checkpoints, annotated by step, with whiskers; the origin
            is ideal. Right, amplification with its interval as a band. Undefined points are left out of the lines.
        unit: of both quantities.

    Raises:
        ValueError: no curves or no checkpoints, or an interval that is none.
    """
    if not curves or not any(curves.values()):
        raise ValueError("Training curves need at least one method with one checkpoint.")
    caption = "Numbers: training steps. Whiskers and bands: 95 % intervals. Ideal: the origin."
    figure = new_figure(3.7, {}, "", caption, list(curves))
    path_axes, step_axes = figure.subplots(1, 2)
    ordered, placed = {}, []
    for name, points in curves.items():
        points = sorted(points, key=lambda p: p["step"])
        pairs = [[as_interval(p.get(q), f"{name}, step {p['step']}: {q}") for p in points] for q in _CURVE]
        distance, amplification = (np.array(p, float).reshape(-1, 3) for p in pairs)
        ordered[name] = (np.array([p["step"] for p in points]), distance, amplification)
    distances = np.concatenate([d.ravel() for _, d, _ in ordered.values()])
    amplifications = np.concatenate([a.ravel() for _, _, a in ordered.values()])
    far = zero_axis(path_axes, "x", distances)
    strong = zero_axis(path_axes, "y", amplifications)
    zero_axis(step_axes, "y", amplifications)
    handles = []
    for index, (name, (steps, distance, amplification)) in enumerate(ordered.items()):
        style = {
            "color": PALETTE[index % len(PALETTE)],
            "marker": _MARKERS[index % len(_MARKERS)],
            "markersize": 5,
        }
        keep = np.isfinite(distance[:, 0]) & np.isfinite(amplification[:, 0])
        x, y = distance[keep], amplification[keep]
        path_axes.hlines(y[:, 0], x[:, 1], x[:, 2], color=style["color"], alpha=0.3, linewidth=1)
        path_axes.vlines(x[:, 0], y[:, 1], y[:, 2], color=style["color"], alpha=0.3, linewidth=1)
        handles += path_axes.plot(x[:, 0], y[:, 0], **style, linewidth=1.6, gid=f"path/{name}")
        ends = {0, len(x) - 1}
        placed += [
            ((x[i, 0], y[i, 0]), step, style["color"], i in ends) for i, step in enumerate(steps[keep])
        ]
        keep = np.isfinite(amplification[:, 0])
        step_axes.plot(steps[keep], amplification[keep, 0], **style, linewidth=1.6, gid=f"steps/{name}")
        step_axes.fill_between(
            steps[keep], *amplification[keep, 1:].T, color=style["color"], alpha=0.15, linewidth=0
        )
    path_axes.set_xlabel(_label("distance of effectiveness from real images", unit, far))
    for axes in (path_axes, step_axes):
        axes.set_ylabel(_label("mean |amplification|", unit, strong))
    path_axes.set_title("Path over training")
    step_axes.set_xlabel("training step")
    step_axes.set_title("Amplification by step")
    add_legend(figure, handles, list(ordered))
    figure.canvas.draw()  # places the axes, so that step labels can keep clear of one another
    _annotate_steps(path_axes, placed)
    return figure


def training_curves_plot(
    path: Path, curves: Mapping[str, Sequence[Mapping[str, Any]]], *, unit: str = "AUC points"
) -> Path:
    """Writes `training_curves_figure(curves)` as PNG; returns the path."""
    return write_png(Path(path), training_curves_figure(curves, unit=unit))


def _label(quantity: str, unit: str, logarithmic: bool) -> str:
    """The quantity with its unit; in two lines where the axis is logarithmic, which is said."""
    return f"{quantity}\n({unit}, logarithmic above 1)" if logarithmic else f"{quantity} ({unit})"


def _annotate_steps(axes, points) -> None:
    """Writes each point's step beside it: ends of a path first, then what keeps clear of other labels and points."""
    pixels = axes.transData.transform([xy for xy, _, _, _ in points]) if points else []
    taken: list[tuple[float, float, float, float]] = []
    for index in sorted(range(len(points)), key=lambda i: not points[i][3]):
        xy, step, colour, is_end = points[index]
        half = 3.6 * len(str(step))
        for dx, dy in ((half + 6, 9), (-half - 6, 9), (half + 6, -9), (-half - 6, -9), (0, 15), (0, -15)):
            x, y = pixels[index] + (dx, dy)
            box = (x - half, y - 7, x + half, y + 7)
            on_point = any(box[0] < p[0] < box[2] and box[1] < p[1] < box[3] for p in pixels)
            on_label = any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken)
            if not on_point and not on_label:
                break
        else:
            if not is_end:
                continue
        taken.append(box)
        points_per_pixel = 72 / axes.figure.dpi
        axes.annotate(
            f"{step}",
            xy,
            xytext=((x - pixels[index][0]) * points_per_pixel, (y - pixels[index][1]) * points_per_pixel),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=_darker(colour),
        )


def _darker(colour: str) -> tuple[float, ...]:
    return tuple(0.65 * c for c in to_rgb(colour))
