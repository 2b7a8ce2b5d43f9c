"""PadChest, as BIMCV publishes it.

PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv (or .csv.gz)
<ImageDir>/<ImageID> (folders 0 ... 54), or all images in one folder (here, or in images/)
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from .base import SourceTable
from .cohort import class_index, keep, known_age, refuse, to_number, with_finding
from .errors import CXRDataError
from .report import LoadReport
from .sources import default_schema
from .splits import DEFAULT_FRACTIONS, split_by_patient
from .tables import file_inside, find_file, read_table

NAME = "PadChest"
COLUMNS = (
    "ImageID, ImageDir, StudyDate_DICOM, StudyID, PatientID, PatientBirth, PatientSex_DICOM, Projection, Labels"
).split(", ")
VIEWS = {"PA": 0, "AP": 1, "AP_horizontal": 1}
NORMAL = "normal"


def read_padchest(
    folder: Path,
    *,
    report: LoadReport,
    seed: int = 42,
    finding: str = "pleural effusion",
    other_findings: str = "unknown",
    splits: str = "patient",
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
) -> SourceTable:
    """The table of PadChest: PA and AP (also supine, "AP_horizontal") images.

    Age is the year of the study minus the year of birth. The finding, a label in any case, is present where
    `Labels` has it and absent where `Labels` is "normal" alone. The images are 16-bit, so they need a resolution.
    Arguments and errors are those of every `sources.Source`; the owners publish no split.
    """
    if splits != "patient":
        raise CXRDataError(f"splits={splits!r}: {NAME} has no official split, choose 'patient'.")
    patterns = ["PADCHEST_chest_x_ray_images_labels*.csv", "PADCHEST_chest_x_ray_images_labels*.csv.gz"]
    table = find_file([folder], patterns, f"The table of {NAME}")
    data = read_table(table, COLUMNS).rename(columns={"ImageID": "image_id"})
    data = refuse(
        data, data["image_id"].isna() | data["PatientID"].isna(), "no ImageID or PatientID.", report
    )
    data["split"] = split_by_patient(data["PatientID"], fractions, seed)
    data = keep(data, data["Projection"].isin(list(VIEWS)), "views other than PA and AP", report)
    data = keep(data, data["Labels"].notna(), "no labels", report)
    labels = data["Labels"].map(parse_labels)
    data = refuse(data.assign(labels=labels), labels.isna(), "its Labels are no list of words.", report)
    wanted = "pleural effusion" if finding.strip().casefold() == "effusion" else finding.strip().casefold()
    positive = data["labels"].map(lambda names: wanted in names).astype(bool)
    if not positive.any():
        known = sorted(set().union(*data["labels"])) if len(data) else []
        raise CXRDataError(
            f"No image of {table} has the label {wanted!r}. Some it has: {', '.join(known[:40])}."
        )
    normal = data["labels"].map(lambda names: names == {NORMAL})
    data = with_finding(data, positive, normal, other_findings, f"neither {wanted} nor {NORMAL}", report)
    study_year = to_number(data["StudyDate_DICOM"].str.slice(0, 4))
    rows = pd.DataFrame(
        {
            "image": _files(data, folder, table, report),
            "image_id": data["image_id"].str.removesuffix(".png"),
            "patient_id": data["PatientID"],
            "study_id": data["StudyID"],
            "split": data["split"],
            "age": known_age(study_year - to_number(data["PatientBirth"]), report),
            "sex": class_index(data["PatientSex_DICOM"], "MF"),
            "view": class_index(data["Projection"], VIEWS),
            "finding": data["finding"],
        }
    )
    schema = default_schema("padchest", finding)
    return SourceTable(rows=rows, schema=schema, report=report, needs_resolution=True)


def parse_labels(text: str) -> set[str] | None:
    """`"['pleural effusion', 'normal']"` to a set of lower-case labels; None if it is no such list."""
    try:
        labels = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return None
    return {label.strip().casefold() for label in labels} - {""}


def _files(data: pd.DataFrame, folder: Path, table: Path, report: LoadReport) -> list[str | None]:
    flat = folder / "images" if (folder / "images").is_dir() else folder
    files = []
    for name, place in zip(data["image_id"], data["ImageDir"].fillna("").str.removesuffix(".0")):
        file = file_inside(folder, f"{place}/{name}" if place else name, table, name, report)
        if file and not (place and Path(file).parent.is_dir()):
            file = file_inside(flat, name, table, name, report)
        files.append(file)
    return files
