"""What a data set left out, and why: nothing is dropped in silence."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPORT_NAME = "report.json"
SKIPPED_NAME = "skipped.csv"


@dataclass
class LoadReport:
    """An account of one `load_cxr` call.

    Attributes:
        source: name of the source.
        images: number of images per split.
        left_out: rows that the cohort's rules exclude, counted by rule (for instance lateral views).
        altered: values that were set to unknown or capped, counted by reason.
        skipped: one `{"image", "reason"}` per unreadable image or bad row that `on_error="skip"` passed over.
    """

    source: str
    images: dict[str, int] = field(default_factory=dict)
    left_out: Counter = field(default_factory=Counter)
    altered: Counter = field(default_factory=Counter)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; `from_dict` is its inverse."""
        return {
            "source": self.source,
            "images": dict(self.images),
            "left_out": dict(self.left_out),
            "altered": dict(self.altered),
            "skipped": list(self.skipped),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LoadReport:
        """A report from `to_dict`'s result."""
        return cls(
            source=values["source"],
            images=dict(values["images"]),
            left_out=Counter(values["left_out"]),
            altered=Counter(values["altered"]),
            skipped=list(values["skipped"]),
        )

    def save(self, folder: str | Path) -> None:
        """Writes `report.json`, and `skipped.csv` where anything was skipped, into a folder."""
        folder = Path(folder)
        (folder / REPORT_NAME).write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")
        if self.skipped:
            with open(folder / SKIPPED_NAME, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=["image", "reason"])
                writer.writeheader()
                writer.writerows(self.skipped)

    def __str__(self) -> str:
        lines = [f"{self.source}: " + ", ".join(f"{n} {split}" for split, n in self.images.items())]
        lines += [f"  left out: {n} {reason}" for reason, n in self.left_out.items()]
        lines += [f"  altered: {n} {reason}" for reason, n in self.altered.items()]
        lines += [f"  skipped: {entry['image']}: {entry['reason']}" for entry in self.skipped[:10]]
        if len(self.skipped) > 10:
            lines.append(f"  skipped: {len(self.skipped) - 10} more")
        return "\n".join(lines)
