"""Any folder of images with a `metadata.csv`.

`metadata.csv` has a column `file_name` (a path below the folder) and one column per attribute; an empty cell is
an unknown value. Optional columns: `patient_id` (without it every image counts as a patient), `study_id`,
`image_id`, `split` (train, validation, test). An optional `schema.json` says what the columns mean:

    {"attributes": [{"name": "age", "kind": "continuous", "minimum": 0, "maximum": 100, "unit": "years"},
                    {"name": "device", "kind": "binary", "categories": ["absent", "present"]}],
     "graph": {"age": [], "device": ["age"]}}

Without it the attributes are inferred from the values.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .base import IDENTIFIERS, SPLITS, SourceTable
from .cohort import parse_values, refuse
from .errors import BadRowError, CXRDataError, MissingDataError
from .report import LoadReport
from .schemas import DEFAULT_ATTRIBUTES
from .splits import DEFAULT_FRACTIONS, split_by_patient
from .tables import path_inside, read_columns, read_table

if TYPE_CHECKING:
    from ..attributes import Attribute, AttributeSchema
    from ..causal_graph import CausalGraph

METADATA = "metadata.csv"
SCHEMA = "schema.json"
MAX_CATEGORIES = 20
NOT_ATTRIBUTES = frozenset(("file_name", "split", *IDENTIFIERS))
NEGATIVE = frozenset(("no finding", "normal", "none", "negative", "absent", "no", "false", "0"))
SEX_LETTERS = {"m": "Male", "f": "Female"}
SPLIT_NAMES = {name: name for name in SPLITS} | dict.fromkeys(("val", "valid", "validate"), "validation")

logger = logging.getLogger(__name__)


def read_folder(
    folder: Path,
    *,
    report: LoadReport,
    seed: int = 42,
    schema: AttributeSchema | Sequence[dict] | None = None,
    attributes: Sequence[str] | None = None,
    splits: str | None = None,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
) -> SourceTable:
    """The table of a folder with `metadata.csv`.

    Args:
        folder: holds `metadata.csv` and the images.
        report: gets what is left out.
        seed: for the division of patients.
        schema: what the columns mean; by default `schema.json`, or else `infer_schema`.
        attributes: the columns to use when the schema is inferred.
        splits: "official" follows the column `split`, "patient" divides all patients by `fractions`; the
            default is "official" where there is such a column.
        fractions: parts for train, validation and test.

    Raises:
        MissingDataError: no metadata.csv, or a column is missing.
        BadRowError: a value that the attribute cannot take, or a file name that leads outside the folder.
    """
    from ..attributes import AttributeSchema

    path = metadata_file(folder)
    if schema is None:
        schema, _ = folder_schema(folder, attributes)
    elif not isinstance(schema, AttributeSchema):
        schema = AttributeSchema(schema)
    there = read_columns(path)
    extra = [name for name in (*IDENTIFIERS, "split") if name in there]
    data = read_table(path, ["file_name", *schema.names, *extra])
    if data.empty:
        raise CXRDataError(f"{path} has no rows.")
    data = _with_identifiers(data, path)
    data["split"] = _splits(data, path, splits, fractions, seed)
    bad = ~data["split"].isin(SPLITS)
    data = refuse(data, bad, f"its split in {path} is none of {', '.join(SPLITS)}.", report)
    for attribute in schema:
        raw, messages = parse_values(_aliases(data[attribute.name], attribute.name), attribute)
        data[attribute.name], good = raw, messages == ""
        for image, message in zip(data["image_id"][~good], messages[~good]):
            report.refuse(str(image), f"{path}, image {image}: {message}")
        data = data[good].reset_index(drop=True)
    rows = _with_files(data, folder, path, report)
    dicom = rows["image"].str.lower().str.endswith((".dcm", ".dicom")).any()
    return SourceTable(rows=rows, schema=schema, report=report, needs_resolution=bool(dicom))


def metadata_file(folder: Path) -> Path:
    """`metadata.csv` of a folder; raises MissingDataError."""
    path = Path(folder) / METADATA
    if not path.is_file():
        raise MissingDataError(
            f"{folder} has no {METADATA}. Write one with a column file_name and one column per attribute."
        )
    return path


def folder_schema(
    folder: str | Path, attributes: Sequence[str] | None = None
) -> tuple[AttributeSchema, CausalGraph]:
    """The attributes and graph of a folder: from `schema.json`, or inferred.

    The inferred graph has age as a parent of finding where there are both, and else roots only.
    """
    from ..attributes import AttributeSchema
    from ..causal_graph import CausalGraph

    path = Path(folder) / SCHEMA
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            schema = AttributeSchema(content["attributes"])
            graph = CausalGraph(content.get("graph") or _default_graph(schema), schema.names)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CXRDataError(
                f"{path} is not as it should be ({type(error).__name__}: {error}). It needs "
                '{"attributes": [{"name": ..., "kind": ...}, ...], "graph": {name: [parents], ...}}.'
            ) from error
        return schema, graph
    schema = infer_schema(folder, attributes)
    return schema, CausalGraph(_default_graph(schema))


def _default_graph(schema: AttributeSchema) -> dict[str, list[str]]:
    graph: dict[str, list[str]] = {name: [] for name in schema.names}
    if "age" in graph and "finding" in graph:
        graph["finding"] = ["age"]
    return graph


def infer_schema(folder: str | Path, attributes: Sequence[str] | None = None) -> AttributeSchema:
    """Attributes from the values in `metadata.csv`.

    Columns named age, sex, view or race whose values fit are the package's usual attributes. Of the others,
    numbers are continuous over the range that occurs (0 and 1 alone: binary), text with two values is binary
    and with up to 20 values categorical; text with more values is no attribute, which is logged.

    Raises:
        CXRDataError: no column can be an attribute, or one of `attributes` cannot.
    """
    from ..attributes import AttributeSchema

    path = metadata_file(Path(folder))
    names = [name for name in read_columns(path) if name not in NOT_ATTRIBUTES]
    data = read_table(path, list(attributes) if attributes is not None else names)
    found: list[Attribute] = []
    for name in data.columns:
        attribute = _infer(name, data[name])
        if attribute is not None:
            found.append(attribute)
        elif attributes is not None:
            raise CXRDataError(
                f"{path}: the column {name!r} cannot be an attribute; it has {data[name].nunique()} "
                f"different values. Describe it in {SCHEMA}."
            )
        else:
            logger.warning("%s: the column %r is not used, it cannot be an attribute.", path, name)
    if not found:
        raise CXRDataError(f"{path} has no column that can be an attribute; it has {', '.join(names)}.")
    return AttributeSchema(found)


def _infer(name: str, column: pd.Series) -> Attribute | None:
    from ..attributes import Attribute

    usual = next((Attribute(**a) for a in DEFAULT_ATTRIBUTES if a["name"] == name), None)
    if usual is not None and (parse_values(_aliases(column, name), usual)[1] == "").all():
        return usual
    values = column.dropna().str.strip()
    numbers = pd.to_numeric(values, errors="coerce")
    if len(values) and numbers.notna().all() and numbers.nunique() > 1:
        if set(values) <= {"0", "1"}:
            return Attribute(name, "binary", categories=("0", "1"))
        return Attribute(name, "continuous", minimum=float(numbers.min()), maximum=float(numbers.max()))
    categories = sorted(values.unique(), key=lambda text: (text.casefold() not in NEGATIVE, text.casefold()))
    distinct = len({text.casefold() for text in categories})
    if distinct != len(categories) or not 2 <= distinct <= MAX_CATEGORIES:
        return None
    return Attribute(name, "binary" if distinct == 2 else "categorical", categories=tuple(categories))


def _aliases(column: pd.Series, name: str) -> pd.Series:
    if name != "sex":
        return column
    return column.map(lambda value: SEX_LETTERS.get(value.strip().casefold(), value), na_action="ignore")


def _with_identifiers(data: pd.DataFrame, path: Path) -> pd.DataFrame:
    data = data.copy()
    if data["file_name"].isna().any():
        row = int(data["file_name"].isna().to_numpy().argmax()) + 2
        raise CXRDataError(f"{path}, line {row}: the file_name is empty.")
    if "image_id" not in data:
        data["image_id"] = data["file_name"]
    if "patient_id" not in data:
        logger.warning(
            "%s has no column patient_id: every image counts as a patient of its own, so images of one "
            "patient may end up in several splits.",
            path,
        )
        data["patient_id"] = data["file_name"]
    elif data["patient_id"].isna().any():
        name = data["file_name"][data["patient_id"].isna()].iloc[0]
        raise CXRDataError(f"{path}: {name} has no patient_id. Give one to every image, or to none.")
    return data


def _splits(data: pd.DataFrame, path: Path, splits: str | None, fractions, seed: int):
    if splits not in (None, "official", "patient"):
        raise CXRDataError(f"splits={splits!r}: choose 'official' or 'patient'.")
    if splits == "official" and "split" not in data:
        raise MissingDataError(f"{path} has no column 'split', which splits='official' needs.")
    if splits == "patient" or "split" not in data:
        return split_by_patient(data["patient_id"], fractions, seed)
    return data["split"].str.strip().str.lower().map(SPLIT_NAMES)


def _with_files(data: pd.DataFrame, folder: Path, path: Path, report: LoadReport) -> pd.DataFrame:
    files: list[str | None] = []
    for name in data.pop("file_name"):
        try:
            files.append(str(path_inside(folder, name, path)))
        except BadRowError as error:
            report.refuse(name, str(error))
            files.append(None)
    data["image"] = files
    return data[data["image"].notna()].reset_index(drop=True)
