"""The results of one explainer as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .counterfactual_results import MISSING, show, table

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
        if not curve["images"]:
            continue
        rows.append(
            [
                name,
                str(curve["images"]),
                show(curve["slope"], 2),
                show(curve["mae"], 3),
                show(curve["image_mae"], 3),
                show(curve["means"][0], 2),
                show(curve["means"][-1], 2),
                show(results["validity"].get(name), 3),
                show(results["change"].get(name), 1),
            ]
        )
    header = [
        "source group", "images", "slope", "MAE", "MAE per image", "lowest bin", "highest bin", "CV", "change /255",
    ]  # fmt: skip
    return table(header, rows)


def _objects(found: Mapping[str, Any]) -> str:
    names = {
        "detected": "detected in image and in explanation",
        "true": "true in image, detected in explanation",
        "ruler": "true and detected in the image itself (the most to be had)",
    }
    rows = []
    for key, name in names.items():
        if row := found[key]:
            cells = [show(row[k], 3) for k in ("preservation", "overlap", "added")]
            rows.append([name, str(row["with_object"]), *cells])
    if not rows:
        return ""
    text = table(["devices", "images with", "FOP", "overlap", "added where none was"], rows)
    return (
        f"{text}\n\nChange of the devices' pixels: {show(found['change_inside'], 1)} /255. A device is kept when "
        f"{found['minimum_overlap']:.0%} of its area is still device; fewer than {found['minimum_area_pixels']} pixels "
        "are no device."
    )


def _anatomy(found: Mapping[str, Any]) -> str:
    rows = []
    for name, groups in found.items():
        for group in GROUPS:
            row = groups[group]
            values = [show(row["before"], 3), show(row["after"], 3), show(row["change"], 4, True)]
            tests = [p_text(row["t_p"]), p_text(row["wilcoxon_p"])]
            counts = [str(row["pairs"]), str(row["undefined"])]
            rows.append([MEASURE_NAMES[name], group, *counts, *values, row["direction"], *tests])
    if not rows:
        return ""
    header = [
        "measure", "source group", "pairs", "undefined", "image", "explanation", "change", "direction", "p (t)",
        "p (Wilcoxon)",
    ]  # fmt: skip
    return table(header, rows)


def _identity(results: Mapping[str, Any]) -> str:
    rows = [
        [
            found["feature_extractor"],
            show(found["reidentification"], 3),
            str(found["n_distractors"]),
            show(found["distance"], 4),
            show(found["reference_distance"], 4),
        ]
        for key in ("appearance_identity", "patient_identity")
        if (found := results.get(key))
    ]
    if not rows:
        return ""
    parts = [table(["features", "re-identified", "among", "distance", "to other patients"], rows)]
    if distance := results["frechet"]:
        header, row = [], []
        for group in GROUPS:
            header.append(f"Fréchet, {group}")
            row.append(
                f"{show(distance[group]['distance'], 3)} ({distance[group]['explanations']} explanations)"
            )
        header.append("Fréchet between real decisions")
        row.append(show(distance["between_decisions"], 3))
        parts.append(table(header, [row]) + f"\n\nFréchet distances: {distance['feature_extractor']}.")
    return "\n\n".join(parts)


def _ruler(results: Mapping[str, Any]) -> str:
    found = results["ruler"]
    if not found:
        return ""
    parts = []
    if found["dice"]:
        parts.append(
            "Dice: " + "; ".join(f"{label} {show(v, 3)}" for label, v in found["dice"].items()) + "."
        )
    rows = []
    words = {"segmenter": "segmenter's masks", "true_masks": "true masks"}
    for name, short in MEASURE_NAMES.items():
        for who, row in found.get(name, {}).items():
            cells = [show(row["bias"], 4, True), show(row["mae"], 4), show(row["correlation"], 3)]
            rows.append([f"{short} from {words[who]}", str(row["images"]), *cells])
    parts.append(table(["against the exact value", "images", "bias", "MAE", "correlation"], rows))
    return "\n\n".join(parts)


__all__ = ["GROUPS", "MEASURE_NAMES", "p_text", "results_markdown"]
