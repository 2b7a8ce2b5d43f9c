"""Configuration of the structural causal model over the attributes."""

from typing import Any

from ...attributes import AttributeSchema
from ...causal_graph import CausalGraph
from ..configuration import MAX_LENGTH, MAX_SIZE, CXRConfig, bounded, check_weights, checked_config

_PAPER_A_ATTRIBUTES = (
    {"name": "sex", "kind": "binary", "categories": ["Male", "Female"]},
    {"name": "race", "kind": "categorical", "categories": ["White", "Asian", "Black"]},
    {"name": "age", "kind": "continuous", "minimum": 0.0, "maximum": 100.0, "unit": "years"},
    {"name": "finding", "kind": "binary", "categories": ["No Finding", "Pleural Effusion"]},
)
_PAPER_A_GRAPH = {"sex": [], "race": [], "age": [], "finding": ["age"]}


@checked_config
class AttributeSCMConfig(CXRConfig):
    """Which attributes there are, who causes whom, and how large the mechanisms' networks are.

    Args:
        attributes: definitions in column order, as `AttributeSchema.to_list` gives them. Default: those of
            paper A (Xia et al., MICCAI 2024) on MIMIC-CXR.
        graph: variable -> its parents; every attribute appears, a root with `[]`. Default: paper A's graph when
            `attributes` is left out too, otherwise no edges.
        hidden_sizes: widths of the hidden layers of each mechanism's network (roots have none).
        hidden_act: its activation, by transformers' name.
        num_transforms: spline transformations composed in the flow of a continuous variable.
        num_bins: bins of each spline.
        initializer_range: standard deviation of the initial weights.

    Raises:
        ValueError: for an inconsistent attribute, an empty flow, or widths below 1.
        CausalGraphError: for a cycle or names that are not attributes.
    """

    model_type = "attribute_scm"
    keys_to_ignore_at_inference = ["loss"]

    attributes: list[dict[str, Any]] | None = None
    graph: dict[str, list[str]] | None = None
    hidden_sizes: list[int] | tuple[int, ...] = bounded((32, 32), 1, MAX_SIZE, shortest=0)
    hidden_act: str = "gelu"
    num_transforms: int = bounded(2, 1, MAX_LENGTH)
    num_bins: int = bounded(8, 1, MAX_SIZE)
    initializer_range: float | int = bounded(0.1, 0, 10)

    def __post_init__(self, **kwargs):
        if self.graph is None and self.attributes is None:
            self.graph = _PAPER_A_GRAPH
        if self.attributes is None:
            self.attributes = list(_PAPER_A_ATTRIBUTES)
        schema = AttributeSchema(self.attributes)
        if self.graph is None:
            self.graph = {name: [] for name in schema.names}
        self.attributes = schema.to_list()
        graph = CausalGraph(self.graph, schema.names)
        # In column order: JSON sorts keys, and the order of sampling must survive a save and load.
        self.graph = {name: list(graph.parents(name)) for name in schema.names}
        mechanisms, widest = len(schema.names) * self.num_transforms, max([*self.hidden_sizes, schema.dim])
        check_weights(
            "hidden_sizes",
            self.hidden_sizes,
            mechanisms * (len(self.hidden_sizes) + 1),
            widest,
            mechanisms * 3 * self.num_bins * widest,
            per_block=1,
        )
        super().__post_init__(**kwargs)

    @property
    def schema(self) -> AttributeSchema:
        """The attributes as an object."""
        return AttributeSchema(self.attributes)

    @property
    def causal_graph(self) -> CausalGraph:
        """The graph as an object."""
        return CausalGraph(self.graph, self.schema.names)
