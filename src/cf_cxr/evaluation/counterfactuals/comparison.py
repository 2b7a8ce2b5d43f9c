"""Several methods, each with one or more seeds, judged on the same images: one table with paired differences.

Every run brings its bootstrap samples (`samples.npz`), made from the same resamples of patients. A method with S
seeds is summarised, for a statistic T and resample r = 1..R, by

    estimate  = 1/S sum_s T_s(all images)
    sample_r  = 1/S sum_i T_{s_i}(resample r of patients),   s_1..s_S drawn with replacement from the S seeds

whose 2.5 % and 97.5 % percentiles are the interval: it holds the draw of patients and the spread between seeds. (With
few seeds the second part is too small by (S - 1) / S, as every bootstrap of S values is; `range` gives the smallest
and the largest seed.) A difference to a reference is sample_r(method) - sample_r(reference): the same patients, seeds
drawn independently. A ratio likewise.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...attributes import AttributeSchema
from ...files import write_atomically
from ...metrics.bootstrap import interval
from ...training.loop.arguments import _option, parse_arguments
from ...training.loop.run_folder import git_commit
from .command import RESULTS_FILE, SAMPLES_FILE
from .summary import Samples, means_over_interventions, numbers, put
from .tables import comparison_tables

COMPARISON_FILE, TABLE_FILE, PLOT_FILE = "comparison.json", "comparison.md", "comparison.png"
TRUE = "true counterfactuals"
#: What must agree between runs, in words.
SAME = {
    "judge": "the judge",
    "data": "the images, what is known about them, or the interventions",
    "seed": "the seed of interventions and bootstrap",
    "n_resamples": "the number of bootstrap resamples",
    "batch_size": "the size of batches, within which noise is drawn",
    "attributes": "the attributes",
}


@dataclass
class ComparisonArguments:
    """Which evaluations are compared."""

    _argument_group_name = "Comparison"

    runs: list[str] = field(
        default_factory=list,
        metadata={
            "help": "NAME=DIR or NAME=DIR,DIR,...: a method and the evaluation folders of its seeds; in the order of "
            "the table."
        },
    )
    reference: str = _option("", "Method to which all others are compared in pairs.")
    second_reference: str = _option("", "Another such method.")
    output_dir: str = _option("outputs/comparison", "Where comparison.json, .md and .png go.")
    no_plots: bool = _option(False, "Write no picture.")


class ComparisonError(ValueError):
    """Runs that cannot be compared."""


@dataclass
class Run:
    """One evaluation: its folder, its results and its bootstrap samples."""

    folder: Path
    results: dict[str, Any]
    samples: Samples

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree between runs that are compared."""
        who = self.results["identity"]
        return {
            "judge": who["fingerprints"]["judge"],
            "data": who["data_fingerprint"],
            "seed": who["seed"],
            "n_resamples": who["n_resamples"],
            "batch_size": who["batch_size"],
            "attributes": who["attributes"],
        }


def read_run(folder: str | Path) -> Run:
    """Reads an evaluation's folder.

    Raises:
        ComparisonError: it holds no finished evaluation, or one of older code.
    """
    folder = Path(folder)
    try:
        results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        with np.load(folder / SAMPLES_FILE, allow_pickle=False) as file:
            samples = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise ComparisonError(
            f"{folder} holds no finished evaluation ({Path(error.filename).name} is missing); make it with "
            "training/evaluate_counterfactuals.py."
        ) from error
    except (ValueError, OSError) as error:
        raise ComparisonError(f"{folder} cannot be read: {error}. Evaluate again with --resume.") from error
    if results.get("schema_version", 1) < 2 or "attributes" not in results.get("identity", {}):
        raise ComparisonError(f"{folder} was made by older code; evaluate again.")
    return Run(folder, results, samples)


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


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuses runs that were not judged on the same images by the same judge with the same resamples.

    Raises:
        ComparisonError: naming the run and what differs.
    """
    first = runs[0]
    for run in runs[1:]:
        for key, words in SAME.items():
            if run.identity[key] != first.identity[key]:
                raise ComparisonError(
                    f"{run.folder} and {first.folder} cannot be compared: {words} differ. "
                    "Evaluate both with the same judge, images, seed and settings."
                )


def combine_seeds(samples: Sequence[np.ndarray], seed: int, name: str) -> np.ndarray:
    """Samples `(1 + R,)` of a method from those of its seeds; the formula is at the top of this module.

    Args:
        samples: one array `(1 + R,)` per seed, from the same resamples of patients.
        seed, name: of the bootstrap and the method; they fix the draws of seeds, for all its statistics alike.
    """
    table = np.stack(samples)
    draws = seed_draws(len(table), table.shape[1] - 1, seed, name)
    resampled = table[draws, np.arange(1, table.shape[1])[:, None]].mean(1)
    return np.concatenate([table[:, :1].mean(0), resampled])


def seed_draws(seeds: int, resamples: int, seed: int, name: str) -> np.ndarray:
    """Which seeds stand for a method in each resample, `(resamples, seeds)`."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return rng.integers(0, seeds, size=(resamples, seeds))


