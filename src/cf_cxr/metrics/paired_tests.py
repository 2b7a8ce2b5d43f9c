"""Did a measurement change between images and their explanations? Paired tests per decision group (B, 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from .arrays import check_array, check_posterior
from .bootstrap import Interval, patient_weights
from .decisions import decision_groups, grouped_means

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
    """Mean change, paired t-test and Wilcoxon's signed-rank test in each group of factual decision.

    Explanations of images with a negative decision raise the posterior, those of positive ones lower it; B asks that
    the cardiothoracic ratio follow for cardiomegaly, and the costophrenic score go the other way for effusion. Both tests
    take their units to be independent, which images of one patient are not: the changes are averaged per patient first.
    Wilcoxon's test drops patients without change.

    Args:
        before, after: the measurement on images and on their explanations, `(N,)`, same rows; NaN where it is not
            defined (the pair is left out and counted).
        source_posterior: `(N,)` of the images, in [0, 1].
        threshold: decision boundary; a posterior equal to it is positive.
        rises_with_posterior: True tests "greater" in the negative and "less" in the positive group, False the other
            way round, None both sides.
        patients: `(N,)` identifiers; None: every image is a patient.
        n_resamples, seed: of the bootstrap by patient.

    Returns:
        `"negative"` and `"positive"`; an empty group has 0 pairs and NaN everywhere.

    Raises:
        ValueError: naming the argument, for other shapes, no rows, infinite values, or posteriors that are no probabilities.
    """
    before = check_array(before, "before", missing=True)
    after = check_array(after, "after", rows=len(before), missing=True)
    posterior = check_posterior(source_posterior, "source_posterior", len(before))
    groups = decision_groups(posterior, threshold)
    weights = patient_weights(patients, n_resamples, seed, len(before))
    expected = {None: ("two-sided", "two-sided"), True: ("greater", "less"), False: ("less", "greater")}
    return {
        name: _change(before, after, rows, alternative, patients, weights)
        for (name, rows), alternative in zip(groups.items(), expected[rises_with_posterior])
    }


def _change(before, after, rows, alternative, patients, weights) -> PairedChange:
    known = rows & ~np.isnan(before) & ~np.isnan(after)
    names = np.arange(len(before)) if patients is None else np.asarray(patients)
    change = grouped_means(after - before, {"": known}, weights)[""]
    pairs = int(known.sum())
    unique, index = np.unique(names[known], return_inverse=True)
    unit = np.bincount(index, (after - before)[known], len(unique)) / np.bincount(
        index, minlength=len(unique)
    )
    moved = unit[unit != 0]
    varies = len(unit) > 1 and np.ptp(unit) > 1e-12 * np.abs(unit).max()
    return PairedChange(
        pairs=pairs,
        undefined=int(rows.sum()) - pairs,
        patients=len(unit),
        before=float(before[known].mean()) if pairs else _NAN,
        after=float(after[known].mean()) if pairs else _NAN,
        change=change,
        direction={1: "rises", 0: "none", -1: "falls"}.get(np.sign(change[0]), "undefined"),
        alternative=alternative,
        t_p=float(stats.ttest_1samp(unit, 0.0, alternative=alternative).pvalue) if varies else _NAN,
        wilcoxon_p=float(stats.wilcoxon(moved, alternative=alternative).pvalue) if len(moved) else _NAN,
    )
