"""Where counterfactuals lie among real images of their value: densities of the judge's answer, and its embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .frame import PALETTE, REAL, add_legend, colour, new_figure, styled, wrapped

MAX_LOGIT = 8.0  # a judge saturates; beyond this, logits differ by rounding only
MAX_POINTS = 250  # dots per cloud in the scatter plots
Records = Mapping[str, np.ndarray]


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 − p)) of probabilities of any shape, clipped to ±`MAX_LOGIT`."""
    p = np.asarray(probability, np.float64).clip(0, 1)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(p) - np.log1p(-p), -MAX_LOGIT, MAX_LOGIT)


@styled
def judge_density_figure(records: Records, schema, results: Mapping[str, Any]) -> Figure:
    """What the judge makes of the intervened attribute: real images of a class against counterfactuals made so.

    One panel per intervention k, one row per class: densities of the judge's logit (binary: of class 1;
    categorical: of the row's class), clipped to ±`MAX_LOGIT`; continuous: of prediction minus intended value, in
    units. Counterfactuals are those whose value the intervention changed. A counterfactual curve further out
    than the real one is over-exaggeration.
    """
    names = list(results["do"])
    columns = min(2, len(names))
    heights = [max(1.8, 0.62 * max(1, schema[k].n_classes) + 0.75) for k in names]
    heights = [max(heights[i : i + columns]) for i in range(0, len(names), columns)]
    caption = "Counterfactuals: images whose value the intervention changed. Dashed lines: medians."
    labels = ["real images of that value", "counterfactuals given that value"]
    title = "Does the judge find counterfactuals more typical than reality?"
    figure = new_figure(sum(heights), results, title, caption, labels)
    outer = figure.add_gridspec(len(heights), columns, height_ratios=heights, hspace=0.1, wspace=0.08)
    for index, k in enumerate(names):
        _draw_densities(figure, outer[index // columns, index % columns], records, schema, k)
    handles = [Patch(color=REAL, alpha=0.6), Line2D([], [], color=PALETTE[0], linewidth=1.8)]
    add_legend(figure, handles, labels)
    return figure


def _draw_densities(figure, cell, records: Records, schema, k: str) -> None:
    attribute, column = schema[k], schema.index(k)
    factual, intended = records["factual"][:, column], records[f"do/{k}/attributes"][:, column]
    real, fake = (records[f"{where}/judge/{k}"].astype(np.float64) for where in ("real", f"do/{k}"))
    changed = factual != intended
    if attribute.is_discrete:
        if real.ndim == 1:  # of class 1, in both rows
            real, fake = (np.stack([p, p], 1) for p in (real, fake))
        clouds = [
            (name, logit(real[factual == c, c]), logit(fake[changed & (intended == c), c]))
            for c, name in enumerate(attribute.categories)
        ]
        which = attribute.categories[1] if attribute.n_classes == 2 else "the row's class"
        limit, label = MAX_LOGIT, f"judge's logit of {which} (clipped at ±{MAX_LOGIT:g})"
    else:
        clouds = [(attribute.unit or "value", real - factual, (fake - intended)[changed])]
        limit = max(1e-9, *(np.abs(c[np.isfinite(c)]).max(initial=0) for c in clouds[0][1:]))
        label = f"judge − intended value, {attribute.unit}".rstrip(", ")
    inner, first = cell.subgridspec(len(clouds), 1, hspace=0.0), None
    for row, (name, *values) in enumerate(clouds):
        axes = figure.add_subplot(inner[row], sharex=first)
        first = first or axes
        axes.set_gid(f"density/{k}/{name}")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        if attribute.is_discrete:
            place = {"rotation": 0, "ha": "right", "va": "center", "multialignment": "right"}
            axes.set_ylabel(wrapped(name, 12), fontsize=8.5, **place)
        values = [v[np.isfinite(v)] for v in values]
        bins = int(np.clip(2 * np.sqrt(min((len(v) for v in values if len(v)), default=1)), 8, 40))
        edges = np.linspace(-limit, limit, bins + 1)
        looks = {
            "real": ({"fill": True, "color": REAL, "alpha": 0.55}, "#555555", 0.02, "left"),
            "counterfactual": ({"color": PALETTE[0], "linewidth": 1.6}, PALETTE[0], 0.98, "right"),
        }
        for v, (which, (look, median, side, align)) in zip(values, looks.items()):
            if not len(v):
                text = f"{which}: n/a"
                axes.text(side, 0.6, text, transform=axes.transAxes, ha=align, fontsize=8.5)
                continue
            axes.stairs(np.histogram(v, edges, density=True)[0], edges, gid=which, **look)
            style = {"color": median, "linestyle": (0, (3, 2)), "linewidth": 1.1}
            axes.axvline(np.median(v), gid=f"median/{which}", **style)
        axes.set_xlim(-limit, limit)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelbottom=row == len(clouds) - 1)
    first.set_title(f"do({k})")
    axes.set_xlabel(label)


class Projection(NamedTuple):
    """Principal axes of real embeddings: `real` (N, 2), `counterfactual` {k: (N, 2)}, `share` (2,) of variance."""

    real: np.ndarray
    counterfactual: dict[str, np.ndarray]
    share: np.ndarray


def project_embeddings(records: Records, names: Sequence[str]) -> Projection:
    """Judge embeddings on two principal components that are fitted to the real images only."""
    from sklearn.decomposition import PCA

    real = records["real/embedding"].astype(np.float64)
    if min(real.shape) < 2:
        raise ValueError(
            f"real/embedding has shape {real.shape}; two principal components need (N, D) with N, D at least 2."
        )
    pca = PCA(n_components=2, svd_solver="full").fit(real)
    moved = {k: pca.transform(records[f"do/{k}/embedding"].astype(np.float64)) for k in names}
    return Projection(pca.transform(real), moved, pca.explained_variance_ratio_)


@styled
def embedding_figure(records: Records, schema, results: Mapping[str, Any]) -> Figure:
    """Principal components of judge embeddings, factual and counterfactual, coloured by the intervened attribute.

    Axes are fitted to real images and the same in every panel. Continuous attributes are cut at the terciles of
    the factual values. Large markers are group means; at most `MAX_POINTS` images are drawn, the first ones.
    """
    names = list(results["do"])
    projection = project_embeddings(records, names)
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    shown = min(len(projection.real), MAX_POINTS)
    caption = (
        f"Axes fitted to real images only. Large markers: means over all {len(projection.real)} images; "
        f"{shown} images drawn."
    )
    kinds = ["factual (by factual value)", "counterfactual (by intended value)"]
    title = "Judge's embeddings: do counterfactuals lie where real images of that value lie?"
    figure = new_figure(3.0 * rows + 0.3, results, title, caption, kinds)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    looks = {
        "real": ({"marker": "o", "s": 9, "linewidths": 0, "alpha": 0.35}, "o"),
        "counterfactual": ({"marker": "x", "s": 12, "linewidths": 0.8, "alpha": 0.6}, "X"),
    }
    for k, axes in zip(names, grid):
        column = schema.index(k)
        factual, intended = records["factual"][:, column], records[f"do/{k}/attributes"][:, column]
        labels, before, after = _groups(schema[k], factual, intended)
        clouds = ((projection.real, before), (projection.counterfactual[k], after))
        for (xy, group), (which, (dots, mean)) in zip(clouds, looks.items()):
            for g in (g for g in range(len(labels)) if (group == g).any()):
                axes.scatter(*xy[:shown][group[:shown] == g].T, color=colour(g), rasterized=True, **dots)
                look = {"s": 110, "edgecolors": "black", "linewidths": 1.2, "zorder": 5}
                gid = f"mean/{which}/{k}/{labels[g]}"
                axes.scatter(*xy[group == g].mean(0), marker=mean, color=colour(g), gid=gid, **look)
        axes.set_title(f"do({k})")
        axes.set_xlabel(f"first component ({projection.share[0]:.0%} of variance)")
        axes.set_ylabel(f"second component ({projection.share[1]:.0%})")
        handles = [Line2D([], [], marker="s", linestyle="", color=colour(g)) for g in range(len(labels))]
        box = {"frameon": True, "framealpha": 0.8, "edgecolor": "none", "borderpad": 0.2}
        axes.legend(handles, labels, loc="best", handletextpad=0.1, **box)
        axes.label_outer()
    for axes in grid[len(names) :]:
        axes.remove()
    handles = [Line2D([], [], marker=m, linestyle="", color="#333333") for _, m in looks.values()]
    add_legend(figure, handles, kinds)
    return figure


def _groups(attribute, factual: np.ndarray, intended: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the groups and the group index of each value."""
    if attribute.is_discrete:
        return list(attribute.categories), factual.astype(int), intended.astype(int)
    edges = np.unique(np.quantile(factual, [1 / 3, 2 / 3]))
    ends = [
        f"≤ {edges[0]:.3g}",
        *(f"{a:.3g} – {b:.3g}" for a, b in zip(edges, edges[1:])),
        f"> {edges[-1]:.3g}",
    ]
    labels = [f"{text} {attribute.unit}".rstrip() for text in ends]
    return labels, np.searchsorted(edges, factual), np.searchsorted(edges, intended)
