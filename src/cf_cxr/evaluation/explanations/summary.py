"""From records to numbers with intervals (95 %, bootstrap by patient).

B = Singla et al., "Explaining the black-box smoothly: a counterfactual approach", Medical Image Analysis 84, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...metrics.bootstrap import interval, mean_samples, patient_weights
from ...metrics.decision_distribution import decision_frechet_distance
from ...metrics.decisions import decision_groups, grouped_means
from ...metrics.distribution import frechet_distance
from ...metrics.eigen_radiographs import eigen_radiographs
from ...metrics.exaggeration import ExaggerationCurve, exaggeration_curve
from ...metrics.identity import identity_preservation
from ...metrics.paired_tests import PairedChange, change_by_decision
from ...metrics.preservation import foreign_object_preservation
from ...metrics.validity import counterfactual_validity
from ..counterfactuals.summary import numbers
from .collecting import LABELS, MEASURES

SCHEMA_VERSION = 1
Records = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SummarySettings:
    """What the numbers depend on besides the records.

    Args:
        threshold: decision boundary of the classifier.
        num_bins: bins of the exaggeration curve.
        size: height and width of the masks.
        minimum_overlap, minimum_device_area: of foreign-object preservation; the area as a share of the image.
        num_distractors: other patients per image; None: all.
        feature_extractor: where embeddings come from, in words.
        seed, n_resamples: of the bootstrap.
    """

    threshold: float
    num_bins: int
    size: tuple[int, int]
    minimum_overlap: float = 0.5
    minimum_device_area: float = 0.002
    num_distractors: int | None = None
    feature_extractor: str | None = None
    seed: int = 0
    n_resamples: int = 1000

    @property
    def bootstrap(self) -> dict[str, int]:
        """As the metrics take it."""
        return {"seed": self.seed, "n_resamples": self.n_resamples}


def summarise(records: Records, patients: Sequence, settings: SummarySettings) -> dict[str, Any]:
    """All results as nested dictionaries.

    Numbers with an interval are `[estimate, low, high]`; None is "not defined", for example the preservation of
    devices where no image has any. See docs/metrics.md for what they mean.
    """
    source, reached = records["source_posterior"], records["reached"]
    last = reached[np.arange(len(reached)), records["final"]]
    weights = patient_weights(patients, settings.n_resamples, settings.seed)
    groups = {
        "all": np.ones(len(source), bool),
        **decision_groups(source, settings.threshold),
    }
    curves = exaggeration_curve(
        source,
        records["target"],
        reached,
        settings.num_bins,
        patients,
        threshold=settings.threshold,
        by_source_bin=True,
        **settings.bootstrap,
    )
    validity = counterfactual_validity(
        source, last, threshold=settings.threshold, patients=patients, **settings.bootstrap
    )
    change = records["change"][np.arange(len(reached)), records["final"]]
    return {
        "schema_version": SCHEMA_VERSION,
        "images": {name: int(rows.sum()) for name, rows in groups.items()},
        "exaggeration": {name: curve_dict(curve) for name, curve in curves.items()},
        "validity": {name: numbers(value) for name, value in validity.items()},
        "change": {name: numbers(value) for name, value in grouped_means(change, groups, weights).items()},
        "foreign_objects": foreign_objects(records, patients, settings),
        "anatomy": anatomy(records, patients, settings),
        "patient_identity": patient_identity(records, patients, settings),
        "appearance_identity": appearance_identity(records, patients, settings),
        "frechet": frechet(records, source, last, settings),
        "ruler": ruler(records, patients, settings),
    }


def curve_dict(curve: ExaggerationCurve) -> dict[str, Any]:
    """A curve in JSON's types."""
    return {
        "images": curve.images,
        "slope": numbers(curve.slope),
        "intercept": numbers(curve.intercept),
        "mae": numbers(curve.mae),
        "image_mae": numbers(curve.image_mae),
        "centres": numbers(curve.centres),
        "counts": [int(count) for count in curve.counts],
        "means": [numbers(mean) for mean in curve.means],
        "empty_bins": curve.empty_bins,
    }


