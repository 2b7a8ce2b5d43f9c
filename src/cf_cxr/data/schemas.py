"""Which attributes each source has, and the causal graph that is assumed over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..attributes import AttributeSchema
    from ..causal_graph import CausalGraph

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

_ROOTS = {
    "nih_cxr14": ("age", "sex", "view"),
    "parquet": ("age", "sex", "view"),
    "mimic_cxr": ("age", "race", "sex"),
    "chexpert": ("age", "race", "sex"),
    "padchest": ("age", "sex", "view"),
}


def cxr_schema(name: str, *, finding: str | None = None) -> tuple[AttributeSchema, CausalGraph]:
    """Default attributes and causal graph of a source.

    Age is in years on [0, 100]; sex, view and finding are binary; race has three levels (White, Asian,
    Black), as in Xia et al., MICCAI 2024. The graph is theirs: the roots are independent, age is a parent
    of the finding, and every attribute is a parent of the image.

    Args:
        name: one of `SOURCES` except `folder`, whose schema comes from its own `metadata.csv`.
        finding: the label that is set against "No Finding", in the owner's spelling, for instance
            `"Cardiomegaly"`; the default is pleural effusion. Its name is also the name of the class,
            except that pleural effusion is always called `"Effusion"`.

    Raises:
        ValueError: unknown source, or a finding where there is no choice.
    """
    if name == "phantom":
        if finding is not None:
            raise ValueError(
                f"finding={finding!r}: the phantom's finding is part of its own configuration; "
                "pass config=... to load_cxr instead."
            )
        from .phantom import phantom_schema

        return phantom_schema()
    if name == "folder":
        raise ValueError(
            "A folder has no default schema: it is inferred from metadata.csv by load_cxr, "
            "or read with cf_cxr.data.folder.infer_schema(path)."
        )
    if name not in _ROOTS:
        raise ValueError(f"Unknown source {name!r}; choose one of {', '.join(SOURCES)}.")
    from ..attributes import Attribute, AttributeSchema
    from ..causal_graph import CausalGraph

    available = {
        "age": Attribute("age", "continuous", minimum=0.0, maximum=100.0, unit="years"),
        "sex": Attribute("sex", "binary", categories=SEXES),
        "view": Attribute("view", "binary", categories=VIEWS),
        "race": Attribute("race", "categorical", categories=RACES),
    }
    label = finding_class(finding or DEFAULT_FINDING[name])
    attributes = [available[root] for root in _ROOTS[name]]
    attributes.append(Attribute("finding", "binary", categories=(NO_FINDING, label)))
    graph = {root: [] for root in _ROOTS[name]} | {"finding": ["age"]}
    return AttributeSchema(attributes), CausalGraph(graph)


def finding_class(finding: str) -> str:
    """Class name of a finding: owners' spellings of pleural effusion all become `"Effusion"`."""
    if finding.strip().lower() in ("effusion", "pleural effusion", "pleural_effusion"):
        return "Effusion"
    return finding.strip().replace("_", " ")
