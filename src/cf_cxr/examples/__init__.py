"""Example radiographs that ship with the package: real films of the NIH ChestX-ray14 test split.

Provider: NIH Clinical Center; see ATTRIBUTION.md in this folder.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ExampleImage:
    """One bundled film.

    Attributes:
        path: a 224x224 8-bit grey PNG.
        image_id: its name in NIH ChestX-ray14.
        attributes: `age` in years, `sex`, `view` and `finding`, as NIH published them.
    """

    path: Path
    image_id: str
    attributes: dict[str, float | str]


def example_images() -> list[ExampleImage]:
    """The bundled films: both sexes, both views, with and without pleural effusion, 31 to 78 years."""
    with open(FOLDER / "metadata.csv", newline="", encoding="utf-8") as file:
        return [
            ExampleImage(
                path=FOLDER / row["file_name"],
                image_id=row["image_id"],
                attributes={
                    "age": float(row["age"]),
                    "sex": row["sex"],
                    "view": row["view"],
                    "finding": row["finding"],
                },
            )
            for row in csv.DictReader(file)
        ]


def example_dicom() -> Path:
    """The first film once more, as a 12-bit DICOM file with a display window."""
    return FOLDER / "example.dcm"
