"""What the sources of films share: names of sources, classes and attributes."""

from __future__ import annotations

SOURCES = ("phantom", "nih_cxr14", "parquet", "mimic_cxr", "chexpert", "padchest", "folder")
#: The finding column of each source unless another one is asked for, in its owner's spelling.
DEFAULT_FINDING = {
    "nih_cxr14": "Effusion",
    "parquet": "Effusion",
    "mimic_cxr": "Pleural Effusion",
    "chexpert": "Pleural Effusion",
    "padchest": "pleural effusion",
}
NO_FINDING = "No Finding"
VIEWS = ("PA", "AP")
SEXES = ("Male", "Female")
RACES = ("White", "Asian", "Black")
#: Definitions of the attributes that several sources share.
DEFAULT_ATTRIBUTES = (
    {"name": "age", "kind": "continuous", "minimum": 0.0, "maximum": 100.0, "unit": "years"},
    {"name": "sex", "kind": "binary", "categories": SEXES},
    {"name": "view", "kind": "binary", "categories": VIEWS},
    {"name": "race", "kind": "categorical", "categories": RACES},
)


def finding_class(finding: str) -> str:
    """Class name of a finding: owners' spellings of pleural effusion all become `"Effusion"`."""
    if finding.strip().lower() in ("effusion", "pleural effusion", "pleural_effusion"):
        return "Effusion"
    return finding.strip().replace("_", " ")
