"""Attribute amplification: what do(k) does to attributes it should leave alone (A = Xia et al., MICCAI 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..attributes import AttributeSchema
from ..causal_graph import CausalGraph
from .arrays import check_prediction, to_numpy
from .bootstrap import Interval, interval, score_samples

AUC_POINTS = "auc_points"


@dataclass(frozen=True)
class AmplificationResult:
    """The do x attribute matrix and its summaries. An interval is (estimate, low, high).

    Attributes:
        matrix: k -> j -> interval, for every j != k that is not a descendant of k; AUC points for discrete j
            (positive: amplified, negative: attenuated), change of the mean absolute error in units for continuous
            j (**negative**: easier to read, amplified; positive: attenuated). NaN where not defined.
        samples: the same as `(1 + R,)` arrays, to be paired with another model's (`paired_difference`).
        mean_abs_auc: mean of |matrix| over the defined cells with discrete j, AUC points.
        mean_abs_units: continuous j -> mean of |matrix[.][j]| over interventions, in units.
        mean_abs_samples: `"auc_points"` and continuous names -> `(1 + R,)` samples of those means.
        undefined: cells (k, j) without a value (one class only); they are not part of the means.
    """

    matrix: dict[str, dict[str, Interval]]
    samples: dict[str, dict[str, np.ndarray]]
    mean_abs_auc: Interval
    mean_abs_units: dict[str, Interval]
    mean_abs_samples: dict[str, np.ndarray]
    undefined: tuple[tuple[str, str], ...]


def untouched(graph: CausalGraph, names: tuple[str, ...], k: str) -> tuple[str, ...]:
    """The attributes that do(k) must not change: all but k and its descendants."""
    affected = graph.descendants(k) | {k}
    return tuple(j for j in names if j not in affected)


def amplification_samples(
    kind: str, prediction: Any, real_prediction: Any, value: Any, weights: Any, name: str = "attribute"
) -> np.ndarray:
    """One cell of the matrix on all rows and on every resample.

    Args:
        kind: of attribute j.
        prediction, real_prediction: the judge's prediction of j on the images under do(k), and on the factual images.
        value: factual values of j, `(N,)`.
        weights: `(R, N)`.
        name: of the attribute, for messages.

    Returns:
        `(1 + R,)`; see `amplification`.
    """
    after = score_samples(kind, prediction, value, weights, f"{name} (counterfactual)")
    return after - score_samples(kind, real_prediction, value, weights, f"{name} (real)")


def amplification(
    schema: AttributeSchema,
    graph: CausalGraph,
    real: Mapping[str, Any],
    counterfactual: Mapping[str, Mapping[str, Any]],
    factual: Any,
    weights: Any,
) -> AmplificationResult:
    """amplification[k, j] = metric_j(x* under do(k), factual j) - metric_j(x, factual j)  (A, section 3).

    Ideal 0 in every cell: do(k) leaves attribute j as readable as it was. Positive AUC points: j has become more
    stereotypical (amplified); negative: j has been wiped out (attenuated), as unfaithful as the other.

    The scalar is the mean of |cell|. **It is biased upwards:** sampling noise has no sign after |.|, so that even
    a perfect model scores about 0.8 standard errors per cell and the percentile interval of the scalar can
    exclude 0. Judge a single cell by its signed interval, and two models by the paired difference of their
    `mean_abs_samples` (same weights), where most of the bias cancels. The AUC hides drift that is equal on both
    sides.

    Args:
        schema, graph: of the attributes.
        real: j -> the judge on the factual images, `(N,)` or `(N, C)`.
        counterfactual: k -> j -> the judge on the images under do(k), same rows.
        factual: raw attributes `(N, n)` in schema order.
        weights: `(R, N)` from `patient_weights`.

    Returns:
        AmplificationResult.

    Raises:
        ValueError: naming the attribute, for NaN, a missing prediction, lengths that differ, or empty arrays.
    """
    factual = to_numpy(factual)
    if factual.ndim != 2 or factual.shape[1] != schema.n:
        raise ValueError(
            f"factual must have shape (N, {schema.n}) with columns {', '.join(schema.names)}, got {factual.shape}."
        )
    if set(graph.names) != set(schema.names):
        raise ValueError(
            f"The graph is about {', '.join(graph.names)}, the schema about {', '.join(schema.names)}."
        )
    if unknown := [k for k in counterfactual if k not in schema]:
        raise ValueError(f"do({unknown[0]}): {unknown[0]!r} is not one of {', '.join(schema.names)}.")
    before: dict[str, np.ndarray] = {}
    samples: dict[str, dict[str, np.ndarray]] = {}
    for k in counterfactual:
        samples[k] = {}
        for j in untouched(graph, schema.names, k):
            kind, value = schema[j].scored_as, factual[:, schema.index(j)]
            if j not in before:
                prediction = _get(schema, real, j, len(factual), "real images")
                before[j] = score_samples(kind, prediction, value, weights, j)
            prediction = _get(schema, counterfactual[k], j, len(factual), f"images under do({k})")
            samples[k][j] = score_samples(kind, prediction, value, weights, j) - before[j]
    undefined = tuple((k, j) for k, row in samples.items() for j, s in row.items() if np.isnan(s[0]))
    means = _mean_abs(schema, samples)
    return AmplificationResult(
        matrix={k: {j: interval(s) for j, s in row.items()} for k, row in samples.items()},
        samples=samples,
        mean_abs_auc=interval(means[AUC_POINTS]),
        mean_abs_units={j: interval(s) for j, s in means.items() if j != AUC_POINTS},
        mean_abs_samples=means,
        undefined=undefined,
    )


def _mean_abs(
    schema: AttributeSchema, samples: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    groups: dict[str, list[np.ndarray]] = {AUC_POINTS: []}
    size = 1
    for row in samples.values():
        for j, s in row.items():
            size = len(s)
            group = groups.setdefault(AUC_POINTS if schema[j].is_discrete else j, [])
            if not np.isnan(s[0]):
                group.append(np.abs(s))
    return {name: np.mean(g, axis=0) if g else np.full(size, np.nan) for name, g in groups.items()}


def _get(schema: AttributeSchema, predictions: Mapping[str, Any], j: str, length: int, of: str) -> np.ndarray:
    if j not in predictions:
        raise ValueError(
            f"{j}: there is no prediction on {of}; the judge gave {', '.join(predictions) or 'none'}."
        )
    prediction = check_prediction(schema[j].scored_as, predictions[j], f"{j} on {of}", length)
    if schema[j].scored_as == "categorical" and prediction.shape[1] != schema[j].n_classes:
        raise ValueError(
            f"{j} on {of}: {prediction.shape[1]} columns, but {j} has the classes {', '.join(schema[j].categories)}."
        )
    return prediction
