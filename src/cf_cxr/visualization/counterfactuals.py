"""Pictures of counterfactuals: the factual image, its counterfactuals, and what changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from .drawing import (
    check_names,
    difference_limit,
    finish,
    new_figure,
    show_difference,
    show_grey,
    wrapped,
)


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
    blocks, names = _blocks(results, names)
    if limit is None:
        limit = difference_limit([r["difference"] for block in blocks for r in block])
    columns = 1 + max(len(block) for block in blocks)
    header = 0.12 + 0.15 * _title_lines(blocks)  # inches above every panel
    height = len(blocks) * (2 * panel_inches + 2 * header) + 0.2
    figure = new_figure(columns * panel_inches + 0.95, height)
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
    for row, (block, name) in enumerate(zip(blocks, names)):
        first = block[0]
        _panel(figure, grid[2 * row, 0], first["factual_image"], name)
        text = figure.add_subplot(grid[2 * row + 1, 0])
        text.axis("off")
        facts = "\n".join(_factual_lines(first))
        text.text(0.04, 0.96, facts, va="top", fontsize=9, linespacing=1.5, parse_math=False)
        for column, result in enumerate(block, start=1):
            _panel(figure, grid[2 * row, column], result["image"], describe_do(result["do"]))
            axes = figure.add_subplot(grid[2 * row + 1, column])
            axes.axis("off")
            axes.set_title("\n".join(describe_changes(result)), fontsize=8, pad=3, parse_math=False)
            maps = show_difference(axes, result["difference"], limit)
    bar = figure.add_axes((right + 0.012, 0.1, 0.2 / figure.get_figwidth(), 0.8))
    return finish(figure, maps, bar, "counterfactual − factual", 9)


def _title_lines(blocks: Sequence[Sequence[Mapping]]) -> int:
    """Lines of the longest title."""
    results = [result for block in blocks for result in block]
    return max(
        1,
        *(len(_title(describe_do(result["do"]))) for result in results),
        *(len(describe_changes(result)) for result in results),
    )


def _panel(figure, cell, image, title: str) -> None:
    axes = figure.add_subplot(cell)
    show_grey(axes, image)
    axes.set_title("\n".join(_title(title)), fontsize=9, pad=3, parse_math=False)
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


def _title(text: str) -> list[str]:
    return wrapped(text, 34)[:2]


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
    names = check_names(["factual"] * len(rows) if names is None else names, len(rows), "images")
    kept = [(row, name) for row, name in zip(rows, names) if row and "error" not in row[0]]
    if not kept:
        raise ValueError("There are no counterfactuals to show: the results are empty or all failed.")
    return [row for row, _ in kept], [name for _, name in kept]
