"""Confidence intervals that respect that images of one patient are not independent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .arrays import check_prediction, check_value, check_weights, ratio

Interval = tuple[float, float, float]

# Elements of one block of resamples: bounds the memory (a few blocks of float64 at a time).
_BLOCK = 2_000_000


def patient_weights(
    patients: Sequence | None, n_resamples: int, seed: int, rows: int | None = None
) -> np.ndarray:
    """How often each row appears in each bootstrap resample of *patients*.

    Args:
        patients: an identifier per row; None takes each of the *rows* for a patient of its own.
        n_resamples, seed: of the bootstrap.
        rows: number of rows, where another argument fixes it.

    Returns:
        integers `(n_resamples, N)`; all rows of a patient share their weight, and reusing the array for two
        statistics pairs them.

    Raises:
        ValueError: for no patients, or a number of them other than *rows*.
    """
    patients = np.arange(rows or 0) if patients is None else np.asarray(patients)
    if rows is not None and len(patients) != rows:
        raise ValueError(f"patients has {len(patients)} entries for {rows} images; give one per image.")
    if len(patients) == 0:
        raise ValueError("There are no patients to resample (empty array).")
    unique, index = np.unique(patients, return_inverse=True)
    shares = np.full(len(unique), 1 / len(unique))
    return np.random.default_rng(seed).multinomial(len(unique), shares, size=n_resamples)[:, index]


def interval(samples: Any, confidence: float = 0.95) -> Interval:
    """Estimate and percentile interval of a statistic and its bootstrap samples.

    Args:
        samples: `(1 + R,)`: the estimate, then its value on every resample, NaN where it was not defined.
        confidence: coverage, between 0 and 1.

    Returns:
        (estimate, low, high). Resamples with NaN are left out; NaN bounds if none is left or R is 0.

    Raises:
        ValueError: for another shape or a confidence outside (0, 1).
    """
    samples = np.asarray(samples, float)
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(f"samples must have shape (1 + resamples,), got {samples.shape}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    resampled = samples[1:][~np.isnan(samples[1:])]
    if len(resampled) == 0:
        return float(samples[0]), float("nan"), float("nan")
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(samples[0]), float(low), float(high)


def paired_difference(samples_a: Any, samples_b: Any, confidence: float = 0.95) -> Interval:
    """Difference a - b of one statistic of two models, judged on the **same** resamples (same weights).

    What both models share, such as the draw of patients, cancels; the interval is the one to compare models with.
    A difference of two mean absolute values is also less biased than either (see `amplification`).

    Args:
        samples_a, samples_b: `(1 + R,)` each, from the same weights.

    Returns:
        (estimate, low, high) of a - b.

    Raises:
        ValueError: for different lengths.
    """
    a, b = np.asarray(samples_a, float), np.asarray(samples_b, float)
    if a.shape != b.shape:
        raise ValueError(
            f"Samples of two models can only be paired on the same resamples; got {a.shape} and {b.shape}."
        )
    return interval(a - b, confidence)


def mean_samples(values: Any, weights: Any) -> np.ndarray:
    """Mean of a number per image, on all rows and on every resample.

    Args:
        values: `(N,)`; NaN rows (not defined for that image) have no say.
        weights: `(R, N)`.

    Returns:
        `(1 + R,)`, NaN where no row is left.
    """
    values = np.asarray(values, float)
    keep = ~np.isnan(values)
    blocks = (w[:, keep] for w in _blocks(check_weights(weights, len(values))))
    return np.concatenate([ratio(w @ values[keep], w.sum(1)) for w in blocks])


def score_samples(
    kind: str, prediction: Any, value: Any, weights: Any, name: str = "attribute"
) -> np.ndarray:
    """Score of one attribute on all rows and on every bootstrap resample, without a loop over resamples.

    The rows are sorted once; the weighted AUC is P(score of a positive > of a negative) + half of P(equal), exact
    with ties, hence equal to scikit-learn's `roc_auc_score(sample_weight=)`.

    Args:
        kind: `"binary"`, `"categorical"` or `"continuous"`.
        prediction: probability of class 1 `(N,)`, probabilities `(N, C)`, or a mean in units `(N,)`.
        value: `(N,)` class index, or units.
        weights: `(R, N)` from `patient_weights`; multiply by a mask `(N,)` to keep some rows only (then the first
            sample is still the estimate on **all** rows; select the rows beforehand instead).
        name: of the attribute, for messages.

    Returns:
        `(1 + R,)`: AUC times 100 (macro one-vs-rest for categorical) or mean absolute error in units; NaN where it
        is not defined (a class without positives or without negatives), never a made-up 50.

    Raises:
        ValueError: naming the attribute, for NaN, lengths that differ, empty arrays, or impossible classes.
    """
    prediction = check_prediction(kind, prediction, name)
    classes = prediction.shape[1] if kind == "categorical" else 2
    value = check_value(kind, value, len(prediction), name, classes)
    weights = check_weights(weights, len(value))
    if kind == "continuous":
        return mean_samples(np.abs(prediction - value), weights)
    if kind == "binary":
        return _auc_samples(value == 1, prediction, weights)
    return np.mean([_auc_samples(value == c, prediction[:, c], weights) for c in range(classes)], axis=0)


def _auc_samples(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(score, kind="stable")
    positive, score = positive[order], score[order]
    starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])  # of the groups of equal scores
    out = []
    for w in _blocks(weights):
        w = w[:, order]
        up, down = np.where(positive, w, 0.0), np.where(positive, 0.0, w)
        if len(starts) < len(score):
            up, down = np.add.reduceat(up, starts, axis=1), np.add.reduceat(down, starts, axis=1)
        below = np.cumsum(down, axis=1) - down / 2
        wins = np.einsum("rg,rg->r", up, below)
        out.append(ratio(100.0 * wins, up.sum(1) * down.sum(1)))
    return np.concatenate(out)


def _blocks(weights: np.ndarray) -> Iterator[np.ndarray]:
    """The ones of the estimate, then the resamples in blocks of bounded size, as float64."""
    length = weights.shape[1]
    step = max(1, _BLOCK // max(length, 1))
    yield np.ones((1, length))
    for start in range(0, len(weights), step):
        yield weights[start : start + step].astype(np.float64, copy=False)