def unpacked(records: Records, label: str, kind: str, size: tuple[int, int]) -> np.ndarray | None:
    """Masks `(N, H, W)`, bool; None if they were not recorded."""
    packed = records.get(f"masks/{label}/{kind}")
    if packed is None:
        return None
    return np.unpackbits(packed, axis=1, count=math.prod(size)).astype(bool).reshape(-1, *size)


def foreign_objects(records: Records, patients: Sequence, settings: SummarySettings) -> dict[str, Any]:
    """Foreign-object preservation, final explanation against image.

    `detected`: devices that the segmenter finds in the image, and in the explanation. `true` (phantom): the true
    devices, and what the segmenter finds in the explanation; `ruler` is the same for the images themselves, the most
    that an explainer can reach with this segmenter. `change_inside`: mean change of the devices' pixels, grey levels.
    """
    masks = {kind: unpacked(records, "devices", kind, settings.size) for kind in ("source", "final", "true")}
    area = max(1, round(settings.minimum_device_area * math.prod(settings.size)))

    def compare(before: np.ndarray | None, after: np.ndarray | None) -> dict[str, Any] | None:
        if before is None or after is None:
            return None
        found = foreign_object_preservation(
            before,
            after,
            minimum_overlap=settings.minimum_overlap,
            minimum_area=area,
            patients=patients,
            **settings.bootstrap,
        )
        return {k: v if isinstance(v, int) else numbers(v) for k, v in found.items()}

    inside = records.get("change_in_devices")
    weights = patient_weights(patients, settings.n_resamples, settings.seed)
    return {
        "detected": compare(masks["source"], masks["final"]),
        "true": compare(masks["true"], masks["final"]),
        "ruler": compare(masks["true"], masks["source"]),
        "change_inside": None if inside is None else numbers(interval(mean_samples(inside, weights))),
        "minimum_overlap": settings.minimum_overlap,
        "minimum_area_pixels": area,
    }


def anatomy(records: Records, patients: Sequence, settings: SummarySettings) -> dict[str, Any]:
    """Cardiothoracic ratio and costophrenic score, final explanation minus image, two-sided paired tests per decision.

    Both sides by the same segmenter, also where the true value of the image is known: its bias then cancels.
    `series` is the mean per target and decision, to be drawn.
    """
    out: dict[str, Any] = {}
    groups = decision_groups(records["source_posterior"], settings.threshold)
    for name in MEASURES:
        if f"{name}/series" not in records:
            continue
        before, series = records[f"{name}/source"], records[f"{name}/series"]
        after = series[np.arange(len(series)), records["final"]]
        changes = change_by_decision(
            before,
            after,
            records["source_posterior"],
            threshold=settings.threshold,
            patients=patients,
            **settings.bootstrap,
        )
        out[name] = {group: paired_dict(change) for group, change in changes.items()}
        for group, rows in groups.items():
            out[name][group]["series"] = [
                numbers([column[~np.isnan(column)].mean()])[0] if (~np.isnan(column)).any() else None
                for column in series[rows].T
            ]
    return out


def paired_dict(change: PairedChange) -> dict[str, Any]:
    """A paired change in JSON's types; p with three digits, however small."""
    return {
        "pairs": change.pairs,
        "undefined": change.undefined,
        "patients": change.patients,
        "before": numbers([change.before])[0],
        "after": numbers([change.after])[0],
        "change": numbers(change.change),
        "direction": change.direction,
        "t_p": _p_value(change.t_p),
        "wilcoxon_p": _p_value(change.wilcoxon_p),
    }


def patient_identity(
    records: Records, patients: Sequence, settings: SummarySettings
) -> dict[str, Any] | None:
    """Distance of embeddings, and whether an explanation finds its own image among other patients' images."""
    if "embedding/source" not in records:
        return None
    pair = records["embedding/source"], records["embedding/final"]
    return {
        **_preserved(*pair, patients, settings),
        "feature_extractor": settings.feature_extractor,
    }


