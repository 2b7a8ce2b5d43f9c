"""The judge's embeddings of real images and counterfactuals on principal components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .frame import PALETTE, add_legend, new_figure, styled
from .inputs import interventions, record_array

MAX_POINTS = 250  # dots per cloud in the scatter plots


class Projection(NamedTuple):
    """Principal axes of real embeddings: `real` (N, 2), `counterfactual` {k: (N, 2)}, `share` (2,) of variance."""

    real: np.ndarray
    counterfactual: dict[str, np.ndarray]
    share: np.ndarray


def project_embeddings(records: Mapping[str, np.ndarray], names: Sequence[str]) -> Projection:
    """Judge embeddings on two principal components that are fitted to the real images only."""
    from sklearn.decomposition import PCA

    real = np.asarray(record_array(records, "real/embedding"), np.float64)
    if real.ndim != 2 or min(real.shape) < 2:
        raise ValueError(
            f"real/embedding has shape {real.shape}; two principal components need (N, D) with N, D at least 2."
        )
    pca = PCA(n_components=2, svd_solver="full").fit(real)
    moved = {
        k: pca.transform(np.asarray(record_array(records, f"do/{k}/embedding"), np.float64)) for k in names
    }
    return Projection(pca.transform(real), moved, pca.explained_variance_ratio_)


@styled
def embedding_figure(records: Mapping[str, np.ndarray], schema, results: Mapping[str, Any]) -> Figure:
    """Principal components of judge embeddings, factual and counterfactual, coloured by the intervened attribute.

    Axes are fitted to real images and the same in every panel. Continuous attributes are cut at the terciles of
    the factual values. Large markers are group means; at most `MAX_POINTS` images are drawn, the first ones.
    """
    names = [k for k, _ in interventions(schema, results)]
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
    figure = new_figure(3.0 * rows + 0.3, results, title, caption, kinds)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for k, axes in zip(names, grid):
        column = schema.index(k)
        factual = record_array(records, "factual")[:, column]
        intended = record_array(records, f"do/{k}/attributes")[:, column]
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
    add_legend(figure, handles, kinds)
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
