"""Effectiveness and fooling: who sees the value that was intervened on? (A = Xia et al., MICCAI 2024)"""

from __future__ import annotations

from typing import Any

from .bootstrap import Interval, interval, score_samples


def effectiveness(
    kind: str,
    prediction: Any,
    value: Any,
    real_prediction: Any,
    real_value: Any,
    weights: Any,
    name: str = "attribute",
) -> dict[str, Interval]:
    """The judge's score of the intervened attribute on counterfactuals, and how far that is from reality.

    effectiveness[k] = metric_k(judge(x*), intervened value of k) under do(k) (A, section 3). Reality is the same
    judge on real images with their own value; counterfactuals that are *easier* to read than real images are
    exaggerated, so the ideal is a distance of 0, not the largest effectiveness.

    Args:
        kind: `"binary"`, `"categorical"` or `"continuous"`.
        prediction: the judge on counterfactuals, `(N,)` or `(N, C)`.
        value: intervened values `(N,)`.
        real_prediction, real_value: the judge on the factual images, and their factual values; same rows.
        weights: `(R, N)` from `patient_weights`.
        name: of the attribute, for messages.

    Returns:
        name to (estimate, low, high): `effectiveness` and `real` in AUC points (0 to 100) or units of the mean
        absolute error; `signed_distance` = effectiveness - real on paired resamples (positive AUC: exaggerated;
        positive error: less readable than real); `distance` = |signed_distance|, whose interval is the range of
        |d| for d in the signed interval, so that it contains 0 whenever the signed one does. NaN where undefined.

    Raises:
        ValueError: naming the attribute, for NaN, lengths that differ, or empty arrays.
    """
    if len(prediction) != len(real_prediction):
        raise ValueError(
            f"{name}: {len(prediction)} counterfactuals cannot be paired with {len(real_prediction)} real images; "
            "give both for the same rows."
        )
    after = score_samples(kind, prediction, value, weights, name)
    before = score_samples(kind, real_prediction, real_value, weights, name)
    signed = interval(after - before)
    return {
        "effectiveness": interval(after),
        "real": interval(before),
        "signed_distance": signed,
        "distance": absolute_interval(signed),
    }


def fooling_gap(
    kind: str, judge_prediction: Any, model_prediction: Any, value: Any, weights: Any, name: str = "attribute"
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


def absolute_interval(signed: Interval) -> Interval:
    """(|estimate|, smallest, largest |d|) for d between the bounds of a signed interval."""
    estimate, low, high = signed
    smallest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return abs(estimate), smallest if low == low else low, max(abs(low), abs(high))
