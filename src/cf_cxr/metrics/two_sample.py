"""Can a network tell counterfactuals from real films? The classifier two-sample test (C2ST)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..tensor_checks import check_range
from .arrays import check_kind, check_value, check_weights, ratio, to_numpy
from .bootstrap import interval, patient_weights, score_samples
from .patch_critic import MIN_SIZE, STEPS, critic_logits, train_critic

MIN_FILMS, MIN_PATIENTS = 40, 10  # used films in all, patients on either side, below which nothing is said
VALUE_BINS, BIN_FILMS = 8, 20  # most bins of a continuous attribute, and fewest counterfactuals of one


@dataclass(frozen=True)
class CriticScores:
    """What critics that never saw the patient say of every film that was used, M of them.

    Attributes:
        counterfactual: `(M,)` whether the film is one.
        rows: `(M,)` its row among the real films or the counterfactuals that were given.
        patients: `(M,)` whose it is.
        stratum: `(M,)` number of its fold and bin of values; films are compared within a stratum only.
        score: `(M,)` logit of being a counterfactual.
        places: `(M, H / 8, W / 8)` how much more a place looks like a counterfactual than the same place of the
            fold's real films on average, in logits; the score holds their mean.
        bins_left_out: bins of values with real films only or counterfactuals only, in words.
        reason: why there are no scores (M = 0), else "".
    """

    counterfactual: np.ndarray
    rows: np.ndarray
    patients: np.ndarray
    stratum: np.ndarray
    score: np.ndarray
    places: np.ndarray
    bins_left_out: list[str]
    reason: str = ""


def two_sample_auc(
    real_images: Any,
    counterfactual_images: Any,
    real_values: Any,
    counterfactual_values: Any,
    real_patients: Sequence,
    counterfactual_patients: Sequence,
    *,
    kind: str = "binary",
    n_resamples: int = 1000,
    seed: int = 0,
    folds: int = 2,
    steps: int = STEPS,
) -> dict[str, Any]:
    """How well a small network tells counterfactuals from real films that have their new value (C2ST).

    Lopez-Paz & Oquab, ICLR 2017 (arXiv 1610.06545): two sets are alike if no classifier, trained on one part of
    them, tells the other part apart. The AUC of `critic_scores` over pairs of a counterfactual and a real film of
    one fold and one bin of values; strata count by the harmonic mean of their two sides. The interval is that of
    the films shown to critics already trained; it does not hold the draw of their training films.

    Args:
        as `critic_scores`; n_resamples: of the bootstrap by patient.

    Returns:
        `two_sample_auc` (estimate, low, high) in [0, 1]: 0.5 is ideal, 1 says that every counterfactual is given
        away; below 0.5 is noise. `real`, `counterfactual`: films used. `bins_left_out` and
        `reason`, as in `CriticScores`: with a reason, the numbers are NaN.

    Raises:
        ValueError: as `critic_scores`.
    """
    scores = critic_scores(
        real_images, counterfactual_images, real_values, counterfactual_values, real_patients,
        counterfactual_patients, kind=kind, seed=seed, folds=folds, steps=steps,
    )  # fmt: skip
    missing = scores.reason != ""
    weights = np.zeros((0, 0)) if missing else patient_weights(scores.patients, n_resamples, seed)
    return {
        "two_sample_auc": interval(two_sample_samples(scores, weights)),
        "real": int((~scores.counterfactual).sum()),
        "counterfactual": int(scores.counterfactual.sum()),
        "bins_left_out": scores.bins_left_out,
        "reason": scores.reason,
    }


def two_sample_samples(scores: CriticScores, weights: Any) -> np.ndarray:
    """The AUC in [0, 1] on all films and on every bootstrap resample `(1 + R,)`; NaN throughout if there are no scores.

    Args:
        weights: `(R, M)`, a column for each film of the scores.
    """
    weights = check_weights(weights, len(scores.score))
    total, wins = np.zeros(1 + len(weights)), np.zeros(1 + len(weights))
    for stratum in np.unique(scores.stratum):
        rows = scores.stratum == stratum
        label = scores.counterfactual[rows]
        auc = score_samples("binary", scores.score[rows], label, weights[:, rows], "two-sample AUC") / 100
        every = np.concatenate([np.ones((1, label.size)), weights[:, rows]])
        fakes, films = every[:, label].sum(1), every[:, ~label].sum(1)
        share = fakes * films / np.maximum(fakes + films, 1)
        total += share
        wins += np.where(share > 0, share * np.nan_to_num(auc), 0)
    return ratio(wins, total)


def critic_scores(
    real_images: Any,
    counterfactual_images: Any,
    real_values: Any,
    counterfactual_values: Any,
    real_patients: Sequence,
    counterfactual_patients: Sequence,
    *,
    kind: str = "binary",
    seed: int = 0,
    folds: int = 2,
    steps: int = STEPS,
) -> CriticScores:
    """Scores of a critic for every film, by folds of patients.

    A patient who has both kinds of films is shown with one kind only, drawn by the seed: no film is on both sides.
    Critics are trained on pairs of films of one bin of values, so that the value tells nothing.

    Args:
        real_images, counterfactual_images: `(N, H, W)` or `(N, 1, H, W)` in [-1, 1], and `(K, ...)` of the same
            size; below 32 pixels on a side there is no score. They are rounded to 8 bits, so that how a film was
            stored gives nobody away.
        real_values, counterfactual_values: `(N,)` factual and `(K,)` *new* values of the intervened attribute.
        real_patients, counterfactual_patients: identifiers, `(N,)` and `(K,)`.
        kind: `"binary"`, `"categorical"` (class indices) or `"continuous"` (up to 8 bins of equal counts, of at least
            20 counterfactuals).
        seed: of sides, folds and critics. folds: at least 2. steps: of training per fold.

    Raises:
        ValueError: naming the argument, for other shapes, values that are NaN or no class, lengths that differ,
            images outside [-1, 1].
    """
    check_kind(kind, "two-sample AUC")
    real = _films(real_images, "real_images")
    fake = _films(counterfactual_images, "counterfactual_images")
    if real.shape[1:] != fake.shape[1:]:
        raise ValueError(
            f"real_images have {tuple(real.shape[2:])} pixels and counterfactual_images {tuple(fake.shape[2:])}; "
            "resize them alike, or the size tells them apart."
        )
    if folds < 2 or steps < 2:
        raise ValueError(f"folds and steps must be at least 2, got {folds} and {steps}.")
    values, patients = [], []
    for side, films, given, names in (
        ("real", real, real_values, real_patients),
        ("counterfactual", fake, counterfactual_values, counterfactual_patients),
    ):
        classes, names = 2 if kind == "binary" else 2**31, np.asarray(names).astype(str)
        values.append(
            check_value(kind, given, len(films), f"{side}_values", classes) if len(films) else np.zeros(0)
        )
        if names.shape != (len(films),):
            raise ValueError(
                f"{side}_patients must have shape ({len(films)},), one for each film, got {names.shape}."
            )
        patients.append(names)
    patients = np.concatenate(patients)
    label = np.arange(len(patients)) >= len(real)
    bins, words = _bins(kind, *values)
    fold, kept = _sides(patients, label, folds, seed)
    stratum = fold * len(words) + bins
    kept &= _both(stratum, label, kept)
    left_out = [word for number, word in enumerate(words) if not kept[bins == number].any()]
    rows = np.where(label, np.arange(len(label)) - len(real), np.arange(len(label)))
    reason = _too_few(label[kept], patients[kept], fold[kept], folds)
    if min(real.shape[2:]) < MIN_SIZE:
        reason = f"films of {real.shape[2]} x {real.shape[3]} pixels are too small for a critic, which takes {MIN_SIZE}."
    if reason:
        none = np.zeros(0, int)
        return CriticScores(
            none > 0, none, patients[:0], none, np.zeros(0), np.zeros((0, 0, 0)), left_out, reason
        )
    images = torch.cat([real, fake])
    score, places = np.zeros(len(label)), None
    for number in range(folds):
        inside = np.flatnonzero(kept & (fold == number))
        critic = train_critic(images, _pairs(kept & (fold != number), bins, label), seed + number, steps)
        score[inside], maps = critic_logits(critic, images[inside])
        places = np.zeros((len(label), *maps.shape[1:]), np.float32) if places is None else places
        places[inside] = maps - maps[~label[inside]].mean(0)
    return CriticScores(
        label[kept], rows[kept], patients[kept], stratum[kept], score[kept], places[kept], left_out
    )


def _films(images: Any, name: str) -> torch.Tensor:
    images = to_numpy(images, np.float32)
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim != 3:
        raise ValueError(f"{name} must have shape (N, H, W) or (N, 1, H, W), got {images.shape}.")
    if images.size:
        check_range(float(images.min()), float(images.max()), name)
    grey = np.round((images + 1) * 127.5).clip(0, 255)
    return torch.from_numpy(grey / np.float32(127.5) - 1)[:, None]


def _bins(kind: str, real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Number of the bin of every film, real ones first, and the bins in words."""
    values = np.concatenate([real, fake])
    if kind != "continuous":
        found, numbers = np.unique(values, return_inverse=True)
        return numbers, [f"{value:g}" for value in found]
    edges = (
        np.unique(np.quantile(fake, np.linspace(0, 1, VALUE_BINS + 1)[1:-1])) if len(fake) else np.zeros(0)
    )
    ends = ["…", *(f"{edge:g}" for edge in edges), "…"]
    return np.searchsorted(edges, values, side="right"), [f"{a} to {b}" for a, b in zip(ends, ends[1:])]


