"""NIH ChestX-ray14, as the NIH Clinical Center publishes it (https://nihcc.app.box.com/v/ChestXray-NIHCC).

Data_Entry_2017.csv or Data_Entry_2017_v2020.csv
train_val_list.txt, test_list.txt
images_001/images/*.png ... images_012/images/*.png, or all in images/
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .base import SourceTable
from .cohort import canonical_finding, class_index, known_age, refuse, with_finding
from .errors import MissingDataError
from .report import LoadReport
from .sources import NO_FINDING, default_schema
from .splits import DEFAULT_FRACTIONS, carve_validation, choose_splits
from .tables import find_file, read_table

NAME = "NIH ChestX-ray14"
COLUMNS = "Image Index, Finding Labels, Patient ID, Patient Age, Patient Gender, View Position".split(", ")
FINDINGS = (
    "Atelectasis, Cardiomegaly, Consolidation, Edema, Effusion, Emphysema, Fibrosis, Hernia, Infiltration, Mass, "
    "Nodule, Pleural_Thickening, Pneumonia, Pneumothorax"
).split(", ")
YEARS_PER_UNIT = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def read_nih_cxr14(
    folder: Path,
    *,
    report: LoadReport,
    seed: int = 42,
    finding: str = "Effusion",
    other_findings: str = "unknown",
    splits: str = "official",
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
) -> SourceTable:
    """The table of NIH ChestX-ray14; arguments and errors are those of every `sources.Source`.

    Args:
        finding: one of `FINDINGS`; set against "No Finding".
        splits: "official" follows the two lists and takes a tenth of the patients of `train_val_list.txt` for
            validation.
    """
    finding = canonical_finding(finding, FINDINGS, NAME)
    table = find_file([folder], ["Data_Entry_2017*.csv"], f"The table of {NAME}")
    data = read_table(table, COLUMNS)
    patients = data["Patient ID"]
    official = choose_splits(splits, patients, fractions, seed, lambda: _official(folder, data, seed))
    labels = data["Finding Labels"].fillna("").str.split("|")
    rows = pd.DataFrame(
        {
            "image_id": data["Image Index"].str.removesuffix(".png"),
            "patient_id": patients,
            "age": known_age(parse_age(data["Patient Age"]), report),
            "sex": class_index(data["Patient Gender"], "MF"),
            "view": class_index(data["View Position"], ("PA", "AP")),
            "finding": labels,
            "split": official,
            "image": find_images(folder, data["Image Index"]),
        }
    )
    absent = f"is in {table.name} but not in the image folders of {folder}."
    rows = refuse(rows, rows["image"].isna(), absent, report, MissingDataError)
    rows = refuse(rows, rows["split"].isna(), "is in neither train_val_list.txt nor test_list.txt.", report)
    positive = rows["finding"].map(lambda names: finding in names)
    normal = rows["finding"].map(lambda names: names == [NO_FINDING])
    rule = f"neither {finding} nor {NO_FINDING}"
    rows = with_finding(rows, positive, normal, other_findings, rule, report)
    return SourceTable(rows=rows, schema=default_schema("nih_cxr14", finding), report=report)


def parse_age(text: pd.Series) -> pd.Series:
    """Ages in years from `"58"` or, in the first release, `"058Y"`, `"010M"`, `"021D"`; else NaN."""
    parts = text.astype(str).str.strip().str.extract(r"^(\d+(?:\.\d*)?)\s*([YMWDymwd]?)$")
    unit = parts[1].str.upper().replace("", "Y").map(YEARS_PER_UNIT)
    return pd.to_numeric(parts[0], errors="coerce") * unit


def find_images(folder: Path, names: pd.Series) -> list[str | None]:
    """The path of every image, or None; only files that were found below `folder` are ever named."""
    places = sorted(folder.glob("images*/images")) + sorted(folder.glob("images*"))
    index: dict[str, str] = {}
    for place in places:
        for path in place.glob("*.png"):
            index.setdefault(path.name, str(path))
    if not index:
        raise MissingDataError(
            f"{folder} has no PNG files in images/ or images_001/images/ ... images_012/images/. "
            "Unpack images_001.tar.gz and so on there."
        )
    return [index.get(name) for name in names]


def _official(folder: Path, data: pd.DataFrame, seed: int) -> np.ndarray:
    result = np.full(len(data), None, dtype=object)
    for file, name in (("train_val_list.txt", "train"), ("test_list.txt", "test")):
        path = folder / file
        if not path.is_file():
            raise MissingDataError(
                f'{path} is missing; it holds the official split. Download it, or pass splits="patient".'
            )
        result[data["Image Index"].isin(path.read_text(encoding="utf-8").split()).to_numpy()] = name
    return carve_validation(result, data["Patient ID"], seed=seed)
