"""Which attributes each source has, and the causal graph that is assumed over them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..attributes import AttributeSchema
    from ..causal_graph import CausalGraph
from .definitions import DEFAULT_ATTRIBUTES, DEFAULT_FINDING, NO_FINDING, SOURCES, finding_class

_ROOTS = {
    "nih_cxr14": ("age", "sex", "view"),
    "parquet": ("age", "sex", "view"),
    "mimic_cxr": ("age", "race", "sex"),
    "chexpert": ("age", "race", "sex"),
    "padchest": ("age", "sex", "view"),
}


def cxr_schema(
    name: str | Path, *, finding: str | None = None, data_dir: str | Path | None = None
) -> tuple[AttributeSchema, CausalGraph]:
    """Default attributes and causal graph of a source.

    Age is in years on [0, 100]; sex, view and finding are binary; race has three levels (White, Asian,
    Black). The graph is that of Xia et al., MICCAI 2024 (arXiv 2403.09422): age is a parent of the finding,
    the others are roots, and every attribute is a parent of the image.

    Args:
        name: one of `SOURCES`, or the folder of a data set as `load_cxr` accepts it.
        finding: the label that is set against "No Finding", in the owner's spelling, for instance
            `"Cardiomegaly"`; the default is pleural effusion. Its name is also the name of the class,
            except that pleural effusion is always called `"Effusion"`.
        data_dir: the folder, needed for `"folder"` only: its schema comes from its `schema.json`, or is
            inferred from its `metadata.csv`.

    Raises:
        ValueError: unknown source, or a finding where there is no choice.
    """
    if name not in SOURCES:
        from .tables import find_source

        name, data_dir = find_source(name, data_dir)
    if name == "phantom":
        from .phantom import phantom_schema

        return phantom_schema(finding or "Effusion")
    if name == "folder":
        return _folder_schema(finding, data_dir)
    from ..attributes import Attribute, AttributeSchema
    from ..causal_graph import CausalGraph

    shared = {definition["name"]: Attribute(**definition) for definition in DEFAULT_ATTRIBUTES}
    attributes = [shared[root] for root in _ROOTS[name]]
    label = finding_class(finding or DEFAULT_FINDING[name])
    attributes.append(Attribute("finding", "binary", categories=(NO_FINDING, label)))
    graph = {root: [] for root in _ROOTS[name]} | {"finding": ["age"]}
    return AttributeSchema(attributes), CausalGraph(graph)


def _folder_schema(finding, data_dir) -> tuple[AttributeSchema, CausalGraph]:
    if finding is not None:
        raise ValueError(f"finding={finding!r}: the findings of a folder are the values in its metadata.csv.")
    if data_dir is None:
        raise ValueError("The schema of a folder depends on its metadata.csv: pass data_dir=...")
    from .folder import folder_schema

    return folder_schema(data_dir)
