"""Pictures of an evaluation: bars per intervention, judge densities, embeddings, examples, suspects, comparisons.

Every `*_figure` function draws and returns a matplotlib `Figure`; `write_plots`, `comparison_plot` and
`training_curves_plot` write them as PNG files, at most `MAX_BYTES` each, on opaque white. Intervals are
(estimate, low, high); `None` or NaN means "not defined" and is drawn as an explicit n/a, never as zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...visualization.counterfactuals import DIFFERENCE_COLOURS
from .bars import Bar, amplification_bars, amplification_figure, effectiveness_bars, effectiveness_figure
from .comparison import comparison_figure, comparison_plot
from .densities import MAX_LOGIT, density, judge_density_figure, logit
from .embeddings import MAX_POINTS, Projection, embedding_figure, project_embeddings
from .examples import MAX_EXAMPLES, examples_figure, write_examples
from .frame import PALETTE, REAL, TRAINING_JUDGE_NOTE
from .png import MAX_BYTES, write_png
from .suspects import suspects_figure, write_suspects
from .training_curves import training_curves_figure, training_curves_plot


def write_plots(
    folder: Path,
    records: Mapping[str, np.ndarray],
    schema,
    graph,
    results: Mapping[str, Any],
    suspects: Mapping[str, np.ndarray] | None = None,
) -> list[Path]:
    """Writes every picture of one evaluation as PNG into `folder`, which is made if need be.

    Args:
        folder: where `effectiveness.png`, `amplification.png`, `judge_densities.png`, `embedding_pca.png`,
            `examples.png` and `suspects.png` go; files of that name are replaced.
        records: per-image arrays of the evaluation: `factual`, `real/judge/{k}`, `real/embedding`,
            `do/{k}/attributes`, `do/{k}/judge/{k}`, `do/{k}/embedding`; below `examples/` those of `examples_figure`,
            without which `examples.png` is left out.
        schema, graph: `AttributeSchema` and `CausalGraph` of the model.
        results: the evaluation's numbers: `real`, `do`, `identity`, `mean_abs_amplification`.
        suspects: see `suspects_figure`; without any `suspects.png` is left out.

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
    examples = {k.removeprefix("examples/"): v for k, v in records.items() if k.startswith("examples/")}
    paths = [write_png(folder / name, draw()) for name, draw in figures.items()]
    if examples:
        paths.append(write_examples(folder / "examples.png", examples, schema, results))
    if suspects:
        paths.append(write_suspects(folder / "suspects.png", suspects, schema, results))
    return paths


__all__ = [
    "DIFFERENCE_COLOURS",
    "MAX_BYTES",
    "MAX_EXAMPLES",
    "MAX_LOGIT",
    "MAX_POINTS",
    "PALETTE",
    "REAL",
    "TRAINING_JUDGE_NOTE",
    "Bar",
    "Projection",
    "amplification_bars",
    "amplification_figure",
    "comparison_figure",
    "comparison_plot",
    "density",
    "effectiveness_bars",
    "effectiveness_figure",
    "embedding_figure",
    "examples_figure",
    "judge_density_figure",
    "logit",
    "project_embeddings",
    "suspects_figure",
    "training_curves_figure",
    "training_curves_plot",
    "write_plots",
]
