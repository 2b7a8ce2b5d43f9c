"""The counterfactuals that the two-sample critics are surest about, with the places that gave them away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from .examples import _images, _resized, _rounded, _show, _title
from .frame import new_figure, styled
from .inputs import as_interval, record_array
from .png import write_png

SIDE = 142  # pixels of a panel at 100 per inch
HEAT = "#D40000"


@styled
def suspects_figure(
    suspects: Mapping[str, np.ndarray], schema, results: Mapping[str, Any], *, count: int = 2
) -> Figure:
    """A row per intervention; of every film the real one, the counterfactual, and where it looks like one.

    Args:
        suspects: per intervention k, most suspicious film first: `do/{k}/before` and `do/{k}/image` (M, H, W), uint8
            or on [-1, 1]; `do/{k}/attributes` (M, n); `do/{k}/places` (M, h, w), logits as in `CriticScores.places`.
        results: with the two-sample AUC of every intervention, `do/{k}/two_sample_auc`, where there is one.
        count: at most this many films of an intervention, the first ones.

    Raises:
        ValueError: there is no film, or an array is missing or does not fit.
    """
    names = [k for k in schema.names if f"do/{k}/image" in suspects]
    if not names:
        raise ValueError("The suspects need at least one `do/{variable}/image`.")
    columns = min(count, max(len(suspects[f"do/{k}/image"]) for k in names))
    caption = (
        "Per intervention the counterfactuals that a critic, which never saw the patient, is surest about: the real "
        "film, the counterfactual, and what each place adds to the verdict. Red: more like a counterfactual than real "
        "films are at that place on average; all maps of a row share a scale. AUC 0.5: nobody can tell."
    )
    figure = new_figure(1.87 * len(names), results, "", caption)
    grid = figure.subplots(len(names), 3 * columns, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for row, k in zip(grid, names):
        before, image = (
            _rounded(_resized(_images(suspects, f"do/{k}/{name}")[:count], SIDE), 1.0, 32)
            for name in ("before", "image")
        )
        places = np.asarray(record_array(suspects, f"do/{k}/places", "suspects"), float)[:count]
        attributes = record_array(suspects, f"do/{k}/attributes", "suspects")
        if before.shape != image.shape or len(places) != len(image) or len(attributes) < len(image):
            raise ValueError(
                f"do({k}) has {len(image)} suspects of {image.shape[1:]} pixels, but {len(before)} real films of "
                f"{before.shape[1:]}, {len(places)} maps and {len(attributes)} rows of attributes."
            )
        limit = max(np.percentile(places, 99), 1e-6)
        for i in range(len(image)):
            real, fake, where = row[3 * i : 3 * i + 3]
            _show(real, before[i], _auc_words(k, results) if i == 0 else "real")
            _show(fake, image[i], _title(k, attributes[i], schema, SIDE))
            _show(where, image[i], "where")
            height, width = image[i].shape
            where.imshow(
                np.ones_like(places[i]),
                cmap=ListedColormap([HEAT]),
                alpha=0.6 * _rounded(places[i].clip(0) / limit, 1.0, 8),
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                interpolation="nearest",
            )
    return figure


def write_suspects(
    path: Path, suspects: Mapping[str, np.ndarray], schema, results: Mapping[str, Any]
) -> Path:
    """The picture in a file of bounded size."""
    figure = suspects_figure(suspects, schema, results)
    return write_png(path, figure, ((100, 256), (100, 128), (100, 64), (70, 64), (50, 32)))


def _auc_words(k: str, results: Mapping[str, Any]) -> str:
    auc = as_interval(results["do"].get(k, {}).get("two_sample_auc"), f"do({k}) two_sample_auc")[0]
    return "real" if np.isnan(auc) else f"do({k}): AUC {auc:.2f}\nreal"
