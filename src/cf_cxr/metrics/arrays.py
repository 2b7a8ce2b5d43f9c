"""Checks shared by the metrics: what comes in is an array of the right shape, or a message for people."""

from __future__ import annotations

from typing import Any

import numpy as np

KINDS = ("binary", "categorical", "continuous")


def to_numpy(values: Any, dtype: type | None = np.float64) -> np.ndarray:
    """A numpy array of a list, an array, or a torch tensor on any device and of any floating type."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float().numpy() if values.is_floating_point() else values.numpy()
    return np.asarray(values, dtype)


def check_kind(kind: str, name: str = "attribute") -> None:
    """Raises ValueError unless *kind* is one of `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"{name}: kind must be one of {', '.join(KINDS)}, got {kind!r}.")


def check_prediction(kind: str, prediction: Any, name: str = "attribute") -> np.ndarray:
    """A classifier's prediction as float64: `(N,)`, or `(N, C)` with C > 1 for a categorical attribute.

    Raises:
        ValueError: naming the attribute, for another shape, no rows, NaN or infinity.
    """
    check_kind(kind, name)
    prediction = to_numpy(prediction)
    if kind == "categorical" and (prediction.ndim != 2 or prediction.shape[1] < 2):
        raise ValueError(
            f"{name} is categorical: its prediction must have shape (N, classes), got {prediction.shape}."
        )
    if kind != "categorical" and prediction.ndim != 1:
        raise ValueError(f"{name} is {kind}: its prediction must have shape (N,), got {prediction.shape}.")
    if len(prediction) == 0:
        raise ValueError(f"{name}: there is no prediction (empty array); nothing can be measured.")
    if len(bad := np.argwhere(~np.isfinite(prediction))):
        value = prediction[tuple(bad[0])]
        raise ValueError(
            f"{name}: the prediction of row {bad[0][0]} is {value} ({len(bad)} values are NaN or infinite). "
            "Look for a classifier that diverged or a broken image; rows may be left out if that is reported."
        )
    return prediction


def check_value(kind: str, value: Any, length: int, name: str = "attribute", classes: int = 2) -> np.ndarray:
    """Attribute values as float64 `(length,)`: class indices, or units for a continuous attribute.

    Raises:
        ValueError: naming the attribute and the first wrong value.
    """
    value = to_numpy(value)
    if value.shape != (length,):
        raise ValueError(f"{name}: {length} predictions need values of shape ({length},), got {value.shape}.")
    bad = ~np.isfinite(value)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{name}: the value of row {row} is {value[row]}; keep only rows whose {name} is known."
        )
    if kind != "continuous":
        bad = (value != np.round(value)) | (value < 0) | (value >= classes)
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"{name} has {classes} classes, 0 to {classes - 1}; row {row} has the value {value[row]:g}."
            )
    return value


def check_pair(
    kind: str, prediction: Any, value: Any, name: str = "attribute"
) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and value of the same rows, checked as above."""
    prediction = check_prediction(kind, prediction, name)
    classes = prediction.shape[1] if kind == "categorical" else 2
    return prediction, check_value(kind, value, len(prediction), name, classes)


def check_weights(weights: Any, length: int) -> np.ndarray:
    """Bootstrap weights `(R, length)`, non-negative; R may be 0 (then there is an estimate but no interval).

    Raises:
        ValueError: for another shape, or weights that are negative or not finite.
    """
    weights = np.asarray(weights)
    if weights.ndim != 2 or weights.shape[1] != length:
        raise ValueError(
            f"weights must have shape (resamples, {length}), one column per row of the predictions, got "
            f"{weights.shape}; patient_weights(patients, ...) makes them."
        )
    if weights.size and not (np.isfinite(weights).all() and weights.min() >= 0):
        raise ValueError("weights must be finite and not negative (how often a row is drawn).")
    return weights


def check_features(features: Any, name: str) -> np.ndarray:
    """Feature vectors as float64 `(N, D)`, N of at least 2.

    Raises:
        ValueError: for another shape, fewer than two rows, NaN or infinity.
    """
    features = to_numpy(features)
    if features.ndim != 2:
        raise ValueError(f"{name}: features must have shape (N, D), got {features.shape}.")
    if len(features) < 2 or features.shape[1] == 0:
        raise ValueError(f"{name}: a spread needs at least 2 rows of features, got shape {features.shape}.")
    if not np.isfinite(features).all():
        row = int((~np.isfinite(features)).any(1).argmax())
        raise ValueError(f"{name}: the features of row {row} are NaN or infinite.")
    return features
