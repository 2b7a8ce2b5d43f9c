"""Pictures of counterfactuals: the factual image, its counterfactuals, and what changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image
from ..images.grey_levels import GREY_LEVELS

DIFFERENCE_COLOURS = "RdBu_r"
_DPI = 100


def printable(text: Any) -> str:
    """A text that can be printed, drawn and encoded: bytes of a file name that are no UTF-8 become `\\xff`."""
    return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def already_so(result: Mapping[str, Any]) -> list[str]:
    """The variables whose factual value is the one that the intervention sets."""
    factual = result["factual_attributes"]
    return [
        name
        for name, value in result["do"].items()
        if value == factual[name]
        or (isinstance(value, float) and math.isclose(value, factual[name], rel_tol=1e-6))
    ]


def describe_do(do: Mapping[str, Any]) -> str:
    """`do(sex=Female, age=80)`; `do()` is the null intervention."""
    return f"do({', '.join(f'{name}={_short(value)}' for name, value in do.items())})"


def describe_changes(result: Mapping[str, Any]) -> list[str]:
    """What the classifier makes of an intervention, one line per variable that it changes, before and after.

    For instance `P(Effusion) 0.08 → 0.91`, or `age 61 → 78 years`.
    """
    lines = []
    before, after = result["predictions"]["before"], result["predictions"]["after"]
    for name, value in result["attributes"].items():
        if value == result["factual_attributes"][name] and name not in result["do"]:
            continue
        if "mean" in after[name]:
            unit = result["units"].get(name, "")
            lines.append(f"{name} {before[name]['mean']:.0f} → {after[name]['mean']:.0f} {unit}".rstrip())
        else:
            lines.append(f"P({value}) {before[name][value]:.2f} → {after[name][value]:.2f}")
    return lines


def difference_limit(differences: Sequence[np.ndarray], percentile: float = 99.8) -> float:
    """The common end of a symmetric colour scale, on the scale of the differences.

    The percentile of |difference| over all maps, so that a single pixel does not wash out the rest; at least four
    grey levels, so that rounding noise does not look like a change.
    """
    values = np.abs(np.concatenate([np.ravel(d) for d in differences])) if differences else np.zeros(1)
    return float(max(np.percentile(values, percentile), 4 / GREY_LEVELS))


def counterfactual_grid(
    results: Mapping[str, Any] | Sequence,
    *,
    names: Sequence[str] | None = None,
    limit: float | None = None,
    panel_inches: float = 2.6,
) -> Image.Image:
    """One picture of what `pipeline("chest-xray-counterfactual")` returned.

    Per input image two rows: the factual image and its counterfactuals, each under its intervention; below, the
    factual attributes and the signed difference maps, red where the counterfactual is brighter, blue where it is
    darker. All maps share one scale, which is symmetric about zero and labelled in grey levels of 255.

    Args:
        results: for one image, the pipeline's dictionary or list of dictionaries; or a list of such lists, one per
            image. Failed inputs (`{"error": ...}`) are left out.
        names: a title per image.
        limit: end of the colour scale, on the scale of `difference` ([-2, 2]); default: `difference_limit`.
        panel_inches: width of a panel, at 100 pixels per inch; images are enlarged to it.

    Returns:
        An RGB PIL image.

    Raises:
        ValueError: there is nothing to show, or `names` does not fit.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    blocks, names = _blocks(results, names)
    if limit is None:
        limit = difference_limit([r["difference"] for block in blocks for r in block])
    columns = 1 + max(len(block) for block in blocks)
    header = 0.12 + 0.15 * _title_lines(blocks)  # inches above every panel
    height = len(blocks) * (2 * panel_inches + 2 * header) + 0.2
    figure = Figure(figsize=(columns * panel_inches + 0.95, height), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    right = 1 - 0.95 / figure.get_figwidth()
    grid = figure.add_gridspec(
        2 * len(blocks),
        columns,
        left=0.01,
        right=right,
        top=1 - header / height,
        bottom=0.08 / height,
        wspace=0.03,
        hspace=header / panel_inches,
    )
    maps = None
    for index, block in enumerate(blocks):
        maps = _draw_block(figure, grid, 2 * index, block, names[index], limit)
    bar = figure.add_axes((right + 0.012, 0.1, 0.2 / figure.get_figwidth(), 0.8))
    colour_bar = figure.colorbar(maps, cax=bar)
    colour_bar.set_label("counterfactual − factual (grey levels of 255)", fontsize=9)
    colour_bar.ax.tick_params(labelsize=8)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _draw_block(figure, grid, row: int, block: Sequence[Mapping], name: str, limit: float):
    """Draws one image's two rows; returns the last difference map, for the colour bar."""
    first = block[0]
    _panel(figure, grid[row, 0], first["factual_image"], name)
    text = figure.add_subplot(grid[row + 1, 0])
    text.axis("off")
    text.text(
        0.04, 0.96, "\n".join(_factual_lines(first)), va="top", fontsize=9, linespacing=1.5, parse_math=False
    )
    maps = None
    for column, result in enumerate(block, start=1):
        _panel(figure, grid[row, column], result["image"], describe_do(result["do"]))
        axes = figure.add_subplot(grid[row + 1, column])
        axes.axis("off")
        axes.set_title("\n".join(describe_changes(result)), fontsize=8, pad=3, parse_math=False)
        maps = axes.imshow(
            result["difference"] * GREY_LEVELS,
            cmap=DIFFERENCE_COLOURS,
            vmin=-limit * GREY_LEVELS,
            vmax=limit * GREY_LEVELS,
            interpolation="nearest",
        )
    return maps


def _title_lines(blocks: Sequence[Sequence[Mapping]]) -> int:
    """Lines of the longest title."""
    results = [result for block in blocks for result in block]
    titles = [_wrapped(describe_do(result["do"])).split("\n") for result in results]
    return max(1, *map(len, titles), *(len(describe_changes(result)) for result in results))


def _panel(figure, cell, image, title: str) -> None:
    axes = figure.add_subplot(cell)
    axes.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
    axes.set_title(_wrapped(printable(title)), fontsize=9, pad=3, parse_math=False)
    axes.axis("off")


def _factual_lines(result: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in result["factual_attributes"].items():
        unit = result["units"].get(name, "")
        lines.append(f"{name}: {_short(value)} {unit}".rstrip() + origin_note(result, name))
    return lines


def origin_note(result: Mapping[str, Any], name: str) -> str:
    """Where a factual value comes from, if it was not given: `" (file)"` or `" (inferred)"`."""
    origin = result["given_by"][name]
    return "" if origin == "argument" else f" ({origin})"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, (int, float)) else str(value)


def _wrapped(text: str, width: int = 34) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width)[:2])


def _blocks(results: Any, names: Sequence[str] | None) -> tuple[list[list[Mapping]], list[str]]:
    """Results of any nesting as one list per image, without the failed ones, and a title for each."""
    if isinstance(results, Mapping):
        results = [results]
    if (
        results
        and isinstance(results[0], Mapping)
        and len({id(r.get("factual_image")) for r in results}) == 1
    ):
        results = [results]  # several interventions on one image
    rows = [[one] if isinstance(one, Mapping) else list(one) for one in results]
    if names is None:
        names = ["factual"] * len(rows)
    if len(names) != len(rows):
        raise ValueError(f"{len(names)} names for {len(rows)} images.")
    kept = [(row, name) for row, name in zip(rows, names) if row and "error" not in row[0]]
    if not kept:
        raise ValueError("There are no counterfactuals to show: the results are empty or all failed.")
    return [row for row, _ in kept], [name for _, name in kept]