def _sides(patients: np.ndarray, label: np.ndarray, folds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Fold of every film, and whether it is used: of a patient with both kinds, those of one kind only.

    Half of those patients, to within one, are counterfactual, and each side's patients are dealt to the folds in turn.
    """
    names, index = np.unique(patients, return_inverse=True)
    has_real, has_fake = (np.bincount(index, side, len(names)) > 0 for side in (~label, label))
    order = np.random.default_rng(seed).permutation(len(names))
    fake = has_fake.copy()
    both = order[(has_real & has_fake)[order]]
    fake[both[::2]] = False
    fold = np.zeros(len(names), int)
    for side in (fake, ~fake):
        members = order[side[order]]
        fold[members] = np.arange(len(members)) % folds
    return fold[index], label == fake[index]


def _both(stratum: np.ndarray, label: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Films of strata with films of both sides."""
    size = stratum.max(initial=0) + 1
    counts = [np.bincount(stratum[kept & side], minlength=size) for side in (label, ~label)]
    return (np.minimum(*counts) > 0)[stratum]


def _too_few(label: np.ndarray, patients: np.ndarray, fold: np.ndarray, folds: int) -> str:
    fakes, films = (len(np.unique(patients[side])) for side in (label, ~label))
    if len(label) < MIN_FILMS or min(fakes, films) < MIN_PATIENTS or len(np.unique(fold)) < folds:
        return (
            f"too few films for a critic: {len(label)} with a partner of the same value, of {films} patients (real) and "
            f"{fakes} patients (counterfactual); at least {MIN_FILMS} films and {MIN_PATIENTS} patients on either side "
            "are needed."
        )
    return ""


def _pairs(train: np.ndarray, bins: np.ndarray, label: np.ndarray):
    """Draws of (real, counterfactual) rows of equal value; bins by the harmonic mean of their two sides."""
    numbers = [n for n in np.unique(bins[train]) if len(np.unique(label[train & (bins == n)])) == 2]
    groups = [[np.flatnonzero(train & (bins == n) & side) for side in (~label, label)] for n in numbers]
    share = np.array([1 / (1 / len(a) + 1 / len(b)) for a, b in groups])

    def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = rng.choice(len(groups), count, p=share / share.sum())
        return tuple(np.array([rng.choice(groups[g][side]) for g in chosen]) for side in (0, 1))

    return draw
