"""CheXpert, as Stanford AIMI publishes it (full or "small"), with its demographics spreadsheet for race.

train.csv, valid.csv (and test.csv where there is one)
train/patient00001/study1/view1_frontal.jpg, valid/...
CHEXPERT DEMO.xlsx (or the same sheet saved as .csv), here or one folder up
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .base import SourceTable
from .cohort import (
    canonical_finding,
    class_index,
    drop_other_findings,
    finding_from_labels,
    keep,
    known_age,
    race_group,
    refuse,
    to_number,
)
from .definitions import NO_FINDING, RACES
from .errors import BadRowError, CXRDataError
from .report import LoadReport
from .schemas import cxr_schema
from .splits import DEFAULT_FRACTIONS, carve_validation, split_by_patient
from .tables import find_file, path_inside, read_table

NAME = "CheXpert"
FINDINGS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
PATIENT = r"(patient\d+)"
DEMOGRAPHICS = ("*[Dd][Ee][Mm][Oo]*.csv", "*[Dd][Ee][Mm][Oo]*.xlsx")


def read_chexpert(
    folder: Path,
    *,
    report: LoadReport,
    seed: int = 42,
    finding: str = "Pleural Effusion",
    other_findings: str = "drop",
    splits: str = "patient",
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    demographics: str | Path | None = None,
    require_race: bool = True,
) -> SourceTable:
    """The table of CheXpert: frontal images, AP or PA, with the attributes of the MIMIC-CXR cohort.

    Args:
        folder: holds the CSV files.
        report: gets what is left out or altered.
        seed: for the division of patients.
        finding: one of `FINDINGS`; present where its label is 1, absent where "No Finding" is 1 (so an
            uncertain label, -1, is neither).
        other_findings: "drop" images that are neither, or keep them with an "unknown" finding.
        splits: "patient" divides all patients by `fractions`; "official" is train.csv and valid.csv, and
            test.csv if it is there (if not, valid.csv is the test set, and a tenth of the training patients
            is taken for validation).
        fractions: parts for train, validation and test.
        demographics: the spreadsheet with PATIENT and PRIMARY_RACE, if it is somewhere else.
        require_race: leave out patients whose race is not White, Asian or Black; False keeps them with race
            unknown, and then the spreadsheet may be missing.

    Raises:
        MissingDataError: a file or column is not there.
        CXRDataError: an unknown finding or option.
    """
    finding = canonical_finding(finding, FINDINGS, NAME)
    data, tables = _read_tables(folder, finding)
    data["patient"] = data["Path"].str.extract(PATIENT)[0]
    data["image_id"] = data["Path"]
    data = refuse(data, data["patient"].isna(), "the path names no patient such as patient00001.", report)
    data["split"] = _splits(data, splits, fractions, seed)
    frontal = data["Frontal/Lateral"].eq("Frontal") & data["AP/PA"].isin(["AP", "PA"])
    data = keep(data, frontal, "views other than frontal AP and PA", report)
    data["race"] = _race(folder, demographics, require_race, data["patient"])
    if require_race:
        data = keep(data, data["race"].isin(RACES), f"race other than {', '.join(RACES)}", report)
    positive, normal = to_number(data[finding]) == 1, to_number(data[NO_FINDING]) == 1
    data["finding"] = finding_from_labels(positive, normal)
    if drop_other_findings(other_findings):
        data = keep(data, data["finding"].notna(), f"neither {finding} nor {NO_FINDING}", report)
    schema, _ = cxr_schema("chexpert", finding=finding)
    return SourceTable(rows=_columns(data, folder, tables, report), schema=schema, report=report)


def _read_tables(folder: Path, finding: str) -> tuple[pd.DataFrame, dict[str, Path]]:
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", NO_FINDING, finding]
    tables = {
        name: find_file([folder], [f"{name}.csv"], f"{name}.csv of {NAME}") for name in ("train", "valid")
    }
    if (folder / "test.csv").is_file():
        tables["test"] = folder / "test.csv"
    parts = [read_table(path, columns).assign(table=name) for name, path in tables.items()]
    return pd.concat(parts, ignore_index=True), tables


def _splits(data: pd.DataFrame, splits: str, fractions, seed: int) -> np.ndarray:
    if splits == "patient":
        return split_by_patient(data["patient"], fractions, seed)
    if splits != "official":
        raise CXRDataError(f"splits={splits!r}: choose 'patient' or 'official'.")
    if (data["table"] == "test").any():
        return data["table"].replace({"valid": "validation"}).to_numpy(dtype=object)
    names = data["table"].replace({"valid": "test"}).to_numpy(dtype=object)
    return carve_validation(names, data["patient"], seed=seed)


def _race(folder: Path, demographics, require_race: bool, patients: pd.Series) -> pd.Series:
    """White, Asian, Black, Other per row; NaN where the spreadsheet does not have the patient."""
    if demographics is None and not require_race:
        found = [path for pattern in DEMOGRAPHICS for path in folder.glob(pattern)]
        if not found:
            return pd.Series(np.nan, index=patients.index, dtype=object)
    if demographics is not None:
        path = Path(demographics).expanduser()
        path = find_file([path.parent], [path.name], f"The demographics of {NAME}")
    else:
        what = f"The demographics spreadsheet of {NAME} (for race; or pass require_race=False)"
        path = find_file([folder, folder.parent], DEMOGRAPHICS, what)
    sheet = read_table(path, ["PATIENT", "PRIMARY_RACE"]).drop_duplicates("PATIENT").set_index("PATIENT")
    return patients.map(race_group(sheet["PRIMARY_RACE"]))


def _columns(data: pd.DataFrame, folder: Path, tables: dict[str, Path], report: LoadReport) -> pd.DataFrame:
    parts = data["Path"].str.replace("\\", "/", regex=False).str.split("/")
    rows = pd.DataFrame(
        {
            "image": _files(data, folder, tables, report),
            "image_id": parts.map(lambda names: "_".join(names[-3:]).rsplit(".", 1)[0]),
            "patient_id": data["patient"],
            "study_id": parts.map(lambda names: "_".join(names[-3:-1])),
            "split": data["split"],
            "age": known_age(to_number(data["Age"]), report),
            "race": class_index(data["race"].astype("string"), {race: i for i, race in enumerate(RACES)}),
            "sex": class_index(data["Sex"], {"Male": 0, "Female": 1}),
            "finding": data["finding"],
        }
    )
    return rows[rows["image"].notna()].reset_index(drop=True)


def _files(data: pd.DataFrame, folder: Path, tables: dict[str, Path], report: LoadReport) -> list[str | None]:
    """Paths in the tables begin with the name of the release's folder, which users rename."""
    files: list[str | None] = []
    strip = (folder / "train").is_dir() or (folder / "valid").is_dir()
    for name, table in zip(data["Path"], data["table"]):
        outside = strip and not name.startswith(("train/", "valid/", "test/"))
        inner = name.partition("/")[2] if outside else name
        try:
            files.append(str(path_inside(folder, inner, tables[table])))
        except BadRowError as error:
            report.refuse(name, str(error))
            files.append(None)
    return files
