"""Evaluations side by side: what may be compared, and the files of a comparison."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..training.loop.arguments import _option
from .reports import get
from .run import RESULTS_FILE

COMPARISON_FILE, TABLE_FILE, PLOT_FILE = "comparison.json", "comparison.md", "comparison.png"


@dataclass
class ComparisonArguments:
    """Which evaluations are compared."""

    _argument_group_name = "Comparison"

    runs: list[str] = _option(
        [],
        "NAME=DIR or NAME=DIR,DIR,...: a method and the evaluation folders of its seeds, in the order of the table. "
        "(Explainers have a row per folder.)",
    )
    output_dir: str = _option("outputs/comparison", "Where comparison.json, .md and .png go.")
    no_plots: bool = _option(False, "Write no picture.")


class ComparisonError(ValueError):
    """Runs that cannot be compared."""


def parse_runs(words: Sequence[str]) -> dict[str, list[Path]]:
    """`NAME=DIR,DIR` words to folders by method.

    Raises:
        ComparisonError: a malformed word, a name given twice, or no runs.
    """
    methods: dict[str, list[Path]] = {}
    for word in words:
        name, equals, folders = word.partition("=")
        paths = [Path(folder) for folder in folders.split(",") if folder]
        if not (equals and name and paths):
            raise ComparisonError(f"--runs {word!r} must be NAME=DIR or NAME=DIR,DIR,...")
        if name in methods:
            raise ComparisonError(f"--runs names {name!r} twice; put its seeds together: {name}=DIR,DIR.")
        methods[name] = paths
    if not methods:
        raise ComparisonError("--runs is empty: give NAME=DIR of at least one evaluation.")
    return methods


def read_results(folder: Path, script: str, key: str) -> dict[str, Any]:
    """The results of an evaluation.

    Args:
        script: that makes them. key: path of an entry that they have.

    Raises:
        ComparisonError: there are none, or they are of something else or of older code.
    """
    try:
        results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ComparisonError(
            f"{folder} holds no finished evaluation ({RESULTS_FILE} is missing); make it with {script}."
        ) from error
    except (ValueError, OSError) as error:
        raise ComparisonError(f"{folder} cannot be read: {error}. Evaluate again with --resume.") from error
    if get(results, key) is None:
        raise ComparisonError(f"{folder} holds no results of {script}, or of older code; evaluate again.")
    return results


def check_comparable(runs: Mapping[str, Mapping[str, Any]], same: Mapping[str, str]) -> None:
    """Refuses runs that were not judged on the same images by the same instruments.

    Args:
        runs: results by name. same: path of what must agree, in their identity -> what it is, in words.

    Raises:
        ComparisonError: naming the runs and what differs.
    """
    (first, reference), *others = ((name, results["identity"]) for name, results in runs.items())
    for name, identity in others:
        for path, words in same.items():
            if get(identity, path) != get(reference, path):
                raise ComparisonError(
                    f"{name} and {first} cannot be compared: {words} differ(s). Evaluate both on the same images, with "
                    "the same instruments, seed and settings."
                )


def write_comparison(
    args: ComparisonArguments, content: Mapping[str, Any], text: str, draw: Callable[[Path], Any]
) -> None:
    """Writes comparison.json, .md and, by `draw`, .png; prints the text."""
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / COMPARISON_FILE, json.dumps(content, indent=1, allow_nan=False).encode())
    write_atomically(folder / TABLE_FILE, text.encode())
    if not args.no_plots:
        draw(folder / PLOT_FILE)
    print(text)
