"""Pictures of an evaluation: bars per intervention, judge densities, judge embeddings, examples, comparisons.

The bars are those of A = Xia et al., MICCAI 2024: an independent judge's score of every attribute under every do(·).
Every `*_figure` function draws and returns a matplotlib `Figure`; `write_plots`, `comparison_plot` and
`training_curves_plot` write them as PNG files, at most `MAX_BYTES` each, on opaque white. Intervals are
(estimate, low, high); `None` or NaN means "not defined" and is drawn as an explicit n/a, never as zero.
"""

from __future__ import annotations

import functools
import io
import math
import textwrap
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .visualization import DIFFERENCE_COLOURS, GREY_LEVELS, describe_do, difference_limit

PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#7A5C00",
    "#444444",
)  # Okabe, Ito
REAL = "#9A9A9A"
MAX_BYTES = 250_000
MAX_LOGIT = 8.0  # a judge saturates; beyond this, logits differ by rounding only
MAX_POINTS = 250  # dots per cloud in the scatter plots
MAX_EXAMPLES = 3
TRAINING_JUDGE_NOTE = (
    "Judge was used in training: it grades its own pupil, these numbers are not independent."
)
_WIDTH = 9.0  # inches; 900 pixels at 100 per inch, where 8 points are 11 pixels
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class Bar(NamedTuple):
    """One bar: the score of `attribute` under do(`do`), `which` is "real", "counterfactual" or "difference"."""

    do: str
    attribute: str
    which: str
    estimate: float
    low: float
    high: float


def _styled(function: Callable) -> Callable:
    """Runs a drawing function in the package's style, whatever style the user has set."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with matplotlib.style.context(["default", _STYLE]):
            return function(*args, **kwargs)

    return wrapper


def write_plots(
    folder: Path,
    records: Mapping[str, np.ndarray],
    schema,
    graph,
    results: Mapping[str, Any],
    examples: Mapping[str, np.ndarray],
) -> list[Path]:
    """Writes every picture of one evaluation as PNG into `folder`, which is made if need be.

    Args:
        folder: where `effectiveness.png`, `amplification.png`, `judge_densities.png`, `embedding_pca.png` and
            `examples.png` go; files of that name are replaced.
        records: per-image arrays of the evaluation: `factual`, `real/judge/{k}`, `real/embedding`,
            `do/{k}/attributes`, `do/{k}/judge/{k}`, `do/{k}/embedding`.
        schema, graph: `AttributeSchema` and `CausalGraph` of the model.
        results: the evaluation's numbers: `real`, `do`, `identity`, `mean_abs_amplification`.
        examples: see `examples_figure`; with an empty mapping `examples.png` is left out.

    Returns:
        The paths written, in the order above.

    Raises:
        ValueError: a record, a result or an example is missing or has the wrong shape; the message names it.
    """
    folder = Path(folder)
    figures = {
        "effectiveness.png": lambda: effectiveness_figure(schema, graph, results),
        "amplification.png": lambda: amplification_figure(schema, graph, results),
        "judge_densities.png": lambda: judge_density_figure(records, schema, results),
        "embedding_pca.png": lambda: embedding_figure(records, schema, results),
    }
    paths = [_write(folder / name, draw()) for name, draw in figures.items()]
    if examples:
        paths.append(_write_examples(folder / "examples.png", examples, schema, results))
    return paths


def effectiveness_bars(schema, graph, results: Mapping[str, Any]) -> list[Bar]:
    """The judge's score on real images beside its score under each do(k), for every attribute it can be read from.

    For the intervened attribute the counterfactual score is `effectiveness` (against the intervened value); for
    any other, real score + `amplification` (against the factual label), whose interval is that of the paired
    difference. Descendants of k are left out: their right answer changes with the intervention.
    """
    bars = []
    for k, row in _dos(schema, results):
        for j in schema.names:
            if j in graph.descendants(k):
                continue
            real = _interval(results["real"].get(j), f"real/{j}")
            if j == k:
                after = _interval(row.get("effectiveness"), f"do/{k}/effectiveness")
            else:
                difference = _interval(row.get("amplification", {}).get(j), f"do/{k}/amplification/{j}")
                after = tuple(real[0] + d for d in difference)
            bars += [Bar(k, j, "real", *real), Bar(k, j, "counterfactual", *after)]
    return bars


def amplification_bars(schema, graph, results: Mapping[str, Any]) -> list[Bar]:
    """The do × attribute matrix: score under do(k) minus score on real images, for j neither k nor downstream."""
    return [
        Bar(k, j, "difference", *_interval(row.get("amplification", {}).get(j), f"do/{k}/amplification/{j}"))
        for k, row in _dos(schema, results)
        for j in schema.names
        if j != k and j not in graph.descendants(k)
    ]


@_styled
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


@_styled
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
        means = [_interval(scalars[n], f"mean_abs_amplification/{n}") for n in names if n in scalars]
        title = "Discrete attributes" if unit is None else _continuous(chosen)
        lines = [title, *(f"mean |·| {m[0]:.2f} [{m[1]:.2f}, {m[2]:.2f}]" for m in means)]
        axes.set_title("\n".join(lines))
        axes.set_ylabel(
            "change of AUC, points\n(> 0 amplified, < 0 weakened)"
            if unit is None
            else f"change of error, {unit}\n(> 0 weakened, < 0 amplified)"
        )
    return figure


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 − p)) of probabilities of any shape, clipped to ±`MAX_LOGIT`."""
    p = np.clip(np.asarray(probability, np.float64), 0, 1)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(p) - np.log1p(-p), -MAX_LOGIT, MAX_LOGIT)


