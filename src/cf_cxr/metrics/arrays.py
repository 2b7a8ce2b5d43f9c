"""The one check of what metrics are given: an array of the right shape and range, or a message for people."""

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


def check_array(
    values: Any,
    name: str,
    *,
    ndim: tuple[int, ...] = (1,),
    rows: int | None = None,
    low: float = -np.inf,
    high: float = np.inf,
    missing: bool = False,
    hint: str = "",
) -> np.ndarray:
    """Numbers as float64, not empty, finite and within bounds.

    Args:
        values: numpy, torch or lists.
        name: of the argument, for messages.
        ndim: numbers of dimensions that are allowed.
        rows: length, where another argument fixes it.
        low, high: bounds, inclusive.
        missing: whether NaN may stand where a row has no value.
        hint: what to do about a value that is wrong.

    Raises:
        ValueError: naming the argument and the first wrong value.
    """
    try:
        values = to_numpy(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, all rows of one shape: {error}.") from None
    if values.ndim not in ndim:
        shapes = " or ".join(("()", "(N,)", "(N, D)", "(N, D, E)")[n] for n in ndim)
        raise ValueError(f"{name} must have shape {shapes}, got {values.shape}.")
    if rows is not None and len(values) != rows:
        raise ValueError(
            f"{name} has {len(values)} rows, what it is compared with {rows}; give one row for each."
        )
    if values.size == 0:
        raise ValueError(f"{name} is empty, shape {values.shape}; there is nothing to measure.")
    bad = ~(np.isfinite(values) & (values >= low) & (values <= high))
    if missing:
        bad &= ~np.isnan(values)
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        wrong = ["infinite"] if missing else ["NaN", "infinite"]
        wrong += [f"outside [{low:g}, {high:g}]"] if np.isfinite([low, high]).any() else []
        raise ValueError(
            f"{name}: row {place[0]} is {values[place]:g} ({int(bad.sum())} values are {' or '.join(wrong)}). {hint}"
        )
    return values


def check_posterior(
    values: Any, name: str, rows: int | None = None, ndim: tuple[int, ...] = (1,)
) -> np.ndarray:
    """Posteriors as float64 in [0, 1], `(N,)`, or `(N, S)` where *ndim* allows 2; ValueError as `check_array`."""
    hint = "Posteriors are probabilities: apply a sigmoid or softmax to logits first."
    return check_array(values, name, ndim=ndim, rows=rows, low=0, high=1, hint=hint)


def check_kind(kind: str, name: str = "attribute") -> None:
    """Raises ValueError unless *kind* is one of `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"{name}: kind must be one of {', '.join(KINDS)}, got {kind!r}.")


def check_prediction(
    kind: str, prediction: Any, name: str = "attribute", rows: int | None = None
) -> np.ndarray:
    """A classifier's prediction as float64: `(N,)`, or `(N, C)` with C > 1 for a categorical attribute.

    Raises:
        ValueError: naming the attribute, for another shape, no rows, NaN or infinity.
    """
    check_kind(kind, name)
    hint = "Look for a classifier that diverged or a broken image; rows may be left out if that is reported."
    ndim = 2 if kind == "categorical" else 1
    prediction = check_array(prediction, f"{name}: the {kind} prediction", ndim=(ndim,), rows=rows, hint=hint)
    if ndim == 2 and prediction.shape[1] < 2:
        raise ValueError(
            f"{name} is categorical: its prediction must have shape (N, classes), got {prediction.shape}."
        )
    return prediction


def check_value(kind: str, value: Any, rows: int, name: str = "attribute", classes: int = 2) -> np.ndarray:
    """Attribute values as float64 `(rows,)`: class indices, or units for a continuous attribute.

    Raises:
        ValueError: naming the attribute and the first wrong value.
    """
    value = check_array(value, f"{name}: the value", rows=rows, hint=f"Keep only rows whose {name} is known.")
    bad = (value != np.round(value)) | (value < 0) | (value >= classes)
    if kind != "continuous" and bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{name} has {classes} classes, 0 to {classes - 1}; row {row} has the value {value[row]:g}."
        )
    return value


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


def check_features(features: Any, name: str, fewest: int = 1) -> np.ndarray:
    """Feature vectors as float64 `(N, D)`, N of at least *fewest*; ValueError as `check_array`."""
    features = check_array(features, name, ndim=(2,))
    if len(features) < fewest:
        raise ValueError(
            f"{name}: a spread needs at least {fewest} rows of features, got shape {features.shape}."
        )
    return features


def ratio(numerator: Any, denominator: Any) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is not positive."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
