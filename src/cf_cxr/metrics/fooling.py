"""Fooling: what the classifier used in training sees in a counterfactual and nobody else does."""

from __future__ import annotations

from typing import Any

from .bootstrap import Interval, interval, score_samples


def fooling_gap(
    kind: str,
    judge_prediction: Any,
    model_prediction: Any,
    value: Any,
    weights: Any,
    name: str = "attribute",
) -> dict[str, Interval]:
    """Training classifier against independent judge, on the same counterfactuals.

    A generator can satisfy the classifier that trains it by patterns that convince only that classifier. The gap
    between the two is the part of the effectiveness that is not real; ideal 0.

    Args:
        kind: `"binary"`, `"categorical"` or `"continuous"`.
        judge_prediction, model_prediction: of the same counterfactuals, `(N,)` or `(N, C)`.
        value: intervened values `(N,)`.
        weights: `(R, N)` from `patient_weights`.
        name: of the attribute, for messages.

    Returns:
        `judge`, `model` and `gap` = model - judge, each (estimate, low, high), paired, in AUC points or units of
        the mean absolute error. Fooling is a positive gap in AUC, a **negative** one in error.

    Raises:
        ValueError: naming the attribute, for NaN, lengths that differ, or empty arrays.
    """
    judge = score_samples(kind, judge_prediction, value, weights, f"{name} (judge)")
    model = score_samples(kind, model_prediction, value, weights, f"{name} (training classifier)")
    return {"judge": interval(judge), "model": interval(model), "gap": interval(model - judge)}