def density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Histogram density of `values` (N,) over bins `edges` (B + 1,); integrates to 1. Values must lie within."""
    return np.histogram(values, edges, density=True)[0]


@_styled
def judge_density_figure(records: Mapping[str, np.ndarray], schema, results: Mapping[str, Any]) -> Figure:
    """What the judge makes of the intervened attribute: real images of a class against counterfactuals made so.

    One panel per intervention k, one row per class: densities of the judge's logit (binary: of class 1;
    categorical: of the row's class), clipped to ±`MAX_LOGIT`; continuous: of prediction minus intended value, in
    units. Counterfactuals are those whose value the intervention changed. A counterfactual curve further out
    than the real one is over-exaggeration.
    """
    names = [k for k, _ in _dos(schema, results)]
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)
    heights = [max(1.8, 0.62 * max(1, schema[k].n_classes) + 0.75) for k in names]
    row_heights = [max(heights[r * columns : (r + 1) * columns]) for r in range(rows)]
    caption = "Counterfactuals: images whose value the intervention changed. Dashed lines: medians."
    labels = ["real images of that value", "counterfactuals given that value"]
    title = "Does the judge find counterfactuals more typical than reality?"
    figure = _new_figure(sum(row_heights), results, title, caption, labels)
    outer = figure.add_gridspec(rows, columns, height_ratios=row_heights, hspace=0.1, wspace=0.08)
    for index, k in enumerate(names):
        _draw_densities(figure, outer[index // columns, index % columns], records, schema, k)
    handles = [Patch(color=REAL, alpha=0.6), Line2D([], [], color=PALETTE[0], linewidth=1.8)]
    _legend(figure, handles, labels)
    return figure


def _draw_densities(figure, cell, records, schema, k: str) -> None:
    attribute, column = schema[k], schema.index(k)
    factual = _record(records, "factual")[:, column]
    intended = _record(records, f"do/{k}/attributes")[:, column]
    real, fake = (_record(records, f"{where}/judge/{k}").astype(np.float64) for where in ("real", f"do/{k}"))
    changed = factual != intended
    if attribute.kind == "continuous":
        clouds = [(attribute.unit or "value", real - factual, (fake - intended)[changed])]
        label = f"judge − intended value, {attribute.unit}".rstrip(", ")
        finite = np.concatenate([c[np.isfinite(c)] for c in clouds[0][1:]])
        limit = float(np.abs(finite).max(initial=1e-9))
    else:
        clouds, limit = [], MAX_LOGIT
        for c, name in enumerate(attribute.categories):
            of = (lambda p: p) if attribute.kind == "binary" else (lambda p, c=c: p[:, c])
            clouds.append((name, logit(of(real[factual == c])), logit(of(fake[changed & (intended == c)]))))
        which = attribute.categories[1] if attribute.kind == "binary" else "the row's class"
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
                _wrapped(name, 12), rotation=0, ha="right", va="center", multialignment="right", fontsize=8.5
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


class Projection(NamedTuple):
    """Principal axes of real embeddings: `real` (N, 2), `counterfactual` {k: (N, 2)}, `share` (2,) of variance."""

    real: np.ndarray
    counterfactual: dict[str, np.ndarray]
    share: np.ndarray


def project_embeddings(records: Mapping[str, np.ndarray], names: Sequence[str]) -> Projection:
    """Judge embeddings on two principal components that are fitted to the real images only."""
    from sklearn.decomposition import PCA

    real = np.asarray(_record(records, "real/embedding"), np.float64)
    if real.ndim != 2 or min(real.shape) < 2:
        raise ValueError(
            f"real/embedding has shape {real.shape}; two principal components need (N, D) with N, D at least 2."
        )
    pca = PCA(n_components=2, svd_solver="full").fit(real)
    moved = {k: pca.transform(np.asarray(_record(records, f"do/{k}/embedding"), np.float64)) for k in names}
    return Projection(pca.transform(real), moved, pca.explained_variance_ratio_)


@_styled
def embedding_figure(records: Mapping[str, np.ndarray], schema, results: Mapping[str, Any]) -> Figure:
    """Principal components of judge embeddings, factual and counterfactual, coloured by the intervened attribute.

    Axes are fitted to real images and the same in every panel. Continuous attributes are cut at the terciles of
    the factual values. Large markers are group means; at most `MAX_POINTS` images are drawn, the first ones.
    """
    names = [k for k, _ in _dos(schema, results)]
    projection = project_embeddings(records, names)
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)
    shown = min(len(projection.real), MAX_POINTS)
    caption = (
        f"Axes fitted to real images only. Large markers: means over all {len(projection.real)} images; "
        f"{shown} images drawn."
    )
    kinds = ["factual (by factual value)", "counterfactual (by intended value)"]
    title = "Judge's embeddings: do counterfactuals lie where real images of that value lie?"
    figure = _new_figure(3.0 * rows + 0.3, results, title, caption, kinds)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for k, axes in zip(names, grid):
        column = schema.index(k)
        factual = _record(records, "factual")[:, column]
        intended = _record(records, f"do/{k}/attributes")[:, column]
        labels, before, after = _groups(schema[k], factual, intended)
        points = ((projection.real, before, "o"), (projection.counterfactual[k], after, "x"))
        for xy, group, marker in points:
            for g in range(len(labels)):
                mine = xy[:shown][group[:shown] == g]
                axes.scatter(
                    *mine.T,
                    s=9 if marker == "o" else 12,
                    marker=marker,
                    linewidths=0 if marker == "o" else 0.8,
                    color=PALETTE[g % len(PALETTE)],
                    alpha=0.35 if marker == "o" else 0.6,
                    rasterized=True,
                )
        for xy, group, marker in points:
            for g in range(len(labels)):
                if (group == g).any():
                    axes.scatter(
                        *xy[group == g].mean(0),
                        s=110,
                        marker="o" if marker == "o" else "X",
                        color=PALETTE[g % len(PALETTE)],
                        edgecolors="black",
                        linewidths=1.2,
                        gid=f"mean/{'real' if marker == 'o' else 'counterfactual'}/{k}/{labels[g]}",
                        zorder=5,
                    )
        axes.set_title(f"do({k})")
        axes.set_xlabel(f"first component ({projection.share[0]:.0%} of variance)")
        axes.set_ylabel(f"second component ({projection.share[1]:.0%})")
        handles = [
            Line2D([], [], marker="s", linestyle="", color=PALETTE[g % len(PALETTE)])
            for g in range(len(labels))
        ]
        axes.legend(
            handles,
            labels,
            loc="best",
            handletextpad=0.1,
            borderpad=0.2,
            frameon=True,
            framealpha=0.8,
            edgecolor="none",
        )
    for axes in grid[len(names) :]:
        axes.remove()
    for axes in grid[: len(names)]:
        axes.label_outer()
    handles = [
        Line2D([], [], marker="o", linestyle="", color="#333333"),
        Line2D([], [], marker="X", linestyle="", color="#333333"),
    ]
    _legend(figure, handles, kinds)
    return figure


def _groups(attribute, factual: np.ndarray, intended: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the groups and the group index of each value; −1 where a value is unknown."""
    if attribute.is_discrete:
        labels, edges = list(attribute.categories), np.arange(1, attribute.n_classes) - 0.5
    else:
        known = factual[np.isfinite(factual)]
        edges = np.unique(np.quantile(known, [1 / 3, 2 / 3])) if len(known) else np.array([0.0])
        ends = [f"≤ {edges[0]:.3g}", *(f"{a:.3g} – {b:.3g}" for a, b in zip(edges, edges[1:]))]
        labels = [f"{text} {attribute.unit}".rstrip() for text in [*ends, f"> {edges[-1]:.3g}"]]
    index = [np.where(np.isfinite(v), np.searchsorted(edges, v), -1) for v in (factual, intended)]
    return labels, *index


