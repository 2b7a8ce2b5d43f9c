"""Does an intervention amplify an untouched attribute one way and weaken it on the way back?

    python tests/benchmarks/amplification_by_direction.py "hard=outputs/phantom_64/evaluation_hard_1" soft=... --judge judge

Reads the records of evaluations. For every discrete do-variable k and untouched discrete attribute j it prints the mean
shift, in log odds of the factual value of j, per direction of the change of k, and the sum of there and back. A
counterfactual x + m(z, k') - m(z, k) whose decoder m does not know which value was factual has sum 0: what it adds on
the way there it takes on the way back. Only the sum is amplification in the sense of the paper.
Intervals: 95 %, 1000 bootstrap resamples of films (for the phantom, which has one per patient), seed 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from cf_cxr.attributes import AttributeSchema
from cf_cxr.metrics.bootstrap import interval, mean_samples, patient_weights

FLOOR = 1e-4  # probabilities nearer to 0 or 1 count as this


def read_records(folder: Path) -> dict[str, np.ndarray]:
    """Columns that all batches of an evaluation have, row by row."""
    batches = [load_file(path) for path in sorted((folder / "records").glob("batch-*.safetensors"))]
    if not batches:
        raise SystemExit(f"{folder} holds no records of an evaluation.")
    common = set.intersection(*(set(batch) for batch in batches))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in common}


def log_odds_of_label(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """`(N,)` log odds of each row's label; probability `(N,)` of class 1 or `(N, C)`."""
    if probability.ndim == 1:
        probability = np.stack([1 - probability, probability], 1)
    p = probability[np.arange(len(label)), label].clip(FLOOR, 1 - FLOOR)
    return np.log(p / (1 - p))


def directions(records: dict, schema: AttributeSchema, do: str, attribute: str, judge: str) -> list[tuple]:
    """(pair, there, back, sum) of every pair of values of `do`; each an (estimate, low, high)."""
    k, j = schema.index(do), schema.index(attribute)
    factual, changed = records["factual"], records[f"do/{do}/attributes"]
    label = factual[:, j].astype(int)
    shift = log_odds_of_label(records[f"do/{do}/{judge}/{attribute}"], label) - log_odds_of_label(
        records[f"real/{judge}/{attribute}"], label
    )
    weights = patient_weights(np.arange(len(label)), 1000, 0)  # one film per patient on the phantom
    rows = []
    for a, b in itertools.combinations(range(schema[do].n_classes), 2):
        samples = []
        for before, after in ((a, b), (b, a)):
            rows_here = (factual[:, k] == before) & (changed[:, k] == after)
            samples.append(mean_samples(shift[rows_here], weights[:, rows_here]))
        there, back = samples
        names = schema[do].categories
        rows.append(
            (f"{names[a]} → {names[b]}", interval(there), interval(back), interval((there + back) / 2))
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", help="name=folder of an evaluation")
    parser.add_argument("--judge", default="judge", choices=["judge", "model"], help="whose readings")
    options = parser.parse_args()
    print(f"| run | do → attribute | direction | there | back | (there + back) / 2 |\n{'| --- ' * 6}|")
    for run in options.runs:
        name, _, folder = run.rpartition("=")
        results = json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))
        schema = AttributeSchema(results["identity"]["attributes"])
        records = read_records(Path(folder))
        discrete = [a.name for a in schema if a.is_discrete]
        for do, attribute in itertools.permutations(discrete, 2):
            if attribute not in results["do"][do]["amplification"]:  # a descendant
                continue
            for pair, *values in directions(records, schema, do, attribute, options.judge):
                cells = " | ".join(f"{e:+.2f} [{low:+.2f}, {high:+.2f}]" for e, low, high in values)
                print(f"| {name or folder} | {do} → {attribute} | {pair} | {cells} |")


if __name__ == "__main__":
    main()
