"""Exaggeration curve: does the classifier answer what the explanation was asked for? (B = Singla et al. 2023)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import check_posterior, ratio
from .bootstrap import Interval, interval, patient_weights
from .decisions import decision_groups


@dataclass(frozen=True)
class ExaggerationCurve:
    """Posterior reached per target bin in one group of source images.

    Attributes:
        images: of the group.
        centres: `(B,)` centres of the target bins.
        counts: `(B,)` explanations per bin.
        means: mean posterior reached per bin, with its interval; NaN in an empty bin.
        slope, intercept: least squares of the bin means on the bin centres, empty bins left out, every other bin
            with the same weight; NaN with fewer than two bins. Ideal 1 and 0.
        mae: mean over the bins that are not empty of |mean reached - centre|; ideal 0. Errors of single images in
            opposite directions cancel within a bin.
        image_mae: mean over images of the mean over their steps of |reached - centre of its target's bin|: nothing
            cancels, hence never below what `mae` would be on bins of equal counts.
        empty_bins: indices of the bins no target of this group falls into.
    """

    images: int
    centres: np.ndarray
    counts: np.ndarray
    means: list[Interval]
    slope: Interval
    intercept: Interval
    mae: Interval
    image_mae: Interval
    empty_bins: list[int]


def exaggeration_curve(
    source_posterior: Any,
    target: Any,
    reached: Any,
    n_bins: int = 10,
    patients: Sequence | None = None,
    *,
    threshold: float = 0.5,
    by_source_bin: bool = False,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, ExaggerationCurve]:
    """Mean posterior reached against the posterior asked for, by group of source images.

    For a source group g and target bin k, m_gk = mean of f(x_target) over the explanations of images in g whose
    target lies in bin k; slope and error compare m_gk with the bin's **centre** (k + 0.5) / n_bins, never its edge.
    An ideal explainer has slope 1 and error 0, one that returns its input slope 0.

    Ask every image for every bin: where images differ in their targets, the composition of the bins differs too, and
    that alone can tilt the curve.

    Args:
        source_posterior: `(N,)` f(x) of the images, in [0, 1].
        target: `(N, S)` posteriors asked for, in [0, 1]; bin min(floor(n_bins t), n_bins - 1).
        reached: `(N, S)` f of the explanations, in [0, 1].
        n_bins: number of equal bins of [0, 1].
        patients: `(N,)` identifiers; None: every image is a patient.
        threshold: decision boundary; a source posterior below it is in the group "negative", else "positive".
        by_source_bin: adds a group per bin of the source posterior, "source 0.0-0.1" and so on.
        n_resamples, seed, confidence: of the percentile intervals by patient. A resample without any explanation in
            a bin uses the other bins.

    Returns:
        group name to curve: "all", "negative", "positive", then the source bins; an empty group has NaN throughout.

    Raises:
        ValueError: naming the argument, for other shapes, no rows, NaN, values outside [0, 1], or n_bins below 2.
    """
    source = check_posterior(source_posterior, "source_posterior")
    target = check_posterior(target, "target", len(source), ndim=(2,))
    reached = check_posterior(reached, "reached", len(source), ndim=(2,))
    if target.shape != reached.shape:
        raise ValueError(f"target has shape {target.shape} and reached {reached.shape}; give one per step.")
    if isinstance(n_bins, bool) or n_bins != int(n_bins) or n_bins < 2:
        raise ValueError(f"n_bins must be a whole number of at least 2, got {n_bins!r}.")
    weights = patient_weights(patients, n_resamples, seed, len(source))
    groups = {"all": np.ones(len(source), bool), **decision_groups(source, threshold)}
    if by_source_bin:
        index = posterior_bin(source, n_bins)
        groups |= {f"source {k / n_bins:g}-{(k + 1) / n_bins:g}": index == k for k in range(n_bins)}
    bins = posterior_bin(target, n_bins)
    weights = np.concatenate([np.ones((1, len(source))), weights])
    return {
        name: _curve(bins[rows], reached[rows], weights[:, rows], n_bins, confidence)
        for name, rows in groups.items()
    }


def posterior_bin(posterior: np.ndarray, n_bins: int = 10) -> np.ndarray:
    """Index min(floor(n_bins p), n_bins - 1) of the bin of every posterior, judged in single precision.

    Hence as `PosteriorBins.index` on float32, and rounding errors of float64 at an edge have no say.
    """
    edges = (np.arange(1, n_bins) / n_bins).astype(np.float32)
    return np.searchsorted(edges, np.asarray(posterior, np.float32), side="right")


def _curve(
    bins: np.ndarray, reached: np.ndarray, weights: np.ndarray, n_bins: int, confidence: float
) -> ExaggerationCurve:
    centres = (np.arange(n_bins) + 0.5) / n_bins
    row = np.repeat(np.arange(len(bins)), bins.shape[1])
    place = row * n_bins + bins.ravel()
    size = (len(bins), n_bins)
    count = np.bincount(place, minlength=len(bins) * n_bins).reshape(size)
    total = np.bincount(place, reached.ravel(), minlength=len(bins) * n_bins).reshape(size)
    means = ratio(weights @ total, weights @ count)  # (1 + R, bins)
    error = np.abs(reached - centres[bins]).mean(1)
    image_mae = ratio(weights @ error, weights.sum(1))
    slope, intercept = _line(centres, means)
    counts = count.sum(0)
    return ExaggerationCurve(
        images=len(bins),
        centres=centres,
        counts=counts,
        means=[interval(samples, confidence) for samples in means.T],
        slope=interval(slope, confidence),
        intercept=interval(intercept, confidence),
        mae=interval(_bin_mean(np.abs(means - centres)), confidence),
        image_mae=interval(image_mae, confidence),
        empty_bins=np.flatnonzero(counts == 0).tolist(),
    )


def _line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of every row of y `(R, B)` on x `(B,)`, NaN left out; NaN with fewer than two points."""
    x = np.where(np.isnan(y), np.nan, x)
    mean_x, mean_y = _bin_mean(x), _bin_mean(y)
    dx, dy = x - mean_x[:, None], y - mean_y[:, None]
    slope = ratio(np.nansum(dx * dy, 1), np.nansum(dx * dx, 1))
    return slope, mean_y - slope * mean_x


def _bin_mean(values: np.ndarray) -> np.ndarray:
    return ratio(np.nansum(values, 1), (~np.isnan(values)).sum(1))
