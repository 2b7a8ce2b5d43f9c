"""Which patient belongs to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from .base import SPLITS
from .errors import CXRDataError

DEFAULT_FRACTIONS = (0.6, 0.1, 0.3)


def split_by_patient(
    patient_ids: Sequence[str], fractions: Sequence[float] = DEFAULT_FRACTIONS, seed: int = 42
) -> np.ndarray:
    """Assigns every image to train, validation or test so that no patient is in two of them.

    Patients are put in the order of a hash of (seed, patient) and cut at the fractions, so the result does
    not depend on the order of the rows, on the machine or on library versions. With three or more patients
    no split with a fraction above 0 stays empty.

    Args:
        patient_ids: the patient of each image. Give all images of a source, before any are left out: a
            patient then keeps the split whatever the cohort is.
        fractions: parts of the patients for train, validation and test; they add up to 1.
        seed: another seed gives another division.

    Returns:
        Array of `"train"`, `"validation"`, `"test"`, as long as `patient_ids`.

    Raises:
        CXRDataError: fractions that are negative, do not add up to 1, or are not three.
    """
    fractions = np.asarray(fractions, dtype=float)
    if fractions.shape != (3,) or (fractions < 0).any() or abs(fractions.sum() - 1) > 1e-6:
        raise CXRDataError(
            f"fractions={tuple(fractions.tolist())}: give three parts for train, validation and test that "
            "are at least 0 and add up to 1."
        )
    ids = np.asarray([str(patient) for patient in patient_ids], dtype=object)
    patients = sorted(set(ids.tolist()), key=lambda patient: _rank(seed, patient))
    counts = _counts(len(patients), fractions)
    names = np.repeat(np.array(SPLITS, dtype=object), counts)
    split_of = dict(zip(patients, names))
    return np.array([split_of[patient] for patient in ids.tolist()], dtype=object)


def _rank(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed}:{patient}".encode()).digest()


def _counts(total: int, fractions: np.ndarray) -> np.ndarray:
    bounds = np.rint(np.cumsum(fractions) * total).astype(int)
    counts = np.diff(bounds, prepend=0)
    for i in np.flatnonzero((fractions > 0) & (counts == 0)):
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[i] += 1
    return counts


def carve_validation(
    splits: np.ndarray, patient_ids: Sequence[str], fraction: float = 0.1, seed: int = 42
) -> np.ndarray:
    """Moves a part of the training patients to validation, for owners who publish train and test only."""
    splits = np.array(splits, dtype=object)
    train = splits == "train"
    part = split_by_patient(np.asarray(patient_ids, dtype=object)[train], (1 - fraction, fraction, 0.0), seed)
    splits[train] = part
    return splits


def check_no_overlap(patient_ids: Sequence[str], splits: Sequence[str], where: str) -> None:
    """Raises CXRDataError, naming a patient, if one is in two splits."""
    seen: dict[str, str] = {}
    for patient, split in zip(patient_ids, splits):
        if seen.setdefault(str(patient), split) != split:
            raise CXRDataError(
                f"{where} puts patient {patient} in both {seen[str(patient)]} and {split}. Correct the table, "
                'or pass splits="patient" for a split by patient.'
            )