@_styled
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
    attributes = _record(examples, "factual", "examples")
    side = _panel_side(factual.shape[2])
    factual = _resized(factual, side)
    images = {k: _resized(stack, side) for k, stack in images.items()}
    differences = {k: (stack - factual) * GREY_LEVELS for k, stack in images.items()}
    if limit is None:
        limit = difference_limit([d / GREY_LEVELS for d in differences.values()]) * GREY_LEVELS
    high, columns, rows = round(side * factual.shape[1] / factual.shape[2]), 1 + len(names), len(factual)
    titles = {
        k: [_title(k, raw, schema, side) for raw in _record(examples, f"do/{k}/attributes", "examples")]
        for k in names
    }
    two_lines = any("\n" in t for k in names for t in titles[k][:rows])
    gap, title, note = 4, 33 if two_lines else 20, 28 * _training_judge(results)
    pictures = columns * (side + gap) + gap  # width of the grid; colour bar and its label take 80 pixels more
    width = max(pictures + 80, 690 if note else 0)
    height = note + rows * (2 * high + title + 2 * gap) + gap
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    FigureCanvasAgg(figure)
    if note:
        _note(figure)

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


def _write_examples(
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
    return _write(path, figure, ((100, "maps"), (100, 64), (70, 64), (50, 32)))


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
    images = np.asarray(_record(examples, name, "examples"))
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim != 3:
        raise ValueError(f"Example {name} has shape {images.shape}; expected (M, H, W) or (M, 1, H, W).")
    return (
        images / GREY_LEVELS - 1.0 if images.dtype == np.uint8 else np.asarray(images, np.float64).clip(-1, 1)
    )


@_styled
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
    figure = _new_figure(0.42 * len(rows) + 1.0, {}, "", caption)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (key, title) in zip(grid, panels):
        axes.set_title(title)
        axes.set_gid(f"comparison/{key}")
        intervals = [_interval(row.get(key), f"{row['name']}: {key}") for row in rows]
        if _zero_axis(axes, "x", [v for i in intervals for v in i]):
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
                _number(estimate),
                (estimate, y),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
            )
        axes.set_ylim(len(rows) - 0.5, -0.7)
        axes.tick_params(axis="y", length=0)
    grid[0].set_yticks(range(len(rows)), [_wrapped(str(row["name"]), 26) for row in rows])
    return figure


