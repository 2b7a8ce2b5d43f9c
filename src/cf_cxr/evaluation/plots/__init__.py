"""Pictures of an evaluation: `write_plots` of counterfactuals, `write_explanation_plots` of explanations.

Every `*_figure` function draws and returns a matplotlib `Figure`; `write_png` writes it in at most `MAX_BYTES`, on opaque
white. Intervals are (estimate, low, high); None or NaN means "not defined" and is drawn as an explicit n/a, never as zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .clouds import embedding_figure, judge_density_figure
from .curves import anatomy_figure, exaggeration_figure
from .films import choose_series, series_figure, suspects_figure, write_examples
from .frame import write_png
from .scores import amplification_figure, effectiveness_figure

NUM_SERIES = 6  # explanations in the example sheet


def write_plots(
    folder: Path,
    records: Mapping[str, np.ndarray],
    schema,
    graph,
    results: Mapping[str, Any],
    suspects: Mapping[str, np.ndarray] = {},
) -> None:
    """Writes every picture of an evaluation of counterfactuals as PNG into `folder`, which is made if need be.

    Args:
        folder: where `effectiveness.png`, `amplification.png`, `judge_densities.png`, `embedding_pca.png`,
            `examples.png` and, with `suspects`, `suspects.png` go; files of that name are replaced.
        records: of the evaluation. schema, graph: of the model. results: its numbers.
        suspects: see `suspects_figure`.
    """
    write_png(folder / "effectiveness.png", effectiveness_figure(schema, graph, results))
    write_png(folder / "amplification.png", amplification_figure(schema, graph, results))
    write_png(folder / "judge_densities.png", judge_density_figure(records, schema, results))
    write_png(folder / "embedding_pca.png", embedding_figure(records, schema, results))
    examples = {k.removeprefix("examples/"): v for k, v in records.items() if k.startswith("examples/")}
    write_examples(folder / "examples.png", examples, schema, results)
    if suspects:
        ladder = ((100, 256), (100, 128), (100, 64), (70, 64), (50, 32))
        write_png(folder / "suspects.png", suspects_figure(suspects, schema, results), ladder)


def write_explanation_plots(
    folder: Path, records: Mapping[str, np.ndarray], results: Mapping[str, Any]
) -> None:
    """The same of an evaluation of explanations: `exaggeration.png`, `examples.png` and, with masks, `anatomy.png`."""
    write_png(folder / "exaggeration.png", exaggeration_figure({"": results}))
    if results["anatomy"]:
        write_png(folder / "anatomy.png", anatomy_figure(results))
    rows = choose_series(records, results["identity"]["classifier"]["threshold"], NUM_SERIES)
    ladder = ((160, None), (100, "maps"), (70, "maps"), (50, "maps"))  # a few colours would spoil the maps
    write_png(folder / "examples.png", series_figure(records, rows), ladder)
