"""Markdown tables of a comparison of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...model_cards.counterfactual_results import MISSING, WARNING, show, table, unit_of
from ..reports import get

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
#: Of every intervention: key -> title, digits, signed, whether in the attribute's unit.
VECTORS = {
    "effectiveness": ("Effectiveness (judge on images under do):", 1, False, True),
    "signed_distance": ("Signed distance from reality (judge on do − judge on real):", 2, True, True),
    "distance": ("Distance from reality (mean over seeds of its absolute value):", 2, False, True),
    "fooling_gap": ("Fooling gap (model's classifier − judge):", 2, True, True),
    "two_sample_auc": ("Two-sample AUC (critic on do against real; 0.5: nobody can tell):", 2, False, False),
    "error_inside": ("Error to the true counterfactual inside the touched region, /255:", 2, False, False),
    "error_outside": ("Error to the true counterfactual outside the touched region, /255:", 2, False, False),
}
#: Of every intervention and attribute: key -> title, digits, signed.
MATRICES = {
    "amplification": (
        "Amplification (do → attribute; AUC points, or units of the mean absolute error):", 2, True,
    ),
    "posterior_drift": ("Posterior drift per image (do → attribute; probability, or units):", 3, False),
}  # fmt: skip


def comparison_tables(comparison: Mapping[str, Any], schema) -> str:
    """The comparison as Markdown: scalars, differences to the references, and every attribute."""
    methods, references, who = (comparison[key] for key in ("methods", "references", "identity"))
    statistics = {name: method["statistics"] for name, method in methods.items()}
    parts = [
        f"{who['images']} images of {who['patients']} patients, {who['dataset']} {who['split']}; 95 % intervals from "
        f"{who['n_resamples']} resamples of patients and seeds; in parentheses the smallest and largest seed."
    ]

    def add(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table, unless it is empty."""
        if any(cell != MISSING for row in rows for cell in row[1:]):
            title += f" {WARNING}" if who["judge_is_training_classifier"] else ""
            parts.append(f"{title}\n\n{table(header, rows)}")

    scalars = dict(SCALARS)
    for a in (a for a in schema if not a.is_discrete):
        scalars[f"mean_distance/{a.name}"] = (f"distance of the error of {a.name}, {a.unit}", 2, 1)
        scalars[f"mean_abs_amplification/{a.name}"] = (f"mean |amplification| of {a.name}, {a.unit}", 2, 1)
    scalars = {path: form for path, form in scalars.items() if any(get(s, path) for s in statistics.values())}
    headings = [heading for heading, _, _ in scalars.values()]
    rows = []
    for name, method in methods.items():
        row = [name, str(method["seeds"] or MISSING)]
        for path, (_, digits, factor) in scalars.items():
            row.append(_cell(method["statistics"], path, digits, factor, spread=method["seeds"] > 1))
        ratios = get(method, "statistics/mean_abs_amplification/auc_points/ratio") or {}
        rows.append(row + [show(ratios.get(reference), 2) for reference in references])
    add("Methods:", ["method", "seeds", *headings, *(f"|amplification| / {r}" for r in references)], rows)
    for reference in references:
        rows = [
            [name, *(_cell(s, path, d, f, True, reference) for path, (_, d, f) in scalars.items())]
            for name, s in statistics.items()
            if name != reference
        ]
        add(f"Difference to {reference}, paired:", ["method", *headings], rows)
    for key, (title, digits, signed, own_unit) in VECTORS.items():
        rows = [
            [name, *(_cell(s, f"do/{k}/{key}", digits, signed=signed) for k in schema.names)]
            for name, s in statistics.items()
        ]
        add(title, ["method", *(f"{a.name} ({unit_of(a)})" if own_unit else a.name for a in schema)], rows)
    for key, (title, digits, signed) in MATRICES.items():
        rows = [
            [
                f"{k} → {j}",
                *(_cell(s, f"do/{k}/{key}/{j}", digits, signed=signed) for s in statistics.values()),
            ]
            for k in schema.names
            for j in schema.names
        ]
        rows = [row for row in rows if set(row[1:]) != {MISSING}]
        add(title, ["do → attribute", *statistics], rows)
    return "\n\n".join(parts) + "\n"


def _cell(
    statistics: Mapping[str, Any], path: str, digits: int, factor: float = 1, signed: bool = False,
    minus: str = "", spread: bool = False,
) -> str:  # fmt: skip
    """A statistic in words, times a factor, or its difference to the method `minus`; with the seeds' `spread`."""
    entry = get(statistics, path) or {"value": [None], "minus": {}}

    def times(values: Sequence[float | None]) -> list[float | None]:
        return [None if v is None else v * factor for v in values]

    text = show(times(entry["minus"].get(minus, [None]) if minus else entry["value"]), digits, signed)
    if spread and None not in (ends := times(entry.get("range", [None]))):
        text += f" ({'..'.join(show(v, digits, signed) for v in ends)})"
    return text
