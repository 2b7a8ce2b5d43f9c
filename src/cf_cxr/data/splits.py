"""Which patient belongs to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

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
    ids = pd.Series(list(patient_ids), dtype=object).astype(str)
    patients = sorted(ids.unique(), key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
    counts = np.diff(np.rint(np.cumsum(fractions) * len(patients)).astype(int), prepend=0)
    for i in np.flatnonzero((fractions > 0) & (counts == 0)):
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[i] += 1
    return ids.map(dict(zip(patients, np.repeat(SPLITS, counts).tolist()))).to_numpy(dtype=object)


def choose_splits(
    splits: str,
    patient_ids: Sequence[str],
    fractions: Sequence[float],
    seed: int,
    official: Callable[[], np.ndarray],
) -> np.ndarray:
    """Splits "patient" or "official", as `official` gives them; raises CXRDataError for another word."""
    if splits not in ("official", "patient"):
        raise CXRDataError(f"splits={splits!r}: choose 'official' or 'patient'.")
    return official() if splits == "official" else split_by_patient(patient_ids, fractions, seed)


def carve_validation(
    splits: np.ndarray, patient_ids: Sequence[str], fraction: float = 0.1, seed: int = 42
) -> np.ndarray:
    """Moves a part of the training patients to validation, in place, for owners who publish train and test only."""
    train = splits == "train"
    splits[train] = split_by_patient(np.asarray(patient_ids)[train], (1 - fraction, fraction, 0.0), seed)
    return splits


def check_no_overlap(patient_ids: pd.Series, splits: pd.Series, where: str) -> None:
    """Raises CXRDataError, naming a patient, if one is in two splits."""
    found = splits.groupby(patient_ids, sort=False).unique()
    for patient, names in found[found.str.len() > 1].items():
        raise CXRDataError(
            f"{where} puts patient {patient} in both {names[0]} and {names[1]}. Correct the table, "
            'or pass splits="patient" for a split by patient.'
        )
