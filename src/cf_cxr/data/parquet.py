"""Radiographs embedded in parquet files, the form of `Dataset.to_parquet` and of data sets on the Hub.

    train.parquet, validation.parquet, test.parquet (or train-00000-of-00002.parquet ...), also in data/

with the columns `image` (bytes), `patient_id`, optionally `image_id` and `study_id`, and the attributes. Instead of
a column `finding` there may be `findings`, a list of labels that is empty where nothing was found, or a text of
labels with `|`, `;` or `,` between them. Labels are compared whole; free text is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..attributes import Attribute, AttributeSchema
from .base import IDENTIFIERS, SPLITS, SourceTable, checked_schema
from .cohort import MISSING, NEGATIVE, SEPARATORS, is_free_text, parse_column, refuse_values, with_finding
from .errors import CXRDataError, MissingDataError
from .report import LoadReport
from .sources import NO_FINDING, default_schema, finding_class
from .tables import check_columns, check_regular_file


def read_parquet(
    folder: Path,
    *,
    report: LoadReport,
    seed: int = 42,
    finding: str = "Effusion",
    other_findings: str = "unknown",
    schema: AttributeSchema | Sequence[dict] | None = None,
) -> SourceTable:
    """The table of a folder of parquet files, which are the splits.

    Arguments and errors are those of every `sources.Source`.

    Args:
        finding: the label that makes an image positive, where there is a column `findings`.
        schema: the attributes; by default age, sex, view and finding.
    """
    schema = checked_schema(default_schema("parquet", finding) if schema is None else schema)
    parts = [
        _read_file(path, schema, finding, report).assign(split=split)
        for split in SPLITS
        for path in split_files(folder, split)
    ]
    if not parts:
        names = ", ".join(f"{split}.parquet" for split in SPLITS)
        raise MissingDataError(f"{folder} has none of the files {names} (also not in data/).")
    rows = pd.concat(parts, ignore_index=True)
    if "findings" in rows:
        if not rows.pop("findings").any():
            raise CXRDataError(f"No image in {folder} has the finding {finding!r}.")
        positive, normal = rows["finding"] == 1, rows["finding"] == 0
        rule = f"neither {finding} nor {NO_FINDING}"
        rows = with_finding(rows, positive, normal, other_findings, rule, report)
    return SourceTable(rows=rows, schema=schema, report=report)


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of one split, in order."""
    for place in (folder, folder / "data"):
        files = sorted([*place.glob(f"{split}.parquet"), *place.glob(f"{split}-*.parquet")])
        if files:
            return files
    return []


def _read_file(path: Path, schema: AttributeSchema, finding: str, report: LoadReport) -> pd.DataFrame:
    check_regular_file(path, "parquet file")
    try:
        wanted = _columns(path, pq.read_schema(path).names, schema)
        table = pq.read_table(path, columns=wanted)
        features = datasets.Features.from_arrow_schema(table.schema)
    except CXRDataError:
        raise
    except (pa.ArrowException, OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise CXRDataError(f"{path} is no readable parquet file: {error}. Copy it again.") from error
    rows = pd.DataFrame({"image": str(path), "image_row": range(table.num_rows)})
    rows["patient_id"] = [str(value) for value in table["patient_id"].to_pylist()]
    names = table["image_id"].to_pylist() if "image_id" in wanted else [None] * len(rows)
    rows["image_id"] = [f"{path.stem}_{i}" if name is None else str(name) for i, name in enumerate(names)]
    if "study_id" in wanted:
        rows["study_id"] = [str(value) for value in table["study_id"].to_pylist()]
    bad = pd.Series(False, index=rows.index)
    for attribute in schema:
        if attribute.name in wanted:
            rows[attribute.name] = _values(table[attribute.name], attribute, features[attribute.name])
            rows[attribute.name], good = parse_column(rows, attribute, str(path), report)
            bad |= ~good
    if "findings" in wanted:
        written = pd.Series(table["findings"].to_pylist(), dtype=object)
        labels = written.map(label_names)
        wanted_name = finding_class(finding).casefold()
        faults = labels.map(lambda names: label_fault(names, wanted_name))
        refuse_values(rows["image_id"], written, faults, str(path), report)
        bad |= faults != ""
        positive = labels.map(lambda names: wanted_name in map(_key, names or ()))
        normal = labels.map(lambda names: names is not None and {*map(_key, names)} <= NEGATIVE)
        rows = with_finding(rows, positive, normal, "unknown", "", report).assign(findings=positive)
    return rows[~bad].reset_index(drop=True)


def label_names(value: Any) -> list[str] | None:
    """The labels of a cell, a list or a text with `|`, `;` or `,` between them; None if they are unknown."""
    if value is None or isinstance(value, str) and value.strip().casefold() in MISSING - {""}:
        return None
    names = SEPARATORS.split(value) if isinstance(value, str) else value
    return [name for name in (str(name).strip() for name in names) if name]


def label_fault(names: list[str] | None, finding: str) -> str:
    """Why these are no labels that can be compared whole with `finding`, or contradict each other; or ""."""
    keys = {*map(_key, names or ())}
    if finding in keys and keys & NEGATIVE:
        return f"findings={'|'.join(names)!r} has {finding!r} and no finding at once; leave one."
    for name in names or ():
        if _key(name) != finding and (
            is_free_text(name) or re.search(rf"\b{re.escape(finding)}\b", name, re.I)
        ):
            return (
                f"findings={name!r} is free text or another wording of {finding!r}. Labels are whole names, in a "
                "list or with '|', ';' or ',' between them; write those, or a column 'finding'."
            )
    return ""


def _key(name: str) -> str:
    return finding_class(name).casefold()


def _columns(path: Path, names: list[str], schema: AttributeSchema) -> list[str]:
    attributes = ["findings" if a == "finding" and "finding" not in names else a for a in schema.names]
    remedy = " Pass schema=... to choose other attributes."
    check_columns(path, ("image", "patient_id", *attributes), names, remedy)
    return attributes + [name for name in IDENTIFIERS if name in names]


def _values(column: pa.ChunkedArray, attribute: Attribute, feature: Any) -> pd.Series:
    """Human values. A number whose class the file does not name is no class: 0 may be anybody's Female."""
    values = column.to_pylist()
    if isinstance(feature, datasets.ClassLabel):
        names = dict(enumerate(feature.names))
        values = [None if value is None or value < 0 else names.get(value, str(value)) for value in values]
    elif attribute.is_discrete:
        values = [None if value is None else str(value) for value in values]
    return pd.Series(values, dtype=object)
