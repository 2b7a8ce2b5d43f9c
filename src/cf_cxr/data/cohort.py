"""Who is in a cohort, and what the owners' labels mean as attribute values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .errors import BadRowError, CXRDataError
from .schemas import RACES

if TYPE_CHECKING:
    from ..attributes import Attribute
    from .report import LoadReport


def keep(rows: pd.DataFrame, condition: pd.Series, rule: str, report: LoadReport) -> pd.DataFrame:
    """The rows that meet a condition; the others are counted in the report under `rule`."""
    report.leave_out(rule, (~condition).sum())
    return rows[condition].reset_index(drop=True)


def refuse(
    rows: pd.DataFrame,
    bad: pd.Series,
    reason: str,
    report: LoadReport,
    error: type[CXRDataError] = BadRowError,
) -> pd.DataFrame:
    """The rows that are not bad; each of the others is refused, by its `image_id` and the reason."""
    for name in rows.loc[bad, "image_id"]:
        report.refuse(str(name), f"{name}: {reason}", error)
    return rows[~bad].reset_index(drop=True)


def drop_other_findings(option: str) -> bool:
    """Whether images with other findings only are dropped; raises CXRDataError for an unknown option."""
    if option not in ("unknown", "drop"):
        raise CXRDataError(f"other_findings={option!r}: choose 'unknown' (keep, finding None) or 'drop'.")
    return option == "drop"


def canonical_finding(finding: str, findings: Sequence[str], source: str) -> str:
    """The owner's spelling of a finding, in any case and with or without "Pleural "; raises CXRDataError."""

    def key(name: str) -> str:
        return name.strip().casefold().replace("_", " ").removeprefix("pleural ")

    for name in findings:
        if key(finding) == key(name):
            return name
    raise CXRDataError(f"{source} has no finding {finding!r}; choose one of {', '.join(findings)}.")


def race_group(recorded: pd.Series) -> pd.Series:
    """Race as recorded ("WHITE - RUSSIAN", "Black or African American") to White, Asian, Black or Other."""
    text = recorded.fillna("").str.strip().str.upper()
    conditions = [text.str.startswith(race.upper()) for race in RACES]
    return pd.Series(np.select(conditions, RACES, default="Other"), index=recorded.index)


def class_index(labels: pd.Series, index_of: dict[str, int]) -> pd.Series:
    """Text labels to class indices, NaN for labels that are not listed."""
    return labels.str.strip().map(index_of).astype("float64")


def to_number(column: pd.Series) -> pd.Series:
    """Text to numbers; what is none becomes NaN."""
    return pd.to_numeric(column, errors="coerce").astype("float64")


def known_age(age: pd.Series, report: LoadReport, maximum: float = 100.0) -> pd.Series:
    """Ages in years; those below 0 or above `maximum` are impossible, become unknown, and are reported."""
    impossible = (age < 0) | (age > maximum)
    report.alter(f"impossible ages (below 0 or above {maximum:g} years) set to unknown", impossible.sum())
    return age.mask(impossible)


def finding_from_labels(positive: pd.Series, normal: pd.Series) -> pd.Series:
    """1 where the finding is there, else 0 where nothing was found, else NaN (some other finding)."""
    return pd.Series(np.where(positive, 1.0, np.where(normal, 0.0, np.nan)), index=positive.index)


def parse_values(column: pd.Series, attribute: Attribute) -> tuple[pd.Series, pd.Series]:
    """Human values of one attribute to raw ones.

    Returns:
        raw values (NaN where the cell is empty or cannot be read), and an error message per row ("" if good).
    """
    values: dict[Any, tuple[float, str]] = {}
    for value in column.dropna().unique():
        try:
            values[value] = (attribute.parse(value), "")
        except ValueError as error:
            values[value] = (np.nan, str(error))
    raw = column.map(lambda v: values[v][0] if v in values else np.nan).astype("float64")
    messages = column.map(lambda v: values[v][1] if v in values else "")
    return raw, messages
