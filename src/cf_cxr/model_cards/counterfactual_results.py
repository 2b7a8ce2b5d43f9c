"""Tables of measured numbers, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

WARNING = "**The judge is a classifier of this model's training: it grades itself.**"
MISSING = "–"


def show(value: Any, digits: int = 1, signed: bool = False) -> str:
    """A number, or `[estimate, low, high]` as "estimate [low, high]"; what is not defined is a dash."""
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    if value is None:
        return MISSING
    if not isinstance(value, (list, tuple)):
        return form.format(value)
    if value[0] is None:
        return MISSING
    if len(value) < 3 or value[1] is None:
        return form.format(value[0])
    return f"{form.format(value[0])} [{form.format(value[1])}, {form.format(value[2])}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars inside a cell are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def unit_of(attribute) -> str:
    """What an attribute's score is measured in."""
    return "AUC" if attribute.is_discrete else f"MAE, {attribute.unit}".rstrip(", ")


def markdown_table(results: Mapping[str, Any], schema) -> str:
    """The results of an evaluation as Markdown tables, with 95 % intervals.

    Args:
        results: as `training/evaluate_counterfactuals.py` stores them, of schema version 1 or 2.
        schema: the model's attributes.
    """
    itself = results.get("identity", {}).get("judge_is_training_classifier", False)
    parts = [_soundness(results)]
    for title, make in _TABLES.items():
        if content := make(results, schema):
            head = f"{title} {WARNING}" if itself else title
            parts.append(f"{head}\n\n{content}" if head else content)
    return "\n\n".join(parts) + "\n"


def _soundness(results: Mapping[str, Any]) -> str:
    parts = []
    if "nelbo_bits_per_dim" in results:
        parts.append(f"nELBO {show(results['nelbo_bits_per_dim'], 3)} bits/dim")
    parts.append(f"composition {show(results['composition'], 4)}/255")
    if "composition_10" in results:
        parts.append(f"after 10 null interventions {show(results['composition_10'], 4)}/255")
    text = "; ".join(parts) + "."
    if mean := results.get("mean_abs_amplification"):
        text += f"\n\nMean |amplification|: {_by_unit(mean)}."
    if mean := results.get("mean_distance"):
        text += f" Mean distance from reality: {_by_unit(mean)}."
    return text


def _by_unit(values: Mapping[str, Any]) -> str:
    def name(key: str) -> str:
        return "AUC points" if key == "auc_points" else f"(error of {key})"

    return "; ".join(f"{show(v, 2)} {name(key)}" for key, v in values.items())


def _effectiveness(results: Mapping[str, Any], schema) -> str:
    new = all("signed_distance" in row for row in results["do"].values())
    header = ["do", "judge on real", "judge on do"]
    header += ["do − real", "model's classifier − judge"] if new else []
    header += ["on changed only", "model's classifier", "change /255", "reversibility /255", "exposure share"]
    critics = any("two_sample_auc" in row for row in results["do"].values())
    header += ["two-sample AUC"] if critics else []
    rows = []
    for k, row in results["do"].items():
        cells = [f"{k} ({unit_of(schema[k])})", show(results["real"][k]), show(row["effectiveness"])]
        if new:
            cells += [show(row["signed_distance"], 2, True), show(row["fooling_gap"], 2, True)]
        cells += [show(row["effectiveness_changed_only"]), show(row["effectiveness_model_classifier"])]
        cells += [show(row["change"][:1]), show(row["reversibility"][:1])]
        cells += [show(row["exposure_share_median"], 2)]
        rows.append(cells + ([show(row.get("two_sample_auc"), 2)] if critics else []))
    return table(header, rows) + _reasons(results)


def _reasons(results: Mapping[str, Any]) -> str:
    """Why there is no two-sample AUC, where there is none."""
    reasons = {k: row.get("two_sample", {}).get("reason") for k, row in results["do"].items()}
    return "".join(f"\n\nNo two-sample AUC of do({k}): {reason}" for k, reason in reasons.items() if reason)


def _matrix(key: str, digits: int, signed: bool) -> Callable[[Mapping, Any], str]:
    def make(results: Mapping[str, Any], schema) -> str:
        if not any(row.get(key) for row in results["do"].values()):
            return ""
        rows = [
            [k, *(show(row[key].get(j), digits, signed) for j in schema.names)]
            for k, row in results["do"].items()
        ]
        return table(["do", *schema.names], rows)

    return make


def _truth(results: Mapping[str, Any], schema) -> str:
    if not any("error_inside" in row for row in results["do"].values()):
        return ""
    header = [
        "do",
        "error inside",
        "error outside",
        "inside, if nothing were done",
        "judge on the true image",
    ]
    rows = [
        [
            k,
            show(row["error_inside"], 2),
            show(row["error_outside"], 2),
            show(row["identity_inside"], 2),
            show(row["oracle_effectiveness"]),
        ]
        for k, row in results["do"].items()
    ]
    return table(header, rows)


def _classifiers(results: Mapping[str, Any], schema) -> str:
    if "ece_judge" not in results:
        return ""
    header = [
        "attribute",
        "judge on real",
        "model's classifier on real",
        "ECE of judge",
        "ECE of model's classifier",
    ]
    if bayes := results.get("bayes"):
        header.append("ideal observer")
    rows = []
    for a in schema:
        cells = [f"{a.name} ({unit_of(a)})", show(results["real"][a.name])]
        cells += [show(results["real_model_classifier"][a.name])]
        cells += [show(results[key].get(a.name), 3) for key in ("ece_judge", "ece_model")]
        rows.append(cells + ([show(bayes.get(a.name))] if bayes else []))
    return table(header, rows)


def _images(results: Mapping[str, Any], schema) -> str:
    if not results.get("fid"):
        return ""
    header = ["do", "Fréchet distance", "kernel distance ×1000", "minimality", "reversibility, 5 cycles /255"]
    rows = []
    for k in results["fid"]:
        row = results["do"].get(k, {})
        kid = results["kid"][k]
        cells = [k, show(results["fid"][k], 3), show(None if kid is None else 1000 * kid, 3)]
        rows.append([*cells, show(row.get("minimality"), 3), show(row.get("reversibility_5"), 2)])
    return table(header, rows) + f"\n\nFeatures of both distances: {results['feature_extractor']}."


_TABLES = {
    "": _effectiveness,
    "Amplification (judge, after minus before, factual labels):": _matrix("amplification", 1, True),
    "Amplification of the true counterfactuals (what a perfect image mechanism would score):": _matrix(
        "oracle_amplification", 1, True
    ),
    "Drift of the judge's posterior per image (probability or total variation; units):": _matrix(
        "posterior_drift", 3, False
    ),
    "Error to the true counterfactual, grey levels, images whose attributes changed:": _truth,
    "The classifiers on real images:": _classifiers,
    "Distributions of images:": _images,
}