def oracle_samples(samples: Samples, schema: AttributeSchema) -> Samples:
    """Samples of a model whose images are the true counterfactuals, from those that every phantom run keeps."""
    names = [k for k in schema.names if f"do/{k}/oracle_effectiveness" in samples]
    out: Samples = {}
    for k in names:
        effect = samples[f"do/{k}/oracle_effectiveness"]
        out[f"do/{k}/effectiveness"] = effect
        out[f"do/{k}/signed_distance"] = effect - samples[f"real/{k}"]
        out[f"do/{k}/distance"] = np.abs(effect - samples[f"real/{k}"])
        out[f"do/{k}/signed_distance_to_oracle"] = np.zeros_like(effect)
        for error in ("error", "error_inside", "error_outside"):
            if f"do/{k}/{error}" in samples:
                out[f"do/{k}/{error}"] = 0 * samples[f"do/{k}/{error}"]
        for j in schema.names:
            for name in ("amplification", "posterior_drift"):
                if f"do/{k}/oracle_{name}/{j}" in samples:
                    out[f"do/{k}/{name}/{j}"] = samples[f"do/{k}/oracle_{name}/{j}"]
    prefix = "oracle_mean_abs_amplification/"
    out |= {name.removeprefix("oracle_"): s for name, s in samples.items() if name.startswith(prefix)}
    return out | means_over_interventions(out, schema, names)


def compare(methods: Mapping[str, Sequence[Run]], references: Sequence[str], seed: int) -> dict[str, Any]:
    """The comparison as nested dictionaries.

    `methods[name]["statistics"]` nests, by the path of a statistic (as in results.json), `value` [estimate, low,
    high], `range` [min, max] over seeds, `minus` {reference: interval} and, of mean |amplification|, `ratio`
    {reference: interval}. With a phantom, a row of the true counterfactuals is added.

    Raises:
        ComparisonError: a reference that is no method, or runs that cannot be compared.
    """
    for reference in references:
        if reference not in methods:
            raise ComparisonError(f"The reference {reference!r} is none of the methods {', '.join(methods)}.")
    every = [run for runs in methods.values() for run in runs]
    check_comparable(every)
    schema = AttributeSchema(every[0].results["identity"]["attributes"])
    per_seed = {name: [run.samples for run in runs] for name, runs in methods.items()}
    if any(name.endswith("/oracle_effectiveness") for name in every[0].samples):
        per_seed[TRUE] = [oracle_samples(every[0].samples, schema)]
    combined = {name: _combine(seeds, seed, name) for name, seeds in per_seed.items()}
    out: dict[str, Any] = {}
    for name, samples in combined.items():
        statistics: dict[str, Any] = {}
        for path, values in samples.items():
            estimates = [seeds[path][0] for seeds in per_seed[name]]
            entry: dict[str, Any] = {"value": numbers(interval(values))}
            entry["range"] = numbers([min(estimates), max(estimates)])
            others = {r: combined[r][path] for r in references if r != name and path in combined[r]}
            entry["minus"] = {r: numbers(interval(values - other)) for r, other in others.items()}
            if path.startswith("mean_abs_amplification"):
                entry["ratio"] = {r: numbers(interval(_ratio(values, other))) for r, other in others.items()}
            put(statistics, path, entry)
        out[name] = {
            "runs": [str(run.folder) for run in methods.get(name, [])],
            "seeds": len(per_seed[name]) if name in methods else 0,
            "statistics": statistics,
        }
    identity = every[0].results["identity"]
    return {
        "schema_version": 2,
        "methods": out,
        "references": list(references),
        "identity": {key: identity[key] for key in ("judge", "dataset", "split", "images", "patients")}
        | every[0].identity
        | {
            "judge_is_training_classifier": any(
                run.results["identity"]["judge_is_training_classifier"] for run in every
            ),
            "commit": git_commit(),
        },
    }


def _combine(seeds: Sequence[Samples], seed: int, name: str) -> Samples:
    shared = [path for path in seeds[0] if all(path in other for other in seeds)]
    return {path: combine_seeds([s[path] for s in seeds], seed, name) for path in shared}


def _ratio(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.divide(values, other, out=np.full_like(values, np.nan), where=other != 0)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Compares from command-line arguments; writes comparison.json, .md and .png, returns the comparison."""
    (args,) = parse_arguments(
        (ComparisonArguments,), argv, description="Compare evaluations of several methods on the same images."
    )
    methods = {name: [read_run(path) for path in paths] for name, paths in parse_runs(args.runs).items()}
    references = [name for name in (args.reference, args.second_reference) if name]
    first = next(iter(methods.values()))[0]
    comparison = compare(methods, references, int(first.results["identity"]["seed"]))
    schema = AttributeSchema(comparison["identity"]["attributes"])
    text = comparison_tables(comparison, schema)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / COMPARISON_FILE, json.dumps(comparison, indent=1, allow_nan=False).encode())
    write_atomically(folder / TABLE_FILE, text.encode())
    if not args.no_plots:
        from ..plots import comparison_plot

        comparison_plot(folder / PLOT_FILE, plot_rows(comparison))
    print(text)
    return comparison


def plot_rows(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of `evaluation_plots.comparison_plot`."""
    rows = []
    for name, method in comparison["methods"].items():
        statistics = method["statistics"]

        def value(*path: str, where=statistics) -> list[float | None] | None:
            for key in path:
                where = where.get(key, {})
            return where.get("value")

        row = {"name": name, "distance": value("mean_distance", "auc_points")}
        row["amplification"] = value("mean_abs_amplification", "auc_points")
        row["error"] = value("mean_error")
        rows.append(row)
    return rows
