"""What a data set left out, and why: nothing is dropped in silence."""

from __future__ import annotations

import json
import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pandas as pd

from ..attributes import AttributeSchema
from ..causal_graph import CausalGraph
from ..files import write_atomically
from .errors import BadRowError, CXRDataError, MissingDataError

REPORT_NAME = "report.json"
SKIPPED_NAME = "skipped.csv"
HINT = 'Pass on_error="skip" to leave such images out and list them in a report.'

logger = logging.getLogger(__name__)


class SkippedImagesWarning(UserWarning):
    """Images were passed over because `on_error="skip"`; the message says how many and where they are listed."""


@dataclass
class LoadReport:
    """An account of one `load_cxr` call.

    Attributes:
        source: name of the source.
        on_error: `"raise"` or `"skip"`, what `refuse` does.
        images: number of images per split.
        left_out: rows that the cohort's rules exclude, counted by rule (for instance lateral views).
        altered: values that were set to unknown or capped, counted by reason.
        skipped: one `{"image", "reason"}` per unreadable image or bad row that `on_error="skip"` passed over.
        suspicious: one `{"image", "reason"}` per image that is used, but was read with a warning (a colour
            photograph, for instance, or the picture of another patient).
        attributes: the schema, as `describe_attributes` puts it.
    """

    source: str
    on_error: str = "raise"
    images: dict[str, int] = field(default_factory=dict)
    left_out: Counter = field(default_factory=Counter)
    altered: Counter = field(default_factory=Counter)
    skipped: list[dict[str, str]] = field(default_factory=list)
    suspicious: list[dict[str, str]] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise ValueError(
                f"on_error={self.on_error!r}: choose 'raise' (stop) or 'skip' (report and go on)."
            )

    def refuse(self, image: str, reason: str, error: type[CXRDataError] = BadRowError) -> None:
        """Stops with `error`, or with `on_error="skip"` notes that the image is passed over."""
        if self.on_error == "raise":
            raise error(f"{reason} {HINT}")
        self.skipped.append({"image": image, "reason": reason})

    def leave_out(self, rule: str, number: int) -> None:
        """Notes that a rule of the cohort excludes some rows."""
        if number:
            self.left_out[rule] += int(number)

    def alter(self, reason: str, number: int) -> None:
        """Notes that some values were changed."""
        if number:
            self.altered[reason] += int(number)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {name: value for name, value in vars(self).items() if name != "on_error"}

    def save(self, folder: Path) -> None:
        """Writes `report.json` into a folder, and `skipped.csv` where anything was skipped."""
        write_atomically(folder / REPORT_NAME, json.dumps(self.to_dict(), indent=1))
        (folder / SKIPPED_NAME).unlink(missing_ok=True)
        if self.skipped:
            write_atomically(folder / SKIPPED_NAME, pd.DataFrame(self.skipped).to_csv(index=False))

    def is_saved(self, folder: Path) -> bool:
        """Whether the folder holds this very report."""
        path = folder / REPORT_NAME
        try:
            return path.is_file() and json.loads(path.read_text(encoding="utf-8")) == self.to_dict()
        except ValueError:  # damaged
            return False

    def announce(self, folder: Path, level: int = logging.INFO) -> None:
        """Warns about skipped images, and logs the rest at `level` (altered values: WARNING)."""
        logger.log(logging.WARNING if self.altered else level, "%s", self)
        for kind, entries, what in (
            (SkippedImagesWarning, self.skipped, f"skipped; all are listed in {folder / SKIPPED_NAME}"),
            (UserWarning, self.suspicious, "read with a warning"),
        ):
            if entries:
                message = (
                    f"{self.source}: {len(entries)} images were {what}. The first: {entries[0]['reason']}"
                )
                warnings.warn(message, kind, stacklevel=4)

    def __str__(self) -> str:
        lines = [f"{self.source}: " + ", ".join(f"{n} {split}" for split, n in self.images.items())]
        lines += [f"  left out: {n} {reason}" for reason, n in self.left_out.items()]
        lines += [f"  altered: {n} {reason}" for reason, n in self.altered.items()]
        lines += [f"  {line}" for line in self.attributes]
        for kind in ("skipped", "suspicious"):
            entries = getattr(self, kind)
            lines += [f"  {kind}: {entry['image']}: {entry['reason']}" for entry in entries[:10]]
            if len(entries) > 10:
                lines.append(f"  {kind}: {len(entries) - 10} more")
        return "\n".join(lines)


def load_report(data: datasets.DatasetDict | datasets.Dataset | str | Path) -> LoadReport:
    """The report of a data set that `load_cxr` returned, or of its cache folder.

    Raises:
        MissingDataError: nothing that `load_cxr` prepared is behind this data set.
        CXRDataError: the report's file is damaged.
    """
    if isinstance(data, str | Path):
        folders = [Path(data)]
    else:
        splits = data.values() if isinstance(data, Mapping) else [data]
        folders = [Path(entry["filename"]).parent for split in splits for entry in split.cache_files]
    for folder in folders:
        if (path := folder / REPORT_NAME).is_file():
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
                counters = {name: Counter(values[name]) for name in ("left_out", "altered")}
                return LoadReport(**{**values, **counters})
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise CXRDataError(
                    f"{path} is damaged ({error}). Call load_cxr again, which writes it."
                ) from error
    raise MissingDataError(
        f"No {REPORT_NAME} belongs to this data set. Give what load_cxr returned, or its cache folder."
    )


def describe_attributes(schema: AttributeSchema, graph: CausalGraph | None, rows: pd.DataFrame) -> list[str]:
    """One line per attribute, with range or classes and what occurs in the raw values of `rows`; and the graph."""
    lines = []
    for attribute in schema:
        known = rows[attribute.name].dropna()
        if attribute.is_discrete:
            counts = [(known == index).sum() for index in range(attribute.n_classes)]
            values = ", ".join(f"{name} {count}" for name, count in zip(attribute.categories, counts))
        else:
            values = attribute.values
            values += f", {known.min():g} to {known.max():g} occur" if len(known) else ""
        lines.append(f"{attribute.name}: {attribute.kind}, {values}, {len(rows) - len(known)} unknown")
    return lines if graph is None else [*lines, f"{graph}"]
