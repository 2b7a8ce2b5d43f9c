"""What every source has in common: the columns of a data set and the table it is prepared from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from datasets import ClassLabel, Features, Image, Value

from ..attributes import AttributeSchema
from ..causal_graph import CausalGraph
from .errors import CXRDataError
from .report import LoadReport

#: Columns that are not attributes; study_id only where the source has one.
IDENTIFIERS = ("image_id", "patient_id", "study_id")
SPLITS = ("train", "validation", "test")
NOT_ATTRIBUTES = frozenset(("file_name", "image", "image_row", "split", *IDENTIFIERS))


def cxr_features(schema: AttributeSchema, *, study_id: bool = False) -> Features:
    """Columns of a data set: `image` (8-bit grey), one per attribute, and the identifiers.

    A continuous attribute is a float32 in its unit, a discrete one a `ClassLabel` with the schema's
    categories in the schema's order; None means unknown in both.
    """
    attributes = {
        a.name: ClassLabel(names=list(a.categories)) if a.is_discrete else Value("float32") for a in schema
    }
    names = IDENTIFIERS if study_id else IDENTIFIERS[:2]
    return Features({"image": Image(mode="L"), **attributes, **{name: Value("string") for name in names}})


def checked_schema(schema: AttributeSchema | Sequence[dict]) -> AttributeSchema:
    """A given schema; raises CXRDataError if an attribute has the name of a column that means something else."""
    schema = schema if isinstance(schema, AttributeSchema) else AttributeSchema(schema)
    if taken := [name for name in schema.names if name in NOT_ATTRIBUTES]:
        raise CXRDataError(
            f"{taken[0]!r} cannot be an attribute: the data set has a column of that name for itself."
        )
    return schema


@dataclass
class SourceTable:
    """The rows of a source before its images are read.

    Attributes:
        rows: one row per image with `image` (the file's path, or that of a parquet file, with the image's
            `image_row`; None was refused), `split`, `image_id`, `patient_id`, `study_id` where there is one, and
            one column per attribute with raw values (units, or class index; NaN is unknown).
        schema: the attributes.
        report: what was left out so far, and why.
        needs_resolution: whether the files cannot be used as they are (16-bit, DICOM) but must be prepared.
        graph: the causal graph over the attributes, where the source tells it.
        inferred: whether the schema is a guess from the values.
    """

    rows: pd.DataFrame
    schema: AttributeSchema
    report: LoadReport
    needs_resolution: bool = False
    graph: CausalGraph | None = None
    inferred: bool = False
