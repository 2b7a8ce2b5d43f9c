"""Any folder of images with a `metadata.csv`.

`metadata.csv` has a column `file_name` (a path below the folder) and one column per attribute; an empty cell is
an unknown value (of a finding: "No Finding", where one other label is all that is written). Optional columns:
`patient_id` (without it every image counts as a patient), `study_id`, `image_id`, `split` (train, validation, test).
An optional `schema.json` says what the columns mean:

    {"attributes": [{"name": "age", "kind": "continuous", "minimum": 0, "maximum": 100, "unit": "years"},
                    {"name": "device", "kind": "binary", "categories": ["absent", "present"]}],
     "graph": {"age": [], "device": ["age"]}}

Without it the attributes are inferred from the values.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from ..attributes import MAX_NUMBER, Attribute, AttributeSchema
from ..causal_graph import CausalGraph
from ..files import DICOM_SUFFIXES
from .base import IDENTIFIERS, NOT_ATTRIBUTES, SPLITS, SourceTable, checked_schema
from .cohort import NEGATIVE, SEPARATORS, is_free_text, is_missing, listed, parse_column, refuse
from .errors import CXRDataError, MissingDataError
from .report import LoadReport
from .sources import NO_FINDING, SEXES, SHARED, default_graph
from .splits import DEFAULT_FRACTIONS, choose_splits
from .tables import check_columns, check_regular_file, file_inside, read_table

METADATA = "metadata.csv"
SCHEMA = "schema.json"
MAX_CATEGORIES = 20
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
    """The table of a folder with `metadata.csv`; arguments and errors are those of every `sources.Source`.

    Args:
        schema: what the columns mean; by default `schema.json`, or else `infer_schema`.
        attributes: the columns to use when the schema is inferred.
        splits: "official" follows the column `split`, and is the default where there is one.
    """
    path, data = _metadata(folder)
    graph, inferred = None, schema is None and not (folder / SCHEMA).exists()
    if schema is None:
        schema, graph = folder_schema(folder, attributes)
    schema = checked_schema(schema)
    check_columns(path, schema.names, data.columns)
    if data["file_name"].isna().any():
        row = int(data["file_name"].isna().to_numpy().argmax()) + 2
        raise CXRDataError(f"{path}, line {row}: the file_name is empty.")
    data["image_id"] = data["image_id"].fillna(data["file_name"]) if "image_id" in data else data["file_name"]
    if "patient_id" not in data:
        logger.warning(
            "%s has no column patient_id: every image counts as a patient of its own, so images of one "
            "patient may end up in several splits.",
            path,
        )
        data["patient_id"] = data["file_name"]
    if splits == "official" and "split" not in data:
        raise MissingDataError(f"{path} has no column 'split', which splits='official' needs.")
    splits = splits or ("official" if "split" in data else "patient")
    data["split"] = choose_splits(
        splits, data["patient_id"], fractions, seed, lambda: data["split"].str.lower().map(SPLIT_NAMES)
    )
    bad = ~data["split"].isin(SPLITS)
    data = refuse(data, bad, f"its split in {path} is none of {', '.join(SPLITS)}.", report)
    remedy = f" Correct them, describe the column in {SCHEMA}, or choose other columns with attributes=[...]."
    for attribute in schema:
        data[attribute.name] = _aliases(data[attribute.name], attribute, report)
        data[attribute.name], good = parse_column(data, attribute, str(path), report, remedy)
        data = data[good].reset_index(drop=True)
    names = data["file_name"]
    data["image"] = [file_inside(folder, name, path, name, report) for name in names]
    columns = [name for name in ("image", "split", *IDENTIFIERS) if name in data]
    return SourceTable(
        rows=data[[*columns, *schema.names]],
        schema=schema,
        report=report,
        needs_resolution=bool(names.str.lower().str.endswith(DICOM_SUFFIXES).any()),
        graph=graph,
        inferred=inferred,
    )


def _metadata(folder: Path) -> tuple[Path, pd.DataFrame]:
    """`metadata.csv` of a folder, and its cells; raises MissingDataError."""
    path = folder / METADATA
    if not path.exists():
        raise MissingDataError(
            f"{folder} has no {METADATA}. Write one with a column file_name and one column per attribute."
        )
    data = read_table(path)
    check_columns(path, ["file_name"], data.columns)
    if data.empty:
        raise CXRDataError(f"{path} has no rows.")
    return path, data


def folder_schema(
    folder: str | Path, attributes: Sequence[str] | None = None
) -> tuple[AttributeSchema, CausalGraph]:
    """The attributes and graph of a folder: from `schema.json`, or inferred.

    The inferred graph has age as a parent of finding where there are both, and else roots only.
    """
    path = Path(folder) / SCHEMA
    if path.exists():
        check_regular_file(path, "schema")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if odd := sorted(set(content) - {"attributes", "graph"}):
                raise ValueError(f"unknown key {odd[0]!r}")
            schema = AttributeSchema(content["attributes"])
            graph = content.get("graph")
            graph = CausalGraph(graph, schema.names) if graph else default_graph(schema.names)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CXRDataError(
                f"{path} is not as it should be ({type(error).__name__}: {error}). It needs "
                '{"attributes": [{"name": ..., "kind": ...}, ...], "graph": {name: [parents], ...}}.'
            ) from error
        return schema, graph
    schema = infer_schema(folder, attributes)
    return schema, default_graph(schema.names)


def infer_schema(folder: str | Path, attributes: Sequence[str] | None = None) -> AttributeSchema:
    """Attributes from the values in `metadata.csv`.

    Columns named age, sex, view and race are the package's usual attributes, and a column named finding has one
    label per image. Of the others, numbers are continuous over the range that occurs (0 and 1 alone: binary), text
    with two values is binary and with up to 20 values categorical; text with more values is no attribute, which is
    logged. Text that stands for an unknown value (NA, ?, unknown, ...) is no value.

    Raises:
        CXRDataError: no column can be an attribute; one of `attributes`, or a column named age, sex, view, race or
            finding, cannot; or a column has such a name in another spelling.
    """
    path, data = _metadata(Path(folder))
    names = [name for name in data.columns if name not in NOT_ATTRIBUTES]
    meanings = (*NOT_ATTRIBUTES, *SHARED, "finding")
    chosen = names if attributes is None else attributes
    check_columns(path, chosen, data.columns)
    for name in chosen:
        if name not in meanings and (meant := name.casefold().replace(" ", "_")) in meanings:
            raise CXRDataError(
                f"{path}: is the column {name!r} what this package calls {meant!r}? Rename it."
            )
    found: list[Attribute] = []
    for name in chosen:
        known = ~is_missing(data[name])
        values, images = data[name][known], data["file_name"][known]
        attribute, fault = _infer(name, values, images, bool(data[name].isna().any()))
        if attribute is not None:
            found.append(attribute)
        elif attributes is not None or name == "finding" or name in SHARED:
            raise CXRDataError(
                f"{path}: the column {name!r} cannot be an attribute: {fault}. Correct it, describe it in "
                f"{SCHEMA}, or choose other columns with attributes=[...]."
            )
        else:
            logger.warning("%s: the column %r is not used: %s.", path, name, fault)
    if not found:
        raise CXRDataError(f"{path} has no column that can be an attribute; it has {', '.join(names)}.")
    return AttributeSchema(found)


def _infer(name: str, values: pd.Series, images: pd.Series, blank: bool) -> tuple[Attribute | None, str]:
    """What a column with these known values is, or why it is no attribute."""
    if values.empty:
        return None, "it has no known value"
    if name in SHARED:
        return SHARED[name], ""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    if numbers.notna().all() and numbers.nunique() > 1:
        if (bad := numbers.abs() > MAX_NUMBER).any():
            return None, f"no range holds {listed(values[bad], images[bad])}"
        if set(numbers) == {0, 1}:
            return Attribute(name, "binary", categories=("0", "1")), ""
        if name == "finding":
            return None, f"a finding has classes, not numbers such as {listed(values, images)}"
        return Attribute(name, "continuous", minimum=float(numbers.min()), maximum=float(numbers.max())), ""
    classes = {text.casefold(): text for text in reversed(values.unique())}  # as spelt first
    if name in ("finding", "findings"):
        odd = values.map(
            lambda text: (
                bool(SEPARATORS.search(text))
                or is_free_text(text)
                and not _is_negative(text.casefold(), classes)
            )
        )
        if odd.any():
            return None, f"one label per image is needed, not {listed(values[odd], images[odd])}"
        if len(classes) == 1 and blank and numbers.isna().all() and not classes.keys() <= NEGATIVE:
            return Attribute(name, "binary", categories=(NO_FINDING, *classes.values())), ""
    if not 2 <= len(classes) <= MAX_CATEGORIES:
        number = "one value only" if len(classes) == 1 else f"{len(classes)} different values"
        values = values.drop_duplicates()
        return None, f"it has {number}, {listed(values, images[values.index])}"
    ordered = sorted(classes, key=lambda text: (not _is_negative(text, classes), text))
    kind = "binary" if len(classes) == 2 else "categorical"
    return Attribute(name, kind, categories=tuple(classes[text] for text in ordered)), ""


def _is_negative(text: str, classes: Collection[str]) -> bool:
    return text in NEGATIVE or text.startswith("no ") and text[3:] in classes


def _aliases(column: pd.Series, attribute: Attribute, report: LoadReport) -> pd.Series:
    """The column with M and F written out; blank findings become "No Finding" beside one finding alone."""
    if attribute.name == "sex" and attribute.categories == SEXES:
        return column.map(lambda value: SEX_LETTERS.get(value.casefold(), value), na_action="ignore")
    if attribute.name == "finding" and attribute.categories[:1] == (NO_FINDING,) and attribute.n_classes == 2:
        values = column[~is_missing(column)].str.casefold()
        if (values == attribute.categories[1].casefold()).all():
            reason = (
                f"blank findings read as {NO_FINDING!r}, as the column has {attribute.categories[1]!r} alone"
            )
            report.alter(reason, column.isna().sum())
            return column.fillna(NO_FINDING)
    return column
