"""What every source has in common: the columns of a data set and the table it is prepared from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets
    import pandas as pd

    from ..attributes import AttributeSchema
    from .report import LoadReport

#: Names that are not attributes; every source gives the first two, study_id only where there is one.
IDENTIFIERS = ("image_id", "patient_id", "study_id")
SPLITS = ("train", "validation", "test")


def cxr_features(schema: AttributeSchema, *, study_id: bool = False) -> datasets.Features:
    """Columns of a data set: `image` (8-bit grey), one per attribute, and the identifiers.

    A continuous attribute is a float32 in its unit, a discrete one a `ClassLabel` with the schema's
    categories in the schema's order; None means unknown in both.
    """
    from datasets import ClassLabel, Features, Image, Value

    columns: dict[str, Any] = {"image": Image(mode="L")}
    for attribute in schema:
        columns[attribute.name] = (
            ClassLabel(names=list(attribute.categories)) if attribute.is_discrete else Value("float32")
        )
    names = IDENTIFIERS if study_id else IDENTIFIERS[:2]
    return Features(columns | {name: Value("string") for name in names})


@dataclass
class SourceTable:
    """The rows of a source before its images are read.

    Attributes:
        rows: a DataFrame with `image_id`, `patient_id`, `split`, optionally `study_id`, and one column per
            attribute holding raw values (units, or class index; NaN is unknown).
        images: as long as `rows`; `images[i]` is the file of row i, or its encoded bytes.
        schema: the attributes.
        report: what was left out so far, and why.
        root: the folder that holds the files, where there is one.
    """

    rows: pd.DataFrame
    images: Sequence[str | bytes]
    schema: AttributeSchema
    report: LoadReport
    root: Path | None = None
