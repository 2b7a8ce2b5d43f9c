"""Tables of measured numbers, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

WARNING = "**The judge is a classifier of this model's training: it grades itself.**"
MISSING = "–"


def show(value: Any, digits: int = 1, signed: bool = False) -> str:
    """A number, or `[estimate, low, high]` as "estimate [low, high]"; what is not defined is a dash, text is itself."""
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    value = value if isinstance(value, (list, tuple)) else [value]
    if isinstance(value[0], str):
        return value[0]
    if value[0] is None:
        return MISSING
    interval = value[1:] if len(value) > 2 and value[1] is not None else ()
    return form.format(value[0]) + (f" [{', '.join(form.format(v) for v in interval)}]" if interval else "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars inside a cell are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def records_table(first: str, rows: Sequence[tuple[str, Mapping]], columns: Sequence[tuple]) -> str:
    """A Markdown table without the columns that no row has; empty where none is left.

    Args:
        first: header of the names.
        rows: name and values by key.
        columns: header, key in a row, and the further arguments of `show`.
    """
    columns = [c for c in columns if any(c[1] in row for _, row in rows)]
    cells = [[name, *(show(row.get(key), *form) for _, key, *form in columns)] for name, row in rows]
    return table([first, *(header for header, *_ in columns)], cells) if columns else ""


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
    means = ("change", "reversibility")  # without their intervals
    rows = []
    for k, row in results["do"].items():
        more = {"real": results["real"][k]} | {key: row[key][:1] for key in means}
        rows.append((f"{k} ({unit_of(schema[k])})", row | more))
    columns = [
        ("judge on real", "real"), ("judge on do", "effectiveness"), ("do − real", "signed_distance", 2, True),
        ("model's classifier − judge", "fooling_gap", 2, True),
        ("on changed only", "effectiveness_changed_only"),
        ("model's classifier", "effectiveness_model_classifier"), ("change /255", "change"),
        ("reversibility /255", "reversibility"), ("exposure share", "exposure_share_median", 2),
        ("two-sample AUC", "two_sample_auc", 2),
    ]  # fmt: skip
    reasons = {k: row.get("two_sample", {}).get("reason") for k, row in results["do"].items()}
    return records_table("do", rows, columns) + "".join(
        f"\n\nNo two-sample AUC of do({k}): {reason}" for k, reason in reasons.items() if reason
    )


def _matrix(key: str, digits: int, signed: bool) -> Callable[[Mapping, Any], str]:
    def make(results: Mapping[str, Any], schema) -> str:
        rows = [(k, dict.fromkeys(schema.names) | (row.get(key) or {})) for k, row in results["do"].items()]
        if not any(row.get(key) for row in results["do"].values()):
            return ""
        return records_table("do", rows, [(j, j, digits, signed) for j in schema.names])

    return make


def _truth(results: Mapping[str, Any], schema) -> str:
    columns = [
        ("error inside", "error_inside", 2), ("error outside", "error_outside", 2),
        ("inside, if nothing were done", "identity_inside", 2),
        ("judge on the true image", "oracle_effectiveness"),
    ]  # fmt: skip
    return records_table("do", results["do"].items(), columns)


def _classifiers(results: Mapping[str, Any], schema) -> str:
    if "ece_judge" not in results:
        return ""
    columns = [
        ("judge on real", "real"), ("model's classifier on real", "real_model_classifier"),
        ("ECE of judge", "ece_judge", 3), ("ECE of model's classifier", "ece_model", 3),
        ("ideal observer", "bayes"),
    ]  # fmt: skip
    keys = [key for _, key, *_ in columns if results.get(key)]
    rows = [(f"{a.name} ({unit_of(a)})", {key: results[key].get(a.name) for key in keys}) for a in schema]
    return records_table("attribute", rows, columns)


def _images(results: Mapping[str, Any], schema) -> str:
    if not results.get("fid"):
        return ""
    rows = []
    for k, distance in results["fid"].items():
        kid, row = results["kid"][k], {"minimality": None, "reversibility_5": None} | results["do"].get(k, {})
        rows.append((k, row | {"fid": distance, "kid": None if kid is None else 1000 * kid}))
    columns = [
        ("Fréchet distance", "fid", 3), ("kernel distance ×1000", "kid", 3), ("minimality", "minimality", 3),
        ("reversibility, 5 cycles /255", "reversibility_5", 2),
    ]  # fmt: skip
    words = f"Features of both distances: {results['feature_extractor']}."
    return f"{records_table('do', rows, columns)}\n\n{words}"


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
