"""Several explainers of one classifier, judged on the same images by the same instruments: one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...model_cards.counterfactual_results import MISSING, show, table
from ...model_cards.explanation_results import MEASURE_NAMES, p_text
from ...training.loop.arguments import parse_arguments
from ...training.loop.run_folder import git_commit
from ..comparison import ComparisonArguments, check_comparable, parse_runs, read_results, write_comparison
from ..reports import get

#: What must agree between runs, in words.
SAME = {
    "classifier/fingerprint": "the explained classifier",
    "segmenter/fingerprint": "the segmenter",
    "data_fingerprint": "the images",
    "num_bins": "the bins of the posterior",
}
JUDGE = {"judge/fingerprint": "the network whose embedding measures identity"}
GROUPS = {"−": "negative", "+": "positive"}
#: Column -> path in the results, digits; those of JUDGED only if all were embedded by a judge.
COLUMNS = {
    **{
        f"{name} {sign}": (f"exaggeration/{group}/{key}", digits)
        for sign, group in GROUPS.items()
        for name, key, digits in (("slope", "slope", 2), ("MAE", "mae", 3))
    },
    "CV": ("validity/all", 3),
    "FOP (true devices)": ("foreign_objects/true/preservation", 3),
    "overlap": ("foreign_objects/true/overlap", 3),
    "FOP (detected)": ("foreign_objects/detected/preservation", 3),
    "change in devices /255": ("foreign_objects/change_inside", 1),
    "re-identified": ("appearance_identity/reidentification", 3),
}
JUDGED = {
    "by the judge's embedding": ("patient_identity/reidentification", 3),
    "embedding distance": ("patient_identity/distance", 4),
    **{f"Fréchet {sign}": (f"frechet/{group}/distance", 3) for sign, group in GROUPS.items()},
}


def comparison_table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """One Markdown table, a row per explainer; columns that no explainer has are left out."""
    judged = JUDGED if all(get(results, "identity/judge/path") for results in runs.values()) else {}
    columns: dict[str, list[str]] = {"method": list(runs)}
    for header, (path, digits) in (COLUMNS | judged).items():
        columns[header] = [show(get(results, path), digits) for results in runs.values()]
    for measure, short in MEASURE_NAMES.items():
        for sign, group in GROUPS.items():
            rows = [get(results, f"anatomy/{measure}/{group}") for results in runs.values()]
            columns[f"Δ{short} {sign} (p)"] = [
                f"{show(row['change'], 3, True)} ({p_text(row['wilcoxon_p'])})"
                if row and row["change"][0] is not None
                else MISSING
                for row in rows
            ]
    columns["change /255"] = [show(get(results, "change/all"), 1) for results in runs.values()]
    columns = {header: cells for header, cells in columns.items() if set(cells) != {MISSING}}
    return table(list(columns), list(zip(*columns.values())))


def comparison_markdown(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The table with what one must know to read it."""
    results = next(iter(runs.values()))
    who = results["identity"]
    text = (
        f"Classifier of {who['classifier']['class_name']!r}; {who['dataset']} {who['split']}, {who['images']} images "
        f"of {who['patients']} patients ({results['images']['negative']} negative, {results['images']['positive']} "
        "positive decisions). − and +: images with a negative and a positive decision. [95 % intervals by patient]; p: "
        "Wilcoxon's signed-rank test, two-sided. Ideal: slope 1, MAE 0, CV 1, FOP 1, re-identified 1, Fréchet 0."
    )
    parts = [text, comparison_table(runs)]
    if ruler := results["foreign_objects"]["ruler"]:
        parts.append(
            "The segmenter finds the true devices in the images themselves with FOP "
            f"{show(ruler['preservation'], 3)} and overlap {show(ruler['overlap'], 3)}: the most to be had."
        )
    if found := results["frechet"]:
        parts.append(
            f"Fréchet distance between real images of both decisions: {show(found['between_decisions'], 3)}."
        )
    warnings = [f"{name}: {warning}" for name, r in runs.items() for warning in r["identity"]["warnings"]]
    return "\n\n".join([*parts, *warnings]) + "\n"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Compares from command-line arguments; writes comparison.json, .md and .png, returns the results by name.

    Without a judge, explainers are embedded by themselves; then no distances are compared, but the rest is.

    Raises:
        ComparisonError: malformed or missing runs, or runs that cannot be compared.
    """
    (args,) = parse_arguments(
        (ComparisonArguments,), argv, description="Compare explainers of one classifier."
    )
    runs: dict[str, Any] = {}
    for name, folders in parse_runs(args.runs).items():
        for number, folder in enumerate(folders, start=1):
            key = name if len(folders) == 1 else f"{name} {number}"
            runs[key] = read_results(folder, "training/evaluate_explainer.py", "exaggeration")
    judged = any(get(results, "identity/judge/path") for results in runs.values())
    check_comparable(runs, SAME | JUDGE if judged else SAME)

    def draw(path: Any) -> None:
        from ..plots.curves import exaggeration_figure
        from ..plots.frame import write_png

        write_png(path, exaggeration_figure(runs))

    content = {"schema_version": 1, "commit": git_commit(), "methods": runs}
    write_comparison(args, content, comparison_markdown(runs), draw)
    return runs
