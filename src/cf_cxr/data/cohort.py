"""Who is in a cohort, and what the owners' labels mean as attribute values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..attributes import Attribute
from .errors import BadRowError, CXRDataError
from .report import LoadReport
from .sources import NO_FINDING, RACES

#: Text, in any case, that stands for an unknown value (unless it is a class of the attribute).
MISSING = frozenset(
    ("", "nan", "na", "n/a", "n.a.", "<na>", "#n/a", "null", "?", ".", "-", "--", "missing", "unknown")
)
#: Text, in lower case, that says that nothing was found.
NEGATIVE = frozenset(("no finding", "normal", "none", "negative", "absent", "no", "false", "0"))
#: The labels of the CheXpert labeller, which MIMIC-CXR-JPG has too.
CHEXPERT_LABELS = (
    "Atelectasis, Cardiomegaly, Consolidation, Edema, Enlarged Cardiomediastinum, Fracture, Lung Lesion, "
    "Lung Opacity, Pleural Effusion, Pleural Other, Pneumonia, Pneumothorax, Support Devices"
).split(", ")
#: What divides labels in one text.
SEPARATORS = re.compile(r"[|;,]")
_NEGATED = re.compile(r"\b(no|not|without|absent|negative|ruled out|denie[sd]|free of)\b", re.I)


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


def class_index(labels: pd.Series, classes: Mapping[str, int] | Sequence[str]) -> pd.Series:
    """Text labels to class indices (of a list: their places), NaN for labels that are not listed."""
    if not isinstance(classes, Mapping):
        classes = {name: index for index, name in enumerate(classes)}
    return labels.str.strip().map(classes).astype("float64")


def to_number(column: pd.Series) -> pd.Series:
    """Text to numbers; what is none becomes NaN."""
    return pd.to_numeric(column, errors="coerce").astype("float64")


def known_age(age: pd.Series, report: LoadReport, maximum: float = 100.0) -> pd.Series:
    """Ages in years; those below 0 or above `maximum` are impossible, become unknown, and are reported."""
    impossible = (age < 0) | (age > maximum)
    report.alter(f"impossible ages (below 0 or above {maximum:g} years) set to unknown", impossible.sum())
    return age.mask(impossible)


def with_finding(
    rows: pd.DataFrame,
    positive: pd.Series,
    normal: pd.Series,
    other_findings: str,
    rule: str,
    report: LoadReport,
) -> pd.DataFrame:
    """The rows with `finding`: 1 where it is there, else 0 where nothing was found, else NaN or, on demand, left out.

    Args:
        rows: one row per image.
        positive, normal: whether the finding is there; whether nothing was found.
        other_findings: images that are neither have an "unknown" finding, or "drop" them.
        rule: what "drop" is called in the report.
        report: gets what is left out.
    """
    if other_findings not in ("unknown", "drop"):
        raise CXRDataError(
            f"other_findings={other_findings!r}: choose 'unknown' (keep, finding None) or 'drop'."
        )
    rows = rows.assign(finding=np.where(positive, 1.0, np.where(normal, 0.0, np.nan)))
    return rows if other_findings == "unknown" else keep(rows, rows["finding"].notna(), rule, report)


def with_chexpert_finding(
    rows: pd.DataFrame, finding: str, other_findings: str, report: LoadReport
) -> pd.DataFrame:
    """`with_finding` of the labeller's columns: present where it is 1, absent where "No Finding" is 1."""
    positive, normal = to_number(rows[finding]) == 1, to_number(rows[NO_FINDING]) == 1
    return with_finding(rows, positive, normal, other_findings, f"neither {finding} nor {NO_FINDING}", report)


def is_missing(values: pd.Series) -> pd.Series:
    """Where there is no value, or only text that stands for none."""
    return values.isna() | values.astype(str).str.strip().str.casefold().isin(MISSING)


def parse_column(
    rows: pd.DataFrame, attribute: Attribute, where: str, report: LoadReport, remedy: str = ""
) -> tuple[pd.Series, pd.Series]:
    """Human values of one attribute to raw ones; those it cannot take are refused, with their `image_id`.

    Returns:
        raw values (NaN where unknown or refused), and which rows are good.
    """
    column = rows[attribute.name]
    classes = [name.casefold() for name in attribute.categories]
    known = ~is_missing(column) | column.astype(str).str.strip().str.casefold().isin(classes)
    values: dict[Any, float] = {}
    faults: dict[Any, str] = {}
    for value in column[known].unique():
        try:
            values[value] = attribute.parse(value)
        except ValueError as error:
            faults[value] = str(error)
    raw = column.map(values).astype("float64")
    messages = column.map(lambda value: faults.get(value, ""))
    refuse_values(rows["image_id"], column, messages, where, report, remedy)
    return raw, messages == ""


def refuse_values(
    images: pd.Series,
    values: pd.Series,
    messages: pd.Series,
    where: str,
    report: LoadReport,
    remedy: str = "",
) -> None:
    """Refuses the rows with a message; where that stops the call, the first five are named at once."""
    bad = messages != ""
    others = "" if bad.sum() < 2 else f" Also {listed(values[bad][1:], images[bad][1:])}."
    for image, message in zip(images[bad], messages[bad]):
        reason = f"{where}, image {image}: {message}"
        report.refuse(str(image), f"{reason}{others}{remedy}" if report.on_error == "raise" else reason)


def listed(values: pd.Series, images: pd.Series, number: int = 4) -> str:
    """The first values with their images, for a message."""
    first = [f"{value!r:.80} ({image})" for value, image in zip(values[:number], images)]
    more = [f"{len(values) - number} more"] if len(values) > number else []
    return ", ".join(first + more)


def is_free_text(label: str) -> bool:
    """Whether a text is a sentence, or negates something, rather than the name of a label."""
    if label.casefold() in NEGATIVE:
        return False
    return bool(_NEGATED.search(label)) or label.endswith(".") or len(label.split()) > 8
