"""Sheets of films: examples with their differences, the most suspicious counterfactuals, series of explanations."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from ...images.grey_levels import GREY_LEVELS
from ...visualization.counterfactuals import describe_do
from ...visualization.drawing import DIFFERENCE_COLOURS, difference_limit
from .frame import MAX_BYTES, PALETTE, as_interval, blank_figure, styled, write_png

MAX_EXAMPLES = 3  # images in the picture
SUSPECT_SIDE, SERIES_SIDE = 142, 95  # pixels of a panel
HEAT = "#D40000"
Arrays = Mapping[str, np.ndarray]


class Sheet:
    """A figure of panels on whole pixels, at 100 per inch, so that films are shown as they are.

    Args:
        rows, columns: of panels. width, height: of a panel. title: pixels above it.
        bar: whether there is room for a colour bar at the right.
    """

    def __init__(
        self, rows: int, columns: int, width: int, height: int, title: int, results: Mapping = {}, caption: str = "",
        bar: bool = True,
    ) -> None:  # fmt: skip
        self.size, self.title, gap = (width, height), title, 4
        self.wide, total = columns * (width + gap) + gap, rows * (height + title + gap) + gap
        noted = (results.get("identity") or {}).get("judge_is_training_classifier") is True
        inches = max(self.wide + 80 * bar, 690 * noted) / 100
        self.figure, self.above, self.below = blank_figure(inches, total / 100, results, caption)

    def panel(self, row: int, column: int, title: str = "", image: np.ndarray | None = None, **look: Any):
        """Axes with an image, grey on [-1, 1] unless `look` says otherwise; returns the image, or the axes without one."""
        (width, height), figure = self.size, self.figure
        left = 4 + column * (width + 4)
        top = 100 * self.above + row * (height + self.title + 4) + self.title
        all_wide, all_high = 100 * figure.get_figwidth(), 100 * figure.get_figheight()
        place = (left / all_wide, 1 - (top + height) / all_high, width / all_wide, height / all_high)
        axes = figure.add_axes(place, xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(title, fontsize=8, pad=3, linespacing=1.05)
        if image is None:
            return axes
        return axes.imshow(
            image, **({"cmap": "gray", "vmin": -1, "vmax": 1, "interpolation": "nearest"} | look)
        )

    def difference_bar(self, maps, words: str) -> None:
        """The scale of difference maps, at the right."""
        wide, high = self.figure.get_figwidth(), self.figure.get_figheight()
        room = high - self.above - self.below
        length = min(0.9 * room, 4.2)
        place = (
            (self.wide + 8) / 100 / wide,
            (self.below + (room - length) / 2) / high,
            0.14 / wide,
            length / high,
        )
        bar = self.figure.colorbar(maps, cax=self.figure.add_axes(place))
        bar.ax.tick_params(labelsize=8)
        bar.set_label(f"{words} (grey levels of 255)", fontsize=8.5)


@styled
def examples_figure(
    examples: Arrays, schema, results: Mapping[str, Any], *, count: int = MAX_EXAMPLES, levels: int = 128
) -> Figure:
    """Factual images, one counterfactual per intervention, and the signed differences below.

    The scale of the difference maps is symmetric and common to all: the 99.8th percentile of |difference|, at least 4.

    Args:
        examples: uint8 `image` (M, 1, H, W) and, per intervention k, `do/{k}/image`; raw attributes `factual` (M, n)
            and `do/{k}/attributes` (M, n).
        count: at most this many images, the first ones.
        levels: grey levels and colours that are told apart; fewer make a smaller file.
    """
    names = [k for k in schema.names if f"do/{k}/image" in examples]
    width = examples["image"].shape[-1]
    side = width * max(1, round(150 / width)) if width <= 180 else 150  # a multiple of the image's, near 150
    factual, *images = (
        _resized(_films(examples[name][:count]), side)
        for name in ("image", *(f"do/{k}/image" for k in names))
    )
    differences = [(stack - factual) * GREY_LEVELS for stack in images]
    limit = difference_limit([d / GREY_LEVELS for d in differences]) * GREY_LEVELS
    titles = [[_title(k, raw, schema, side) for raw in examples[f"do/{k}/attributes"][:count]] for k in names]
    title = 33 if any("\n" in text for row in titles for text in row) else 20
    height = round(side * factual.shape[1] / factual.shape[2])
    sheet = Sheet(2 * len(factual), 1 + len(names), side, height, title, results)
    look = {"cmap": DIFFERENCE_COLOURS, "vmin": -limit, "vmax": limit}
    for r, (image, raw) in enumerate(zip(factual, examples["factual"])):
        sheet.panel(2 * r, 0, "factual", _rounded(image, 1.0, levels))
        lines = [f"{a.name}: {_value(a, value)}" for a, value in zip(schema, raw)]
        lines = ["\n".join(textwrap.wrap(t, max(12, side // 6), subsequent_indent="  ")) for t in lines]
        text = sheet.panel(2 * r + 1, 0)
        text.text(
            0.02, 0.97, "\n".join(lines), transform=text.transAxes, va="top", fontsize=8, linespacing=1.4
        )
        for c in range(len(names)):
            sheet.panel(2 * r, c + 1, titles[c][r], _rounded(images[c][r], 1.0, levels))
            maps = sheet.panel(2 * r + 1, c + 1, "", _rounded(differences[c][r], limit, levels), **look)
    sheet.difference_bar(maps, "counterfactual − factual")
    return sheet.figure


def write_examples(path: Path, examples: Arrays, schema, results: Mapping[str, Any]) -> Path:
    """The most images and levels of grey that fit into the file: noise does not compress."""
    for count, levels in ((MAX_EXAMPLES, 128), (MAX_EXAMPLES, 32), (2, 32), (1, 32)):
        figure = examples_figure(examples, schema, results, count=count, levels=levels)
        write_png(path, figure, ((100, "maps"), *(((70, 64), (50, 32)) if count == 1 else ())))
        if path.stat().st_size <= MAX_BYTES:
            break
    return path


@styled
def suspects_figure(suspects: Arrays, schema, results: Mapping[str, Any]) -> Figure:
    """A row per intervention; of every film the real one, the counterfactual, and where it looks like one.

    Args:
        suspects: per intervention k, most suspicious film first: uint8 `do/{k}/before` and `do/{k}/image` (M, H, W);
            `do/{k}/attributes` (M, n); `do/{k}/places` (M, h, w), logits as in `CriticScores.places`.
        results: with the two-sample AUC of every intervention, `do/{k}/two_sample_auc`, where there is one.
    """
    names = [k for k in schema.names if f"do/{k}/image" in suspects]
    columns = max(len(suspects[f"do/{k}/image"]) for k in names)
    caption = (
        "Per intervention the counterfactuals that a critic, which never saw the patient, is surest about: the real "
        "film, the counterfactual, and what each place adds to the verdict. Red: more like a counterfactual than real "
        "films are at that place on average; all maps of a row share a scale. AUC 0.5: nobody can tell."
    )
    side = SUSPECT_SIDE
    sheet = Sheet(len(names), 3 * columns, side, side, 33, results, caption, bar=False)
    for r, k in enumerate(names):
        pair = (_films(suspects[f"do/{k}/{name}"]) for name in ("before", "image"))
        before, image = (_rounded(_resized(films, side), 1.0, 32) for films in pair)
        places = suspects[f"do/{k}/places"].astype(float)
        limit = max(np.percentile(places, 99), 1e-6)
        auc = as_interval(results["do"][k].get("two_sample_auc"))[0]
        first = "real" if np.isnan(auc) else f"do({k}): AUC {auc:.2f}\nreal"
        for i in range(len(image)):
            sheet.panel(r, 3 * i, "real" if i else first, before[i])
            sheet.panel(r, 3 * i + 1, _title(k, suspects[f"do/{k}/attributes"][i], schema, side), image[i])
            where = sheet.panel(r, 3 * i + 2, "where", image[i])
            alpha = 0.6 * _rounded(places[i].clip(0) / limit, 1.0, 8)
            red = {"cmap": ListedColormap([HEAT]), "interpolation": "nearest", "extent": where.get_extent()}
            where.axes.imshow(np.ones_like(places[i]), alpha=alpha, **red)
    return sheet.figure


@styled
def series_figure(records: Arrays, rows: Sequence[int]) -> Figure:
    """A row per image: query, its series with the posteriors reached, and the final explanation minus the query."""
    series, final = records["examples/series"], records["final"]
    queries = records["examples/query"].astype(float)
    columns = series.shape[1] + 2
    caption = "Above each image: posterior asked for → reached; framed: the final explanation."
    sheet = Sheet(len(rows), columns, SERIES_SIDE, SERIES_SIDE, 18, caption=caption)
    differences = {i: series[i, final[i]] - queries[i] for i in rows}
    limit = difference_limit([d / GREY_LEVELS for d in differences.values()]) * GREY_LEVELS
    grey = {"vmin": 0, "vmax": 255}
    for r, i in enumerate(rows):
        sheet.panel(r, 0, f"query {records['source_posterior'][i]:.2f}", queries[i], **grey)
        for s, (target, reached) in enumerate(zip(records["target"][i], records["reached"][i])):
            image = sheet.panel(r, 1 + s, f"{target:.2f} → {reached:.2f}", series[i, s], **grey)
            for spine in image.axes.spines.values():
                spine.set(visible=bool(s == final[i]), color=PALETTE[4], linewidth=1.6)
        look = {"cmap": DIFFERENCE_COLOURS, "vmin": -limit, "vmax": limit}
        maps = sheet.panel(r, columns - 1, "change", differences[i], **look)
    sheet.difference_bar(maps, "change")
    return sheet.figure


def choose_series(records: Arrays, threshold: float, count: int) -> list[int]:
    """At most `count` rows of the example pool: both decisions in turn, and devices in every other one."""
    pool = len(records.get("examples/query", ()))
    packed = records.get("masks/devices/true", records.get("masks/devices/source"))
    device = np.zeros(pool, bool) if packed is None else packed[:pool].any(1)
    positive = records["source_posterior"][:pool] >= threshold
    return _in_turn(
        *(
            _in_turn(*(np.flatnonzero((positive == p) & (device == d)) for d in (True, False)))
            for p in (False, True)
        )
    )[:count]


def _in_turn(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """One of each, then the rest of the longer."""
    both = [int(i) for pair in zip(first, second) for i in pair]
    return both + [int(i) for i in (*first[len(second) :], *second[len(first) :])]


def _films(grey: np.ndarray) -> np.ndarray:
    """8-bit images as `(M, H, W)` on [-1, 1]."""
    return grey.reshape(len(grey), *grey.shape[-2:]) / GREY_LEVELS - 1.0


def _resized(images: np.ndarray, side: int) -> np.ndarray:
    """Images (M, H, W) averaged down to width `side`, aspect kept; narrower ones as they are."""
    height, width = images.shape[1:]
    if width <= side:
        return images
    size = (side, max(1, round(height * side / width)))
    return np.stack(
        [np.asarray(Image.fromarray(i.astype(np.float32)).resize(size, Image.Resampling.BOX)) for i in images]
    )


def _rounded(values: np.ndarray, limit: float, levels: int) -> np.ndarray:
    """Values on [−limit, limit] rounded to `levels` steps about zero, so that files stay small."""
    step = 2 * limit / levels
    return np.clip(np.round(values / step) * step, -limit, limit)


def _title(k: str, raw: np.ndarray, schema, side: int) -> str:
    """`do(k=value)`, in two lines where one would be wider than the panel of `side` pixels."""
    text, most = describe_do({k: schema[k].format(raw[schema.index(k)])}), int(side / 5.6)
    lines = [text] if len(text) <= most else text.replace("=", "=\n", 1).split("\n")
    return "\n".join(line if len(line) <= most else line[: most - 1] + "…" for line in lines)


def _value(attribute, raw: float) -> str:
    value = attribute.format(raw)
    return f"{value:.3g} {attribute.unit}".rstrip() if isinstance(value, float) else str(value)