def appearance_identity(
    records: Records, patients: Sequence, settings: SummarySettings
) -> dict[str, Any] | None:
    """The same by eigen-radiographs of the images evaluated, which no classifier had a part in; None below 3 images."""
    if len(patients) < 3:
        return None
    pair = eigen_radiographs(records["appearance/source"], records["appearance/final"])
    words = f"{pair[0].shape[1]} eigen-radiographs of the images evaluated"
    return {**_preserved(*pair, patients, settings), "feature_extractor": words}


def _preserved(
    before: np.ndarray, after: np.ndarray, patients: Sequence, settings: SummarySettings
) -> dict[str, Any]:
    number = settings.num_distractors
    if number is not None:  # no more than every row has
        _, counts = np.unique(np.asarray(patients), return_counts=True)
        number = min(number, len(patients) - int(counts.max())) or None
    found = identity_preservation(
        before, after, patients=patients, n_distractors=number, **settings.bootstrap
    )
    return {k: v if isinstance(v, int) else numbers(v) for k, v in found.items()}


def frechet(
    records: Records, source: np.ndarray, last: np.ndarray, settings: SummarySettings
) -> dict[str, Any] | None:
    """Fréchet distance of final explanations to real images with the decision they reached, without interval.

    `between_decisions`, real images of one decision against real ones of the other, equal numbers, is the yard-stick.
    """
    if "embedding/source" not in records:
        return None
    real, made = records["embedding/source"], records["embedding/final"]
    found = decision_frechet_distance(
        real, made, source, last, threshold=settings.threshold, seed=settings.seed
    )
    out: dict[str, Any] = {
        name: {
            "distance": numbers([group.distance])[0],
            "real": group.real,
            "explanations": group.explanations,
        }
        for name, group in found.items()
    }
    groups = decision_groups(source, settings.threshold)
    number = min(int(rows.sum()) for rows in groups.values())
    rng = np.random.default_rng(settings.seed)
    sides = [real[rng.permutation(np.flatnonzero(rows))[:number]] for rows in groups.values()]
    between = frechet_distance(*sides) if number >= 2 else math.nan
    return {
        **out,
        "between_decisions": numbers([between])[0],
        "feature_extractor": settings.feature_extractor,
    }


def ruler(records: Records, patients: Sequence, settings: SummarySettings) -> dict[str, Any] | None:
    """How wrong the instruments are, on the images, where a phantom knows the truth; else None.

    `dice` per label (NaN rows: neither mask has a pixel). Per measurement `segmenter` (from predicted masks) and
    `true_masks` (from the phantom's masks: the metric's own error): `bias`, `mae` and `correlation` against the exact
    value, and `images` on which it is defined.
    """
    if "cardiothoracic_ratio/true" not in records:
        return None
    weights = patient_weights(patients, settings.n_resamples, settings.seed)
    dice = {}
    for label in LABELS:
        pair = [unpacked(records, label, kind, settings.size) for kind in ("source", "true")]
        if pair[0] is not None and pair[1] is not None:
            overlap = 2.0 * (pair[0] & pair[1]).sum((1, 2))
            total = sum(mask.sum((1, 2)) for mask in pair)
            values = np.where(total > 0, overlap / np.maximum(total, 1), np.nan)
            dice[label] = numbers(interval(mean_samples(values, weights)))
    out: dict[str, Any] = {"dice": dice}
    for name in MEASURES:
        true = records[f"{name}/true"].astype(float)
        out[name] = {
            who: _error(records[f"{name}/{key}"].astype(float), true, weights)
            for who, key in (("segmenter", "source"), ("true_masks", "true_masks"))
            if f"{name}/{key}" in records
        }
    return out


def _error(found: np.ndarray, true: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    known = ~np.isnan(found)
    spread = known.sum() > 1 and np.ptp(found[known]) > 0 and np.ptp(true[known]) > 0
    correlation = np.corrcoef(found[known], true[known])[0, 1] if spread else math.nan
    return {
        "images": int(known.sum()),
        "bias": numbers(interval(mean_samples(found - true, weights))),
        "mae": numbers(interval(mean_samples(np.abs(found - true), weights))),
        "correlation": numbers([correlation])[0],
    }


def _p_value(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.3g}")


__all__ = ["SCHEMA_VERSION", "SummarySettings", "summarise"]
