"""Markdown tables of a comparison of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...model_cards.counterfactual_results import MISSING, WARNING, show, table, unit_of

#: Scalars of a method: path of the statistic -> heading, digits, factor.
SCALARS = {
    "mean_distance/auc_points": ("distance from reality, AUC points", 2, 1),
    "mean_abs_amplification/auc_points": ("mean |amplification|, AUC points", 2, 1),
    "mean_posterior_drift/probability": ("mean posterior drift, %", 2, 100),
    "mean_two_sample_auc": ("two-sample AUC", 3, 1),
    "mean_error": ("error to the true counterfactual, /255", 2, 1),
    "mean_error_inside": ("inside, /255", 2, 1),
    "mean_error_outside": ("outside, /255", 2, 1),
    "mean_distance_to_oracle/auc_points": ("distance from the true images' score, AUC points", 2, 1),
    "mean_abs_amplification_to_oracle/auc_points": ("mean |amplification − true images'|, AUC points", 2, 1),
    "mean_fooling_gap/auc_points": ("mean |classifier − judge|, AUC points", 2, 1),
}


def comparison_tables(comparison: Mapping[str, Any], schema) -> str:
    """The comparison as Markdown: scalars, differences to the references, and every attribute."""
    names, references = list(comparison["methods"]), comparison["references"]
    who = comparison["identity"]
    marked = f" {WARNING}" if who["judge_is_training_classifier"] else ""
    parts = [
        f"{who['images']} images of {who['patients']} patients, {who['dataset']} {who['split']}; 95 % intervals from "
        f"{who['n_resamples']} resamples of patients and seeds; in parentheses the smallest and largest seed."
    ]
    parts.append(_titled("Methods:" + marked, _scalars(comparison, schema)))
    for reference in references:
        title = f"Difference to {reference}, paired:"
        parts.append(_titled(title + marked, _differences(comparison, schema, reference)))
    for title, key, digits, signed in (
        ("Effectiveness (judge on images under do):", "effectiveness", 1, False),
        ("Signed distance from reality (judge on do − judge on real):", "signed_distance", 2, True),
        ("Distance from reality (mean over seeds of its absolute value):", "distance", 2, False),
        ("Fooling gap (model's classifier − judge):", "fooling_gap", 2, True),
        ("Two-sample AUC (critic on do against real; 0.5: nobody can tell):", "two_sample_auc", 2, False),
        ("Error to the true counterfactual inside the touched region, /255:", "error_inside", 2, False),
        ("Error to the true counterfactual outside the touched region, /255:", "error_outside", 2, False),
    ):
        rows = [
            [n, *(_cell(comparison, n, f"do/{k}/{key}", digits, signed=signed) for k in schema.names)]
            for n in names
        ]
        if _any(rows):
            unitless = key.startswith(("error", "two_sample"))
            units = [a.name if unitless else f"{a.name} ({unit_of(a)})" for a in schema]
            parts.append(_titled(title + marked, table(["method", *units], rows)))
    for title, key, digits, signed in (
        (
            "Amplification (do → attribute; AUC points, or units of the mean absolute error):",
            "amplification",
            2,
            True,
        ),
        ("Posterior drift per image (do → attribute; probability, or units):", "posterior_drift", 3, False),
    ):
        rows = [
            [f"{k} → {j}", *(_cell(comparison, n, f"do/{k}/{key}/{j}", digits, signed=signed) for n in names)]
            for k in schema.names
            for j in schema.names
        ]
        rows = [row for row in rows if _any([row])]
        if rows:
            parts.append(_titled(title + marked, table(["do → attribute", *names], rows)))
    return "\n\n".join(parts) + "\n"


def _titled(title: str, content: str) -> str:
    return f"{title}\n\n{content}"


def _scalar_paths(comparison: Mapping[str, Any], schema) -> dict[str, tuple[str, int, float]]:
    """`SCALARS` and the continuous attributes' own, as far as some method has them."""
    paths = dict(SCALARS)
    for a in schema:
        if not a.is_discrete:
            paths[f"mean_distance/{a.name}"] = (f"distance of the error of {a.name}, {a.unit}", 2, 1)
            paths[f"mean_abs_amplification/{a.name}"] = (f"mean |amplification| of {a.name}, {a.unit}", 2, 1)
    return {p: v for p, v in paths.items() if any(_entry(comparison, n, p) for n in comparison["methods"])}


def _scalars(comparison: Mapping[str, Any], schema) -> str:
    paths, references = _scalar_paths(comparison, schema), comparison["references"]
    ratios = [f"|amplification| / {reference}" for reference in references]
    header = ["method", "seeds", *(heading for heading, _, _ in paths.values()), *ratios]
    rows = []
    for name, method in comparison["methods"].items():
        cells = [name, str(method["seeds"] or MISSING)]
        for path, (_, digits, factor) in paths.items():
            cells.append(_cell(comparison, name, path, digits, factor, spread=method["seeds"] > 1))
        entry = _entry(comparison, name, "mean_abs_amplification/auc_points") or {}
        cells += [show(entry.get("ratio", {}).get(reference), 2) for reference in references]
        rows.append(cells)
    return table(header, rows)


def _differences(comparison: Mapping[str, Any], schema, reference: str) -> str:
    paths = _scalar_paths(comparison, schema)
    header = ["method", *(heading for heading, _, _ in paths.values())]
    rows = []
    for name in comparison["methods"]:
        if name == reference:
            continue
        cells = [name]
        for path, (_, digits, factor) in paths.items():
            entry = _entry(comparison, name, path) or {}
            cells.append(show(_times(entry.get("minus", {}).get(reference), factor), digits, True))
        rows.append(cells)
    return table(header, rows)


def _entry(comparison: Mapping[str, Any], name: str, path: str) -> dict[str, Any] | None:
    """The entry of a statistic, None if the method has none."""
    where: Any = comparison["methods"][name]["statistics"]
    for key in path.split("/"):
        where = where.get(key)
        if where is None:
            return None
    return where


def _cell(
    comparison: Mapping[str, Any],
    name: str,
    path: str,
    digits: int,
    factor: float = 1,
    signed: bool = False,
    spread: bool = False,
) -> str:
    entry = _entry(comparison, name, path)
    if entry is None:
        return MISSING
    text = show(_times(entry["value"], factor), digits, signed)
    if spread and None not in entry["range"]:
        low, high = (show(v * factor, digits, signed) for v in entry["range"])
        text += f" ({low}..{high})"
    return text


def _times(values: Sequence[float | None] | None, factor: float) -> list[float | None] | None:
    return None if values is None else [None if v is None else v * factor for v in values]


def _any(rows: Sequence[Sequence[str]]) -> bool:
    return any(cell != MISSING for row in rows for cell in row[1:])
