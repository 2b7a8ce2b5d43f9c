"""Several explainers of one classifier, judged on the same images by the same instruments: one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...files import write_atomically
from ...model_cards.counterfactual_results import MISSING, show, table
from ...model_cards.explanation_results import MEASURE_NAMES, p_text
from ...training.loop.arguments import _option, parse_arguments
from ...training.loop.run_folder import git_commit
from ..counterfactuals.command import RESULTS_FILE
from ..counterfactuals.comparison import ComparisonError, parse_runs

COMPARISON_FILE, TABLE_FILE, PLOT_FILE = "comparison.json", "comparison.md", "comparison.png"
#: What must agree between runs, in words.
SAME = {
    "classifier": "the explained classifier",
    "segmenter": "the segmenter",
    "judge": "the network whose embedding measures identity",
    "data": "the images",
    "num_bins": "the bins of the posterior",
}


@dataclass
class ExplainerComparisonArguments:
    """Which evaluations are compared."""

    _argument_group_name = "Comparison"

    runs: list[str] = field(
        default_factory=list,
        metadata={
            "help": "NAME=DIR of each explainer, in the order of the table; NAME=DIR,DIR gives a row per folder."
        },
    )
    output_dir: str = _option("outputs/explainer_comparison", "Where comparison.json, .md and .png go.")
    no_plots: bool = _option(False, "Write no picture.")


def read_results(folder: str | Path) -> dict[str, Any]:
    """The results of an evaluation of explanations.

    Raises:
        ComparisonError: there are none, or they are of something else.
    """
    path = Path(folder) / RESULTS_FILE
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ComparisonError(
            f"{folder} holds no finished evaluation ({RESULTS_FILE} is missing); make it with "
            "training/evaluate_explainer.py."
        ) from error
    except (ValueError, OSError) as error:
        raise ComparisonError(f"{path} cannot be read: {error}. Evaluate again with --resume.") from error
    if "exaggeration" not in results:
        raise ComparisonError(f"{path} is no evaluation of explanations (training/evaluate_explainer.py).")
    return results


def compared(results: Mapping[str, Any]) -> dict[str, Any]:
    """What must agree between evaluations that are compared."""
    who = results["identity"]
    return {
        "classifier": who["classifier"]["fingerprint"],
        "segmenter": who["segmenter"]["fingerprint"],
        "judge": who["judge"]["fingerprint"],
        "data": who["data_fingerprint"],
        "num_bins": who["num_bins"],
    }


def check_comparable(runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses runs on other images, of another classifier or with other instruments.

    Without a judge, explainers are embedded by themselves; then no distances are compared, but the rest is.

    Raises:
        ComparisonError: naming the runs and what differs.
    """
    (first, reference), *others = runs.items()
    for name, results in others:
        for key, words in SAME.items():
            if key == "judge" and not (_has_judge(results) or _has_judge(reference)):
                continue
            if compared(results)[key] != compared(reference)[key]:
                raise ComparisonError(
                    f"{name!r} and {first!r} cannot be compared: {words} differ(s). Evaluate both alike."
                )


def _has_judge(results: Mapping[str, Any]) -> bool:
    return results["identity"]["judge"]["path"] is not None


def comparison_table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """One Markdown table, a row per explainer; columns that no explainer has are left out."""
    columns: dict[str, list[str]] = {"method": list(runs)}

    def add(header: str, cell: Any) -> None:
        cells = [cell(results) for results in runs.values()]
        if any(c != MISSING for c in cells):
            columns[header] = cells

    for group in ("negative", "positive"):
        sign = "−" if group == "negative" else "+"
        add(f"slope {sign}", lambda r, g=group: show(r["exaggeration"][g]["slope"], 2))
        add(f"MAE {sign}", lambda r, g=group: show(r["exaggeration"][g]["mae"], 3))
    add("CV", lambda r: show(r["validity"]["all"], 3))
    add("FOP (true devices)", lambda r: _device(r, "true", "preservation"))
    add("overlap", lambda r: _device(r, "true", "overlap"))
    add("FOP (detected)", lambda r: _device(r, "detected", "preservation"))
    add("change in devices /255", lambda r: show(r["foreign_objects"]["change_inside"], 1))
    add("re-identified", lambda r: _identity(r, "appearance_identity", "reidentification", 3))
    if all(_has_judge(results) for results in runs.values()):
        add("by the judge's embedding", lambda r: _identity(r, "patient_identity", "reidentification", 3))
        add("embedding distance", lambda r: _identity(r, "patient_identity", "distance", 4))
        for group, sign in (("negative", "−"), ("positive", "+")):
            add(f"Fréchet {sign}", lambda r, g=group: _frechet(r, g))
    for measure, short in MEASURE_NAMES.items():
        for group, sign in (("negative", "−"), ("positive", "+")):
            add(f"Δ{short} {sign} (p)", lambda r, m=measure, g=group: _change(r, m, g))
    add("change /255", lambda r: show(r["change"]["all"], 1))
    return table(list(columns), list(zip(*columns.values())))


def _device(results: Mapping[str, Any], kind: str, key: str) -> str:
    found = results["foreign_objects"][kind]
    return show(found[key], 3) if found else MISSING


def _identity(results: Mapping[str, Any], kind: str, key: str, digits: int) -> str:
    found = results.get(kind)
    return show(found[key], digits) if found else MISSING


def _frechet(results: Mapping[str, Any], group: str) -> str:
    found = results["frechet"]
    return show(found[group]["distance"], 3) if found else MISSING


def _change(results: Mapping[str, Any], measure: str, group: str) -> str:
    found = results["anatomy"].get(measure)
    if not found or found[group]["change"][0] is None:
        return MISSING
    row = found[group]
    return f"{show(row['change'], 3, True)} ({p_text(row['wilcoxon_p'])})"


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
    ruler = results["foreign_objects"]["ruler"]
    if ruler:
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

    Raises:
        ComparisonError: malformed or missing runs, or runs that cannot be compared.
    """
    (args,) = parse_arguments(
        (ExplainerComparisonArguments,), argv, description="Compare explainers of one classifier."
    )
    runs: dict[str, Any] = {}
    for name, folders in parse_runs(args.runs).items():
        for number, folder in enumerate(folders, start=1):
            runs[name if len(folders) == 1 else f"{name} {number}"] = read_results(folder)
    check_comparable(runs)
    text = comparison_markdown(runs)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema_version": 1, "commit": git_commit(), "methods": runs}
    write_atomically(folder / COMPARISON_FILE, json.dumps(content, indent=1, allow_nan=False).encode())
    write_atomically(folder / TABLE_FILE, text.encode())
    if not args.no_plots:
        from ..plots.explanations import exaggeration_figure
        from ..plots.png import write_png

        write_png(folder / PLOT_FILE, exaggeration_figure(runs))
    print(text)
    return runs


__all__ = ["comparison_markdown", "comparison_table", "main"]
