"""From records to numbers with intervals (95 %, bootstrap by patient).

B = Singla et al., "Explaining the black-box smoothly: a counterfactual approach", Medical Image Analysis 84, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...metrics.bootstrap import Interval, interval, mean_samples, patient_weights
from ...metrics.decision_distribution import decision_frechet_distance
from ...metrics.decisions import decision_groups, grouped_means
from ...metrics.distribution import frechet_distance
from ...metrics.eigen_radiographs import eigen_radiographs
from ...metrics.exaggeration import exaggeration_curve
from ...metrics.identity import identity_preservation
from ...metrics.paired_tests import change_by_decision
from ...metrics.preservation import foreign_object_preservation
from ...metrics.validity import counterfactual_validity
from ..reports import plain
from .collecting import LABELS, MEASURES

SCHEMA_VERSION = 1
NUM_BINS = 10  # of the posterior: every image is asked for every bin's centre
MINIMUM_OVERLAP = 0.5  # a device is kept if this share of its area is still device in the explanation
MINIMUM_DEVICE_AREA = 0.002  # smaller shares of the image are specks, no devices


@dataclass(frozen=True, eq=False)
class Summary:
    """The numbers of an evaluation.

    Args:
        records: see `collecting`. patients: one per row.
        threshold: decision boundary of the classifier.
        size: height and width of the masks.
        feature_extractor: where embeddings come from, in words.
        seed, n_resamples: of the bootstrap.
    """

    records: Mapping[str, np.ndarray]
    patients: Sequence
    threshold: float
    size: tuple[int, int]
    feature_extractor: str | None = None
    seed: int = 0
    n_resamples: int = 1000

    @cached_property
    def _weights(self) -> np.ndarray:
        return patient_weights(self.patients, self.n_resamples, self.seed)

    @cached_property
    def _groups(self) -> dict[str, np.ndarray]:
        return decision_groups(self.records["source_posterior"], self.threshold)

    @property
    def _bootstrap(self) -> dict[str, Any]:
        return {"patients": self.patients, "seed": self.seed, "n_resamples": self.n_resamples}

    def _final(self, name: str) -> np.ndarray:
        """Of a record per target, that of the final explanation."""
        values = self.records[name]
        return values[np.arange(len(values)), self.records["final"]]

    def _mean(self, values: np.ndarray) -> Interval:
        return interval(mean_samples(values, self._weights))

    def results(self) -> dict[str, Any]:
        """All results as nested dictionaries.

        Numbers with an interval are `[estimate, low, high]`; None is "not defined", for example the preservation of
        devices where no image has any. See docs/metrics.md for what they mean.
        """
        source, reached = self.records["source_posterior"], self.records["reached"]
        groups = {"all": np.ones(len(source), bool), **self._groups}
        asked = {"threshold": self.threshold, **self._bootstrap}
        curves = exaggeration_curve(
            source, self.records["target"], reached, NUM_BINS, by_source_bin=True, **asked
        )
        results = plain(
            {
                "schema_version": SCHEMA_VERSION,
                "images": {name: rows.sum() for name, rows in groups.items()},
                "exaggeration": curves,
                "validity": counterfactual_validity(source, self._final("reached"), **asked),
                "change": grouped_means(self._final("change"), groups, self._weights),
                "foreign_objects": self._foreign_objects(),
                "patient_identity": self._patient_identity(),
                "appearance_identity": self._appearance_identity(),
                "frechet": self._frechet(),
                "ruler": self._ruler(),
            }
        )
        return {**results, "anatomy": self._anatomy()}

    def _masks(self, label: str, kind: str) -> np.ndarray | None:
        """Masks `(N, H, W)`, bool; None if they were not recorded."""
        packed = self.records.get(f"masks/{label}/{kind}")
        if packed is None:
            return None
        return np.unpackbits(packed, axis=1, count=math.prod(self.size)).astype(bool).reshape(-1, *self.size)

    def _foreign_objects(self) -> dict[str, Any]:
        """Foreign-object preservation, final explanation against image.

        `detected`: devices that the segmenter finds in the image, and in the explanation. `true` (phantom): the true
        devices, and what the segmenter finds in the explanation; `ruler` is the same for the images themselves, the
        most that an explainer can reach with this segmenter. `change_inside`: mean change of the devices' pixels, grey
        levels.
        """
        area = max(1, round(MINIMUM_DEVICE_AREA * math.prod(self.size)))
        out: dict[str, Any] = {"minimum_overlap": MINIMUM_OVERLAP, "minimum_area_pixels": area}
        kinds = {"detected": ("source", "final"), "true": ("true", "final"), "ruler": ("true", "source")}
        for name, pair in kinds.items():
            before, after = (self._masks("devices", kind) for kind in pair)
            out[name] = None
            if before is not None and after is not None:
                out[name] = foreign_object_preservation(
                    before, after, minimum_overlap=MINIMUM_OVERLAP, minimum_area=area, **self._bootstrap
                )
        inside = self.records.get("change_in_devices")
        return {**out, "change_inside": None if inside is None else self._mean(inside)}

    def _anatomy(self) -> dict[str, Any]:
        """Cardiothoracic ratio and costophrenic score, final explanation minus image, paired tests per decision.

        Both sides by the same segmenter, also where the true value of the image is known: its bias then cancels.
        `series` is the mean per target and decision, to be drawn.
        """
        out: dict[str, Any] = {}
        for name in MEASURES:
            if f"{name}/series" not in self.records:
                continue
            changes = change_by_decision(
                self.records[f"{name}/source"],
                self._final(f"{name}/series"),
                self.records["source_posterior"],
                threshold=self.threshold,
                **self._bootstrap,
            )
            out[name] = {}
            for group, change in changes.items():
                row = vars(change) | {"series": []}
                del row["alternative"]
                for column in self.records[f"{name}/series"][self._groups[group]].T:
                    known = column[~np.isnan(column)]
                    row["series"].append(known.mean() if len(known) else None)
                out[name][group] = plain(row)
                for test in ("t_p", "wilcoxon_p"):  # three digits, however small
                    p = getattr(change, test)
                    out[name][group][test] = None if math.isnan(p) else float(f"{p:.3g}")
        return out

    def _patient_identity(self) -> dict[str, Any] | None:
        """Distance of embeddings, and whether an explanation finds its own image among other patients' images."""
        if "embedding/source" not in self.records:
            return None
        pair = (self.records[f"embedding/{kind}"] for kind in ("source", "final"))
        return {
            **identity_preservation(*pair, **self._bootstrap),
            "feature_extractor": self.feature_extractor,
        }

    def _appearance_identity(self) -> dict[str, Any] | None:
        """The same by eigen-radiographs of the images, which no classifier had a part in; None below 3 images."""
        if len(self.patients) < 3:
            return None
        pair = eigen_radiographs(self.records["appearance/source"], self.records["appearance/final"])
        words = f"{pair[0].shape[1]} eigen-radiographs of the images evaluated"
        return {**identity_preservation(*pair, **self._bootstrap), "feature_extractor": words}

    def _frechet(self) -> dict[str, Any] | None:
        """Fréchet distance of final explanations to real images with the decision they reached, without interval.

        `between_decisions`, real images of one decision against the other's, equal numbers, is the yard-stick.
        """
        if "embedding/source" not in self.records:
            return None
        real, made = self.records["embedding/source"], self.records["embedding/final"]
        found = decision_frechet_distance(
            real,
            made,
            self.records["source_posterior"],
            self._final("reached"),
            threshold=self.threshold,
            seed=self.seed,
        )
        number = min(int(rows.sum()) for rows in self._groups.values())
        rng = np.random.default_rng(self.seed)
        sides = [real[rng.permutation(np.flatnonzero(rows))[:number]] for rows in self._groups.values()]
        return {
            **found,
            "between_decisions": frechet_distance(*sides) if number >= 2 else None,
            "feature_extractor": self.feature_extractor,
        }

    def _ruler(self) -> dict[str, Any] | None:
        """How wrong the instruments are, on the images, where a phantom knows the truth; else None.

        `dice` per label (NaN rows: neither mask has a pixel). Per measurement `segmenter` (from predicted masks) and
        `true_masks` (from the phantom's masks: the metric's own error): `bias`, `mae` and `correlation` against the
        exact value, and `images` on which it is defined.
        """
        if "cardiothoracic_ratio/true" not in self.records:
            return None
        dice = {}
        for label in LABELS:
            found, true = (self._masks(label, kind) for kind in ("source", "true"))
            if found is not None and true is not None:
                total = found.sum((1, 2)) + true.sum((1, 2))
                overlap = 2.0 * (found & true).sum((1, 2)) / np.maximum(total, 1)
                dice[label] = self._mean(np.where(total > 0, overlap, np.nan))
        out: dict[str, Any] = {"dice": dice}
        for name in MEASURES:
            out[name] = {
                who: self._error(name, record)
                for who, record in (("segmenter", "source"), ("true_masks", "true_masks"))
                if f"{name}/{record}" in self.records
            }
        return out

    def _error(self, name: str, record: str) -> dict[str, Any]:
        found, true = (self.records[f"{name}/{kind}"].astype(float) for kind in (record, "true"))
        known = ~np.isnan(found)
        spread = known.sum() > 1 and np.ptp(found[known]) > 0 and np.ptp(true[known]) > 0
        return {
            "images": known.sum(),
            "bias": self._mean(found - true),
            "mae": self._mean(np.abs(found - true)),
            "correlation": np.corrcoef(found[known], true[known])[0, 1] if spread else None,
        }
