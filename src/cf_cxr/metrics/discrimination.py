"""How well predictions agree with values of an attribute: AUC in points, or mean absolute error in units."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score


def attribute_score(
    kind: str, prediction: np.ndarray, value: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """Score of one attribute.

    Args:
        kind: `"binary"`, `"categorical"` or `"continuous"`.
        prediction: probability of class 1 `(N,)`, probabilities `(N, C)`, or a mean in units `(N,)`.
        value: raw values `(N,)`: class index, or units.
        weight: non-negative weight per row `(N,)`, e.g. bootstrap multiplicities; rows of weight 0 are left out.

    Returns:
        binary: area under the ROC curve times 100; categorical: its macro average one-vs-rest over the classes;
        continuous: mean absolute error in units. NaN where it is not defined (no rows, or a class without
        positives or without negatives), never a made-up 50.

    Raises:
        ValueError: for NaN among predictions or values, or lengths that differ.
    """
    prediction, value = np.asarray(prediction, float), np.asarray(value, float)
    if len(prediction) != len(value):
        raise ValueError(f"{len(prediction)} predictions for {len(value)} values.")
    if np.isnan(prediction).any() or np.isnan(value).any():
        raise ValueError("Predictions and values must not contain NaN; leave those rows out and say so.")
    weight = np.ones(len(value)) if weight is None else np.asarray(weight, float)
    keep = weight > 0
    prediction, value, weight = prediction[keep], value[keep], weight[keep]
    if len(value) == 0:
        return float("nan")
    if kind == "continuous":
        return float(np.average(np.abs(prediction - value), weights=weight))
    if kind == "binary":
        return _auc(value == 1, prediction, weight)
    return float(np.mean([_auc(value == c, prediction[:, c], weight) for c in range(prediction.shape[1])]))


def _auc(positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float:
    if positive.all() or not positive.any():
        return float("nan")
    return 100.0 * float(roc_auc_score(positive, score, sample_weight=weight))
