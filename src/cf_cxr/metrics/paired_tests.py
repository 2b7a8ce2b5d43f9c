"""Did a measurement change between images and their explanations? Paired tests per decision group (B, 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from .arrays import to_numpy
from .bootstrap import Interval
from .decisions import check_posterior, decision_groups, grouped_means, resampling_weights

ALTERNATIVES = ("two-sided", "greater", "less")
_NAN = float("nan")


@dataclass(frozen=True)
class PairedChange:
    """Change of one measurement from images to their explanations.

    Attributes:
        pairs: images measured both before and after. undefined: images left out, since one of the two is NaN.
        patients: independent units of the tests.
        before, after: means over the pairs.
        change: mean of after - before, with its interval by patient.
        direction: `"rises"`, `"falls"`, `"none"` (mean change exactly 0) or `"undefined"` (no pairs).
        alternative: of both tests: `"greater"` asks whether the measurement rises.
        t_p: p of the paired t-test; NaN with fewer than 2 patients or when all changes are equal.
        wilcoxon_p: p of Wilcoxon's signed-rank test; NaN when nothing changed.
    """

    pairs: int
    undefined: int
    patients: int
    before: float
    after: float
    change: Interval
    direction: str
    alternative: str
    t_p: float
    wilcoxon_p: float


def paired_change(
    before: Any,
    after: Any,
    *,
    alternative: str = "two-sided",
    patients: Sequence | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> PairedChange:
    """Mean change with an interval, paired t-test and Wilcoxon's signed-rank test.

    Both tests take their units to be independent, which images of one patient are not: the changes are averaged per
    patient first. Wilcoxon's test drops patients without change.

    Args:
        before, after: the measurement on images and on their explanations, `(N,)`, same rows; NaN where it is not
            defined (the pair is left out and counted).
        alternative: `"two-sided"`, `"greater"` (after > before) or `"less"`.
        patients: `(N,)` identifiers; None: every image is a patient.
        n_resamples, seed: of the bootstrap by patient.

    Raises:
        ValueError: naming the argument, for other shapes, no rows, infinite values or an unknown alternative.
    """
    before, after = _check_pairs(before, after)
    _check_alternative(alternative)
    weights = resampling_weights(patients, len(before), n_resamples, seed)
    return _change(before, after, np.ones(len(before), bool), alternative, patients, weights)


def change_by_decision(
    before: Any,
    after: Any,
    source_posterior: Any,
    *,
    threshold: float = 0.5,
    rises_with_posterior: bool | None = None,
    patients: Sequence | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, PairedChange]:
    """`paired_change` in each group of factual decision, where explanations move in opposite directions.

    Explanations of images with a negative decision raise the posterior, those of positive ones lower it; B asks that
    the cardiothoracic ratio follow for cardiomegaly, and the costophrenic score go the other way for effusion.

    Args:
        before, after: `(N,)` as in `paired_change`.
        source_posterior: `(N,)` of the images, in [0, 1].
        threshold: decision boundary; a posterior equal to it is positive.
        rises_with_posterior: True tests "greater" in the negative and "less" in the positive group, False the other
            way round, None both sides.
        patients, n_resamples, seed: as in `paired_change`.

    Returns:
        `"negative"` and `"positive"`; an empty group has 0 pairs and NaN everywhere.

    Raises:
        ValueError: naming the argument, as `paired_change`, or for posteriors that are not probabilities.
    """
    before, after = _check_pairs(before, after)
    posterior = check_posterior(source_posterior, "source_posterior", len(before))
    groups = decision_groups(posterior, threshold)
    weights = resampling_weights(patients, len(before), n_resamples, seed)
    alternatives = {"negative": "greater", "positive": "less"}
    if rises_with_posterior is None:
        alternatives = dict.fromkeys(groups, "two-sided")
    elif not rises_with_posterior:
        alternatives = {"negative": "less", "positive": "greater"}
    return {
        name: _change(before, after, rows, alternatives[name], patients, weights)
        for name, rows in groups.items()
    }


def _change(before, after, rows, alternative, patients, weights) -> PairedChange:
    known = rows & ~np.isnan(before) & ~np.isnan(after)
    names = np.arange(len(before)) if patients is None else np.asarray(patients)
    change = grouped_means(after - before, {"": known}, weights)[""]
    pairs = int(known.sum())
    unit = _mean_by_patient((after - before)[known], names[known])
    return PairedChange(
        pairs=pairs,
        undefined=int(rows.sum()) - pairs,
        patients=len(unit),
        before=float(before[known].mean()) if pairs else _NAN,
        after=float(after[known].mean()) if pairs else _NAN,
        change=change,
        direction=_direction(change[0]),
        alternative=alternative,
        t_p=_t_test(unit, alternative),
        wilcoxon_p=_wilcoxon(unit, alternative),
    )


def _mean_by_patient(change: np.ndarray, names: np.ndarray) -> np.ndarray:
    unique, index = np.unique(names, return_inverse=True)
    return np.bincount(index, change, len(unique)) / np.bincount(index, minlength=len(unique))


def _direction(change: float) -> str:
    if np.isnan(change):
        return "undefined"
    return "none" if change == 0 else "rises" if change > 0 else "falls"


def _t_test(change: np.ndarray, alternative: str) -> float:
    if len(change) < 2 or np.ptp(change) <= 1e-12 * np.abs(change).max():
        return _NAN
    return float(stats.ttest_1samp(change, 0.0, alternative=alternative).pvalue)


def _wilcoxon(change: np.ndarray, alternative: str) -> float:
    change = change[change != 0]
    return float(stats.wilcoxon(change, alternative=alternative).pvalue) if len(change) else _NAN


def _check_pairs(before: Any, after: Any) -> tuple[np.ndarray, np.ndarray]:
    before, after = to_numpy(before), to_numpy(after)
    for name, values in (("before", before), ("after", after)):
        if values.ndim != 1 or len(values) == 0:
            raise ValueError(f"{name} must have shape (N,) with at least one image, got {values.shape}.")
        if np.isinf(values).any():
            raise ValueError(f"{name}: row {int(np.isinf(values).argmax())} is infinite.")
    if len(before) != len(after):
        raise ValueError(
            f"before has {len(before)} rows and after {len(after)}; give both for the same images."
        )
    return before, after


def _check_alternative(alternative: str) -> None:
    if alternative not in ALTERNATIVES:
        raise ValueError(f"alternative must be one of {', '.join(ALTERNATIVES)}, got {alternative!r}.")
