"""MIMIC-CXR-JPG 2.x with MIMIC-IV, as PhysioNet publishes them (credentialed; never downloaded by this package).

    mimic-cxr-2.0.0-metadata.csv.gz, -chexpert.csv.gz (and -split.csv.gz for the official split)
    files/p10/p10000032/s50414267/<dicom_id>.jpg
    patients.csv.gz, admissions.csv.gz of MIMIC-IV: in the same folder, or below mimic_iv_dir

The cohort is that of Xia et al., MICCAI 2024 (arXiv 2403.09422).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .base import SourceTable
from .cohort import (
    CHEXPERT_LABELS,
    canonical_finding,
    class_index,
    keep,
    race_group,
    refuse,
    to_number,
    with_chexpert_finding,
)
from .errors import CXRDataError, MissingDataError
from .report import LoadReport
from .sources import NO_FINDING, RACES, default_schema
from .splits import DEFAULT_FRACTIONS, choose_splits
from .tables import find_file, read_table

NAME = "MIMIC-CXR-JPG"
MAX_AGE = 100.0
OFFICIAL = {"train": "train", "validate": "validation", "test": "test"}


def read_mimic_cxr(
    folder: Path,
    *,
    report: LoadReport,
    seed: int = 42,
    finding: str = "Pleural Effusion",
    other_findings: str = "drop",
    splits: str = "patient",
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    mimic_iv_dir: str | Path | None = None,
) -> SourceTable:
    """The table of MIMIC-CXR-JPG, joined with MIMIC-IV; arguments and errors are those of every `sources.Source`.

    The cohort: AP or PA view; race the same over a patient's admissions and one of White, Asian, Black;
    age = anchor_age + year of the study - anchor_year; finding present where its label is 1, absent where
    "No Finding" is 1.

    Args:
        finding: one of `CHEXPERT_LABELS`.
        splits: "official" reads `-split.csv.gz`.
        mimic_iv_dir: the MIMIC-IV folder, if its tables are not beside those of MIMIC-CXR-JPG.
    """
    finding = canonical_finding(finding, CHEXPERT_LABELS, NAME)
    metadata = _table(folder, "metadata", ["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate"])
    rows = metadata.assign(
        split=choose_splits(
            splits, metadata["subject_id"], fractions, seed, lambda: _official(folder, metadata["dicom_id"])
        )
    )
    rows = keep(rows, rows["ViewPosition"].isin(["AP", "PA"]), "views other than AP and PA", report)
    patients, race = _demographics(folder, mimic_iv_dir)
    rows = rows.merge(patients, on="subject_id", how="left").merge(race, on="subject_id", how="left")
    rows = keep(rows, rows["anchor_age"].notna(), "patients who are not in MIMIC-IV patients", report)
    rows = keep(rows, rows["race"].notna(), "patients without an admission that records race", report)
    rows = keep(rows, rows["race"] != "inconsistent", "race differs between admissions", report)
    rows = keep(rows, rows["race"].isin(RACES), f"race other than {', '.join(RACES)}", report)
    labels = _table(folder, "chexpert", ["subject_id", "study_id", finding, NO_FINDING])
    labels = labels.drop_duplicates(["subject_id", "study_id"])
    rows = rows.merge(labels, on=["subject_id", "study_id"], how="left")
    rows = _columns(with_chexpert_finding(rows, finding, other_findings, report), folder, report)
    return SourceTable(rows=rows, schema=default_schema("mimic_cxr", finding), report=report)


def _table(folder: Path, kind: str, columns: Sequence[str]) -> pd.DataFrame:
    patterns = [f"mimic-cxr-2.*-{kind}.csv.gz", f"mimic-cxr-2.*-{kind}.csv"]
    return read_table(find_file([folder], patterns, f"The {kind} table of {NAME}"), columns)


def _official(folder: Path, images: pd.Series) -> np.ndarray:
    table = _table(folder, "split", ["dicom_id", "split"]).drop_duplicates("dicom_id").set_index("dicom_id")
    result = images.map(table["split"]).map(OFFICIAL)
    if result.isna().any():
        raise CXRDataError(
            f"The split table of {NAME} has no split for {result.isna().sum()} images "
            f"({images[result.isna()].iloc[0]})."
        )
    return result.to_numpy(dtype=object)


def _demographics(folder: Path, mimic_iv_dir: str | Path | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Per patient: (subject_id, gender, anchor_age, anchor_year), and (subject_id, race) or "inconsistent"."""
    base = folder if mimic_iv_dir is None else Path(mimic_iv_dir).expanduser()
    places = [base, base / "hosp", base / "core"]
    path = find_file(places, ["patients.csv.gz", "patients.csv"], "MIMIC-IV patients (for age and sex)")
    patients = read_table(path, ["subject_id", "gender", "anchor_age", "anchor_year"])
    path = find_file(places, ["admissions.csv.gz", "admissions.csv"], "MIMIC-IV admissions (for race)")
    try:
        admissions = read_table(path, ["subject_id", "race"])
    except MissingDataError:  # the name before MIMIC-IV 2.0
        admissions = read_table(path, ["subject_id", "ethnicity"]).rename(columns={"ethnicity": "race"})
    admissions = admissions[admissions["race"].notna()]
    admissions = admissions.assign(race=race_group(admissions["race"]))
    groups = admissions.groupby("subject_id")["race"].agg(["first", "nunique"])
    race = groups["first"].mask(groups["nunique"] > 1, "inconsistent").rename("race").reset_index()
    return patients.drop_duplicates("subject_id"), race


def _columns(rows: pd.DataFrame, folder: Path, report: LoadReport) -> pd.DataFrame:
    year = to_number(rows["StudyDate"].str.slice(0, 4))
    age = to_number(rows["anchor_age"]) + year - to_number(rows["anchor_year"])
    report.alter(f"ages above {MAX_AGE:g} years set to {MAX_AGE:g}", (age > MAX_AGE).sum())
    report.alter("impossible ages (below 0) set to unknown", (age < 0).sum())
    subject, study = rows["subject_id"], rows["study_id"]
    files = str(folder) + "/files/p" + subject.str.slice(0, 2) + "/p" + subject + "/s" + study + "/"
    table = pd.DataFrame(
        {
            "image": files + rows["dicom_id"] + ".jpg",
            "image_id": rows["dicom_id"],
            "patient_id": subject,
            "study_id": study,
            "split": rows["split"],
            "age": age.mask(age < 0).clip(upper=MAX_AGE),
            "race": class_index(rows["race"], RACES),
            "sex": class_index(rows["gender"], "MF"),
            "finding": rows["finding"],
        }
    )
    names = ["image_id", "patient_id", "study_id"]
    good = [table[name].str.fullmatch(r"[A-Za-z0-9_-]+", na=False) for name in names]
    bad = ~pd.concat(good, axis=1).all(axis=1)
    return refuse(table, bad, "its identifiers cannot be parts of a path.", report)
