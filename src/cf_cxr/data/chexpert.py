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
    CHEXPERT_LABELS,
    canonical_finding,
    class_index,
    keep,
    known_age,
    race_group,
    refuse,
    to_number,
    with_chexpert_finding,
)
from .report import LoadReport
from .sources import NO_FINDING, RACES, SEXES, default_schema
from .splits import DEFAULT_FRACTIONS, carve_validation, choose_splits
from .tables import file_inside, find_file, read_table

NAME = "CheXpert"
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

    Arguments and errors are those of every `sources.Source`.

    Args:
        finding: one of `CHEXPERT_LABELS`; present where its label is 1, absent where "No Finding" is 1 (so an
            uncertain label, -1, is neither).
        splits: "official" is train.csv and valid.csv, and test.csv if it is there (if not, valid.csv is the test
            set, and a tenth of the training patients is taken for validation).
        demographics: the spreadsheet with PATIENT and PRIMARY_RACE, if it is somewhere else.
        require_race: leave out patients whose race is not White, Asian or Black; False keeps them with race
            unknown, and then the spreadsheet may be missing.
    """
    finding = canonical_finding(finding, CHEXPERT_LABELS, NAME)
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", NO_FINDING, finding]
    tables = {
        name: find_file([folder], [f"{name}.csv"], f"{name}.csv of {NAME}") for name in ("train", "valid")
    }
    if (folder / "test.csv").is_file():
        tables["test"] = folder / "test.csv"
    parts = [read_table(path, columns).assign(table=name) for name, path in tables.items()]
    data = pd.concat(parts, ignore_index=True)
    data["patient"] = data["Path"].str.extract(PATIENT)[0]
    data["image_id"] = data["Path"]
    data = refuse(data, data["patient"].isna(), "the path names no patient such as patient00001.", report)
    data["split"] = choose_splits(splits, data["patient"], fractions, seed, lambda: _official(data, seed))
    frontal = data["Frontal/Lateral"].eq("Frontal") & data["AP/PA"].isin(["AP", "PA"])
    data = keep(data, frontal, "views other than frontal AP and PA", report)
    data["race"] = _race(folder, demographics, require_race, data["patient"])
    if require_race:
        data = keep(data, data["race"].isin(RACES), f"race other than {', '.join(RACES)}", report)
    data = with_chexpert_finding(data, finding, other_findings, report)
    # Paths in the tables begin with the name of the release's folder, which users rename.
    renamed = (folder / "train").is_dir() or (folder / "valid").is_dir()
    below = data["Path"].where(
        data["Path"].str.startswith(("train/", "valid/", "test/")) | (not renamed),
        data["Path"].str.partition("/")[2],
    )
    parts = data["Path"].str.replace("\\", "/", regex=False).str.split("/")
    rows = pd.DataFrame(
        {
            "image": [
                file_inside(folder, inner, tables[table], name, report)
                for inner, table, name in zip(below, data["table"], data["Path"])
            ],
            "image_id": parts.map(lambda names: "_".join(names[-3:]).rsplit(".", 1)[0]),
            "patient_id": data["patient"],
            "study_id": parts.map(lambda names: "_".join(names[-3:-1])),
            "split": data["split"],
            "age": known_age(to_number(data["Age"]), report),
            "race": class_index(data["race"].astype("string"), RACES),
            "sex": class_index(data["Sex"], SEXES),
            "finding": data["finding"],
        }
    )
    return SourceTable(rows=rows, schema=default_schema("chexpert", finding), report=report)


def _official(data: pd.DataFrame, seed: int) -> np.ndarray:
    if (data["table"] == "test").any():
        return data["table"].replace({"valid": "validation"}).to_numpy(dtype=object)
    names = data["table"].replace({"valid": "test"}).to_numpy(dtype=object)
    return carve_validation(names, data["patient"], seed=seed)


def _race(folder: Path, demographics, require_race: bool, patients: pd.Series) -> pd.Series:
    """White, Asian, Black, Other per row; NaN where the spreadsheet does not have the patient."""
    if demographics is not None:
        path = Path(demographics).expanduser()
        path = find_file([path.parent], [path.name], f"The demographics of {NAME}")
    elif not require_race and not any(next(folder.glob(pattern), None) for pattern in DEMOGRAPHICS):
        return pd.Series(np.nan, index=patients.index, dtype=object)
    else:
        what = f"The demographics spreadsheet of {NAME} (for race; or pass require_race=False)"
        path = find_file([folder, folder.parent], DEMOGRAPHICS, what)
    sheet = read_table(path, ["PATIENT", "PRIMARY_RACE"]).drop_duplicates("PATIENT").set_index("PATIENT")
    return patients.map(race_group(sheet["PRIMARY_RACE"]))