def comparison_plot(path: Path, rows: Sequence[Mapping[str, Any]], *, unit: str = "AUC points") -> Path:
    """Writes `comparison_figure(rows)` as PNG; returns the path."""
    return _write(Path(path), comparison_figure(rows, unit=unit))


@_styled
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
    figure = _new_figure(3.7, {}, "", caption, list(curves))
    path_axes, step_axes = figure.subplots(1, 2)
    ordered, placed = {}, []
    for name, points in curves.items():
        points = sorted(points, key=lambda p: p["step"])
        pairs = [[_interval(p.get(q), f"{name}, step {p['step']}: {q}") for p in points] for q in _CURVE]
        distance, amplification = (np.array(p, float).reshape(-1, 3) for p in pairs)
        ordered[name] = (np.array([p["step"] for p in points]), distance, amplification)
    far = _zero_axis(path_axes, "x", np.concatenate([d.ravel() for _, d, _ in ordered.values()]))
    _zero_axis(path_axes, "y", np.concatenate([a.ravel() for _, _, a in ordered.values()]))
    _zero_axis(step_axes, "y", np.concatenate([a.ravel() for _, _, a in ordered.values()]))
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
    logarithmic = ", logarithmic above 1" if far else ""
    path_axes.set_xlabel(f"distance of effectiveness from real images ({unit}{logarithmic})")
    path_axes.set_ylabel(f"mean |amplification| ({unit})")
    path_axes.set_title("Path over training")
    step_axes.set_xlabel("training step")
    step_axes.set_title("Amplification by step")
    _legend(figure, handles, list(ordered))
    figure.canvas.draw()  # places the axes, so that step labels can keep clear of one another
    _annotate_steps(path_axes, placed)
    return figure


