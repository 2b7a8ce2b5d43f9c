"""The sources of films: how a folder of each is known, and which attributes they share.

A new source is a module of its name here, with `read_<name>`, and an entry in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..attributes import Attribute, AttributeSchema
from ..causal_graph import CausalGraph
from .errors import CXRDataError, MissingDataError


class Source(NamedTuple):
    """What is known of a source before its files are read.

    `read_<name>(folder, *, report, seed, ...)` reads the tables in `folder` and gives `report` what is left out or
    altered. Its options, as far as a source has them: `finding`, in the owner's spelling; `other_findings`, "drop" or
    "unknown" (kept) for images that show neither the finding nor nothing; `splits`, "official" or "patient", which
    divides the patients by `seed` and `fractions` (train, validation, test). It raises MissingDataError for a file or
    column that is not there, BadRowError for a value or path that cannot be, CXRDataError for an unknown option.

    Attributes:
        files: patterns; a folder that has one of them is of this kind.
        roots: the attributes beside the finding; none where the folder's tables say it.
    """

    files: tuple[str, ...]
    roots: tuple[str, ...] = ()


#: In the order in which folders are recognised.
SOURCES = {
    "nih_cxr14": Source(("Data_Entry_2017*.csv",), ("age", "sex", "view")),
    "mimic_cxr": Source(("mimic-cxr-2.*-metadata.csv*",), ("age", "race", "sex")),
    "padchest": Source(("PADCHEST_chest_x_ray_images_labels*.csv*",), ("age", "sex", "view")),
    "parquet": Source(
        ("train.parquet", "train-*.parquet", "test.parquet", "data/train-*.parquet"), ("age", "sex", "view")
    ),
    "folder": Source(("metadata.csv",)),
    "chexpert": Source(("train.csv",), ("age", "race", "sex")),
}
NAMES = ("phantom", *SOURCES)
NO_FINDING = "No Finding"
SEXES = ("Male", "Female")
RACES = ("White", "Asian", "Black")
#: The attributes that several sources share.
SHARED = {
    "age": Attribute("age", "continuous", minimum=0.0, maximum=100.0, unit="years"),
    "sex": Attribute("sex", "binary", categories=SEXES),
    "view": Attribute("view", "binary", categories=("PA", "AP")),
    "race": Attribute("race", "categorical", categories=RACES),
}


def finding_class(finding: str) -> str:
    """Class name of a finding: owners' spellings of pleural effusion all become `"Effusion"`."""
    if finding.strip().lower() in ("effusion", "pleural effusion", "pleural_effusion"):
        return "Effusion"
    return finding.strip().replace("_", " ")


def default_schema(source: str, finding: str | None = None) -> AttributeSchema:
    """The attributes of a source with roots in `SOURCES`; `finding` (pleural effusion) in the owner's spelling."""
    label = finding_class(finding or "Effusion")
    roots = [SHARED[name] for name in SOURCES[source].roots]
    return AttributeSchema([*roots, Attribute("finding", "binary", categories=(NO_FINDING, label))])


def default_graph(names: Iterable[str]) -> CausalGraph:
    """Age is a parent of the finding, where there are both; all others are roots."""
    graph: dict[str, list[str]] = {name: [] for name in names}
    if "age" in graph and "finding" in graph:
        graph["finding"] = ["age"]
    return CausalGraph(graph)


def find_source(name_or_path: str | Path, data_dir: str | Path | None = None) -> tuple[str, Path | None]:
    """The kind and the folder of a source that is named, or given by its folder.

    Raises:
        MissingDataError: no such folder.
        CXRDataError: neither a known name nor a folder of a known kind.
    """
    if name_or_path == "phantom":
        return "phantom", None
    if name_or_path in SOURCES:
        if data_dir is None:
            raise MissingDataError(
                f"{name_or_path} is read from a local folder: pass data_dir=... to load_cxr."
            )
        return str(name_or_path), _folder(data_dir, str(name_or_path))
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise MissingDataError(
            f"{str(name_or_path)!r} is neither a known source ({', '.join(NAMES)}) nor a folder that exists."
        )
    folder = _folder(path, "data")
    for name, source in SOURCES.items():
        if any(next(folder.glob(pattern), None) for pattern in source.files):
            return name, folder
    raise CXRDataError(
        f"{folder} is no data set of a known kind. Write a metadata.csv into it (columns file_name and "
        f"attributes), or name its kind: load_cxr(name, data_dir=...) with {', '.join(NAMES)}."
    )


def _folder(path: str | Path, what: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise MissingDataError(f"The {what} folder {str(folder)!r} {kind}. Give the folder with its tables.")
    return folder
