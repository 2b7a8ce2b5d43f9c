"""The results of one explainer as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .counterfactual_results import MISSING, records_table, show, table

GROUPS = ("negative", "positive")
MEASURE_NAMES = {"cardiothoracic_ratio": "CTR", "costophrenic_score": "SCP"}


def results_markdown(results: Mapping[str, Any]) -> str:
    """All tables of `results.json`, with 95 % intervals by patient."""
    who = results["identity"]
    head = (
        f"Explainer `{who['explainer']['path']}` ({who['explainer']['method']}) of the classifier of "
        f"{who['classifier']['class_name']!r}, {who['dataset']} {who['split']}: {who['images']} images of "
        f"{who['patients']} patients, {results['images']['negative']} negative and {results['images']['positive']} "
        f"positive decisions; [95 % intervals, {who['n_resamples']} resamples of patients]."
    )
    parts = [head, *(f"**{warning}**" for warning in who["warnings"])]
    for title, content in (
        ("Exaggeration (ideal: slope 1, MAE 0) and validity:", _curves(results)),
        ("Foreign objects in the final explanation:", _objects(results["foreign_objects"])),
        ("Anatomy, final explanation against image, by the segmenter:", _anatomy(results["anatomy"])),
        ("Identity and Fréchet distance:", _identity(results)),
        ("The instruments, on the images themselves:", _ruler(results)),
    ):
        if content:
            parts.append(f"{title}\n\n{content}")
    return "\n\n".join(parts) + "\n"


def p_text(value: float | None) -> str:
    """A p-value as a reader wants it."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _curves(results: Mapping[str, Any]) -> str:
    rows = []
    for name, curve in results["exaggeration"].items():
        if curve["images"]:
            more = {key: results[key].get(name) for key in ("validity", "change")}
            rows.append((name, curve | more | {"lowest": curve["means"][0], "highest": curve["means"][-1]}))
    columns = [
        ("images", "images", 0), ("slope", "slope", 2), ("MAE", "mae", 3), ("MAE per image", "image_mae", 3),
        ("lowest bin", "lowest", 2), ("highest bin", "highest", 2), ("CV", "validity", 3),
        ("change /255", "change"),
    ]  # fmt: skip
    return records_table("source group", rows, columns)


def _objects(found: Mapping[str, Any]) -> str:
    names = {
        "detected": "detected in image and in explanation",
        "true": "true in image, detected in explanation",
        "ruler": "true and detected in the image itself (the most to be had)",
    }
    columns = [
        ("images with", "with_object", 0), ("FOP", "preservation", 3), ("overlap", "overlap", 3),
        ("added where none was", "added", 3),
    ]  # fmt: skip
    rows = [(names[key], found[key]) for key in names if found[key]]
    if not (text := records_table("devices", rows, columns)):
        return ""
    return (
        f"{text}\n\nChange of the devices' pixels: {show(found['change_inside'], 1)} /255. A device is kept when "
        f"{found['minimum_overlap']:.0%} of its area is still device; fewer than {found['minimum_area_pixels']} pixels "
        "are no device."
    )


def _anatomy(found: Mapping[str, Any]) -> str:
    rows = []
    for name, groups in found.items():
        for group in GROUPS:
            tests = {key: p_text(groups[group][key]) for key in ("t_p", "wilcoxon_p")}
            rows.append((MEASURE_NAMES[name], groups[group] | tests | {"group": group}))
    columns = [
        ("source group", "group"), ("pairs", "pairs", 0), ("undefined", "undefined", 0), ("image", "before", 3),
        ("explanation", "after", 3), ("change", "change", 4, True), ("direction", "direction"),
        ("p (t)", "t_p"), ("p (Wilcoxon)", "wilcoxon_p"),
    ]  # fmt: skip
    return records_table("measure", rows, columns)


def _identity(results: Mapping[str, Any]) -> str:
    keys = [key for key in ("appearance_identity", "patient_identity") if results.get(key)]
    columns = [
        ("re-identified", "reidentification", 3), ("among", "n_distractors", 0), ("distance", "distance", 4),
        ("to other patients", "reference_distance", 4),
    ]  # fmt: skip
    text = records_table("features", [(results[k]["feature_extractor"], results[k]) for k in keys], columns)
    if not text or not (found := results["frechet"]):
        return text
    distances = {
        f"Fréchet, {group}": f"{show(found[group]['distance'], 3)} ({found[group]['explanations']} explanations)"
        for group in GROUPS
    } | {"Fréchet between real decisions": show(found["between_decisions"], 3)}
    text += f"\n\n{table([*distances], [[*distances.values()]])}"
    return f"{text}\n\nFréchet distances: {found['feature_extractor']}."


def _ruler(results: Mapping[str, Any]) -> str:
    if not (found := results["ruler"]):
        return ""
    words = {"segmenter": "segmenter's masks", "true_masks": "true masks"}
    rows = [
        (f"{short} from {words[who]}", row)
        for name, short in MEASURE_NAMES.items()
        for who, row in found.get(name, {}).items()
    ]
    columns = [
        ("images", "images", 0), ("bias", "bias", 4, True), ("MAE", "mae", 4),
        ("correlation", "correlation", 3),
    ]  # fmt: skip
    dice = "; ".join(f"{label} {show(v, 3)}" for label, v in (found["dice"] or {}).items())
    parts = [f"Dice: {dice}." if dice else "", records_table("against the exact value", rows, columns)]
    return "\n\n".join(part for part in parts if part)