def training_curves_plot(
    path: Path, curves: Mapping[str, Sequence[Mapping[str, Any]]], *, unit: str = "AUC points"
) -> Path:
    """Writes `training_curves_figure(curves)` as PNG; returns the path."""
    return _write(Path(path), training_curves_figure(curves, unit=unit))


_CURVE = ("distance", "amplification")
_MARKERS = "osD^vPX*"


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


def _zero_axis(axes, which: str, values) -> bool:
    """An axis from zero to beyond the largest value; if that is far off, logarithmic above 1. Says whether it is."""
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    top, low = finite.max(initial=0.0) or 1.0, finite.min(initial=0.0)
    if top > 25:
        getattr(axes, f"set_{which}scale")("symlog", linthresh=1.0, linscale=0.5)
        ticks = [t for t in (0, 1, 3, 10, 30, 100, 300, 1000) if t <= 1.5 * top]
        getattr(axes, f"set_{which}ticks")(ticks, [f"{t}" for t in ticks])
        getattr(axes, f"set_{which}lim")(-0.15, 1.5 * top)
    else:
        getattr(axes, f"set_{which}lim")(low - 0.06 * top, 1.12 * top)
    (axes.axvline if which == "x" else axes.axhline)(0, color="black", linewidth=0.8, zorder=0)
    return bool(top > 25)


def _new_figure(
    height: float, results: Mapping[str, Any], title: str = "", caption: str = "", legend: Sequence[str] = ()
) -> Figure:
    """An empty figure: around the `height` inches for axes, room for note and title above, legend and caption below.

    The note says that the judge was used in training, where it was.
    """
    note = _training_judge(results)
    lines = textwrap.wrap(caption, 140)
    above = 0.28 * note + 0.27 * bool(title)
    caption_height = 0.15 * len(lines) + 0.07 * bool(lines)
    below = caption_height + 0.07 * bool(legend) + 0.2 * _legend_rows(legend)
    height += above + below
    figure = Figure(figsize=(_WIDTH, height), dpi=100)
    FigureCanvasAgg(figure)
    rect = (0, below / height, 1, 1 - (above + below) / height)
    figure.set_layout_engine("constrained", rect=rect, w_pad=0.06, h_pad=0.05)
    figure.legend_bottom = caption_height / height
    if note:
        _note(figure)
    if title:
        figure.text(0.5, 1 - (above - 0.14) / height, title, ha="center", va="center", fontsize=11)
    figure.text(0.008, 0.05 / height, "\n".join(lines), va="bottom", fontsize=8, color="#444444")
    return figure


def _training_judge(results: Mapping[str, Any]) -> bool:
    return (results.get("identity") or {}).get("judge_is_training_classifier") is True


def _note(figure: Figure) -> None:
    figure.text(
        0.5,
        1 - 0.15 / figure.get_figheight(),
        TRAINING_JUDGE_NOTE,
        ha="center",
        va="center",
        color="#8A2C00",
        fontsize=9.5,
        fontweight="bold",
        bbox={"facecolor": "#FFE0CC", "edgecolor": "none", "pad": 3},
    )


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
    figure = _new_figure(2.6 * len(units) if stacked else 3.6, results, title, caption, names)
    if not units:
        axes = figure.subplots()
        axes.axis("off")
        axes.text(0.5, 0.5, "n/a: no pair of variables to compare", ha="center")
        return figure, []
    if stacked:
        grid = figure.subplots(len(units), 1, squeeze=False)[:, 0]
    else:
        grid = figure.subplots(1, len(units), squeeze=False, width_ratios=widths)[0]
    _legend(figure, handles, names)
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
            _number(bar.estimate, largest) + star, (x, min(ends) if downwards else max(ends)), **text
        )
    labels = [f"do({k})" for k in ticks]
    axes.set_xticks([float(np.mean(v)) for v in ticks.values()], labels)
    axes.tick_params(axis="x", length=0)
    ratios, place = axes.get_gridspec().get_width_ratios(), axes.get_subplotspec().colspan.start
    room = (100 * _WIDTH * ratios[place] / sum(ratios) - 75) / len(labels)  # pixels per label
    if max(map(len, labels)) * 6.2 > room:
        for label in axes.get_xticklabels():
            label.set(rotation=25, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.9, x + 0.9)


def _legend_rows(labels: Sequence[str]) -> int:
    return math.ceil(sum(6.2 * len(label) + 60 for label in labels) / (98 * _WIDTH))


