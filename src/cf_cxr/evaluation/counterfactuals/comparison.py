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

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...attributes import AttributeSchema
from ...metrics.bootstrap import interval
from ...training.loop.arguments import _option, parse_arguments
from ...training.loop.run_folder import git_commit
from .. import comparison
from ..comparison import ComparisonError
from ..reports import get, plain, put
from ..run import SAMPLES_FILE, Samples
from .summary import means_over_interventions
from .tables import comparison_tables

TRUE = "true counterfactuals"
#: What must agree between runs, in words.
SAME = {
    "fingerprints/judge": "the judge",
    "data_fingerprint": "the images, what is known about them, or the interventions",
    "seed": "the seed of interventions and bootstrap",
    "n_resamples": "the number of bootstrap resamples",
    "batch_size": "the size of batches, within which noise is drawn",
    "attributes": "the attributes",
}


@dataclass
class CounterfactualComparisonArguments(comparison.ComparisonArguments):
    """Which evaluations are compared."""

    reference: str = _option("", "Method to which all others are compared in pairs.")
    second_reference: str = _option("", "Another such method.")


class Run(NamedTuple):
    """One evaluation: its folder, its results and its bootstrap samples."""

    folder: Path
    results: dict[str, Any]
    samples: Samples


def read_run(folder: Path) -> Run:
    """Reads an evaluation's folder.

    Raises:
        ComparisonError: it holds no finished evaluation, or one of older code.
    """
    results = comparison.read_results(folder, "training/evaluate_counterfactuals.py", "identity/attributes")
    try:
        with np.load(folder / SAMPLES_FILE, allow_pickle=False) as file:
            return Run(folder, results, {name: file[name] for name in file.files})
    except (ValueError, OSError) as error:
        words = f"{folder / SAMPLES_FILE} cannot be read: {error}. Evaluate again with --resume."
        raise ComparisonError(words) from error


def combine_seeds(samples: Sequence[np.ndarray], seed: int, name: str) -> np.ndarray:
    """Samples `(1 + R,)` of a method from those of its seeds; the formula is at the top of this module.

    Args:
        samples: one array `(1 + R,)` per seed, from the same resamples of patients.
        seed, name: of the bootstrap and the method; they fix the draws of seeds, for all its statistics alike.
    """
    table = np.stack(samples)
    seeds, length = table.shape
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    draws = rng.integers(0, seeds, size=(length - 1, seeds))
    resampled = table[draws, np.arange(1, length)[:, None]].mean(1)
    return np.concatenate([table[:, :1].mean(0), resampled])


def oracle_samples(samples: Samples, schema: AttributeSchema) -> Samples:
    """Samples of a model whose images are the true counterfactuals, from those that every phantom run keeps."""
    names = [k for k in schema.names if f"do/{k}/oracle_effectiveness" in samples]
    out: Samples = {name.replace("oracle_", ""): s for name, s in samples.items() if "oracle_" in name}
    for k in names:
        out[f"do/{k}/signed_distance"] = out[f"do/{k}/effectiveness"] - samples[f"real/{k}"]
        out[f"do/{k}/distance"] = np.abs(out[f"do/{k}/signed_distance"])
        for name in ("signed_distance_to_oracle", "error", "error_inside", "error_outside"):
            if f"do/{k}/{name}" in samples:
                out[f"do/{k}/{name}"] = 0 * samples[f"do/{k}/{name}"]
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
    comparison.check_comparable({str(run.folder): run.results for run in every}, SAME)
    schema = AttributeSchema(every[0].results["identity"]["attributes"])
    per_seed = {name: [run.samples for run in runs] for name, runs in methods.items()}
    if any(name.endswith("/oracle_effectiveness") for name in every[0].samples):
        per_seed[TRUE] = [oracle_samples(every[0].samples, schema)]
    combined: dict[str, Samples] = {}
    for name, (first, *others) in per_seed.items():
        shared = [path for path in first if all(path in other for other in others)]
        combined[name] = {p: combine_seeds([s[p] for s in per_seed[name]], seed, name) for p in shared}

    def entry(name: str, path: str, values: np.ndarray) -> dict[str, Any]:
        estimates = [samples[path][0] for samples in per_seed[name]]
        others = {r: combined[r][path] for r in references if r != name and path in combined[r]}
        found: dict[str, Any] = {"value": interval(values), "range": [min(estimates), max(estimates)]}
        found["minus"] = {r: interval(values - other) for r, other in others.items()}
        if path.startswith("mean_abs_amplification"):
            found["ratio"] = {r: interval(values / np.where(o == 0, np.nan, o)) for r, o in others.items()}
        return plain(found)

    out: dict[str, Any] = {}
    for name, samples in combined.items():
        runs = [str(run.folder) for run in methods.get(name, [])]
        out[name] = {"runs": runs, "seeds": len(runs), "statistics": {}}
        for path, values in samples.items():
            put(out[name]["statistics"], path, entry(name, path, values))
    identity = every[0].results["identity"]
    marked = any(run.results["identity"]["judge_is_training_classifier"] for run in every)
    facts = ("dataset", "split", "images", "patients", *SAME)
    return {
        "schema_version": 2,
        "methods": out,
        "references": list(references),
        "identity": {path.split("/")[-1]: get(identity, path) for path in facts}
        | {"judge_is_training_classifier": marked, "commit": git_commit()},
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Compares from command-line arguments; writes comparison.json, .md and .png, returns the comparison."""
    words = "Compare evaluations of several methods on the same images."
    (args,) = parse_arguments((CounterfactualComparisonArguments,), argv, description=words)
    methods = {name: [read_run(p) for p in paths] for name, paths in comparison.parse_runs(args.runs).items()}
    references = [name for name in (args.reference, args.second_reference) if name]
    first = next(iter(methods.values()))[0].results["identity"]
    found = compare(methods, references, int(first["seed"]))

    def draw(path: Path) -> None:
        from ..plots.comparison import PANELS, comparison_figure
        from ..plots.frame import write_png

        rows = []
        for name, method in found["methods"].items():
            values = {key: get(method["statistics"], f"{panel}/value") for key, panel in PANELS.items()}
            rows.append({"name": name, **values})
        write_png(path, comparison_figure(rows))

    text = comparison_tables(found, AttributeSchema(first["attributes"]))
    comparison.write_comparison(args, found, text, draw)
    return found