def _legend(figure, handles, labels) -> None:
    """A legend in as many rows as its labels need, in the room that `_new_figure` left above the caption."""
    figure.legend(
        handles,
        labels,
        loc="lower center",
        bbox_to_anchor=(0.5, figure.legend_bottom),
        ncols=math.ceil(len(labels) / _legend_rows(labels)),
        borderaxespad=0.2,
    ).set_in_layout(False)


def _continuous(bars: Sequence[Bar]) -> str:
    return _wrapped(f"Continuous: {', '.join(dict.fromkeys(b.attribute for b in bars))}", 32)


def _with_descendants(caption: str, schema, graph) -> str:
    left_out = [f"{j} under do({k})" for k in schema.names for j in schema.names if j in graph.descendants(k)]
    return caption + (
        f" Left out: {', '.join(left_out)}, which the intervention may change." if left_out else ""
    )


def _number(value: float, largest: float = 1.0) -> str:
    """One decimal, two below 10, more where even the `largest` beside it is small; with a true minus sign."""
    decimals = 2 if largest >= 1 or not largest > 0 else 2 - math.floor(math.log10(largest))
    text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.{min(decimals, 6)}f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "")


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)[:2])


def _interval(value: Any, name: str) -> tuple[float, float, float]:
    """(estimate, low, high) as floats; None anywhere becomes NaN."""
    if value is None:
        return (np.nan,) * 3
    try:
        estimate, low, high = (np.nan if v is None else float(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (estimate, low, high), got {value!r}.") from None
    return estimate, low, high


def _dos(schema, results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Interventions of the results in schema order, with their rows."""
    if missing := [key for key in ("real", "do") if key not in results]:
        raise ValueError(f"The results have no {missing[0]!r}; known: {', '.join(results) or 'nothing'}.")
    if unknown := [k for k in results["do"] if k not in schema]:
        raise ValueError(
            f"The results have do({unknown[0]}), but the schema knows {', '.join(schema.names)}."
        )
    if not results["do"]:
        raise ValueError("The results have no intervention: 'do' is empty.")
    return [(k, results["do"][k]) for k in schema.names if k in results["do"]]


def _record(records: Mapping[str, np.ndarray], name: str, what: str = "records") -> np.ndarray:
    """One array of the records; its length must be that of `factual`."""
    if name not in records:
        raise ValueError(f"The {what} have no {name!r}, which this picture needs.")
    array = np.asarray(records[name])
    if len(array) != len(records.get("factual", array)):
        raise ValueError(f"{name} has {len(array)} rows, factual {len(records['factual'])}.")
    return array


@_styled
def _write(
    path: Path, figure: Figure, ladder=((160, None), (160, 256), (100, 128), (100, 48), (60, 24))
) -> Path:
    """Saves as PNG with the first (dots per inch, colours) of the ladder that stays below `MAX_BYTES`."""
    for dpi, colours in ladder:
        data = _png(figure, dpi, colours)
        if len(data) <= MAX_BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _in_map_palette(image):
    """An RGB image in 120 greys, 128 steps of the difference maps' colours, and the colours of the note."""
    from PIL import Image

    greys = np.repeat(np.linspace(0, 255, 120)[:, None], 3, axis=1)
    maps = 255 * matplotlib.colormaps[DIFFERENCE_COLOURS](np.linspace(0, 1, 128))[:, :3]
    note = np.linspace([255, 224, 204], [138, 44, 0], 8)
    palette = np.concatenate([greys, maps, note]).round()
    pixels = np.asarray(image).reshape(-1, 3).astype(np.int64) @ [65536, 256, 1]
    colours, index = np.unique(pixels, return_inverse=True)
    rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(float)
    distance = (rgb**2).sum(1)[:, None] - 2 * rgb @ palette.T + (palette**2).sum(1)
    nearest = distance.argmin(1).astype(np.uint8)[index.ravel()].reshape(image.height, image.width)
    out = Image.fromarray(nearest).convert("P")
    out.putpalette(palette.astype(np.uint8).tobytes())
    return out


def _png(figure: Figure, dpi: int, colours: int | str | None) -> bytes:
    """RGB on white, with an adaptive palette of `colours`, or ("maps") with that of `_in_map_palette`."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    image = Image.open(buffer).convert("RGB")
    if colours == "maps":
        image = _in_map_palette(image)
    elif colours:
        image = image.quantize(colours)
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
