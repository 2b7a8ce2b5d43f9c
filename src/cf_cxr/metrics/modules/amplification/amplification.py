"""Attribute amplification as an evaluate module; `cf_cxr.metrics.amplification` holds the plain functions."""

from collections.abc import Mapping

from cf_cxr.attributes import AttributeSchema
from cf_cxr.causal_graph import CausalGraph
from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.amplification import amplification, amplification_samples, untouched
from cf_cxr.metrics.bootstrap import interval


def one_cell(kind, predictions, real_predictions, references, weights):
    """One cell of the matrix, with its interval."""
    samples = amplification_samples(kind, predictions, real_predictions, references, weights)
    return {"amplification": interval(samples)}


class Amplification(base.CXRMetric):
    """What do(k) does to an attribute j that it should leave alone: the judge's score of the factual value of j on
    counterfactuals minus that on the factual images, in AUC points or units of the mean absolute error. Ideal 0;
    positive AUC points mean amplified, negative attenuated. Configurations binary, categorical, continuous: one cell
    (k, j). Configuration matrix: all cells at once; load with schema= and graph= (and interventions=, all by default).

    Args:
        predictions: the judge's prediction of j on the images under do(k); one cell.
        real_predictions: the same on the factual images; one cell.
        references: factual values of j; one cell.
        factual: raw attributes (N, n) in schema order; matrix.
        real: {j: prediction} on the factual images; matrix.
        counterfactual: {k: {j: prediction}} on the images under do(k), for all j that are neither k nor its
            descendants; further ones are left out; matrix.

    Returns:
        one cell: amplification and amplification_interval. Matrix: matrix {k: {j: [estimate, low, high]}}, mean_abs_auc
        and its interval, mean_abs_units {j: [estimate, low, high]}, undefined [[k, j], ...].
    """

    function = staticmethod(one_cell)
    COLUMNS = {
        **dict.fromkeys(("predictions", "real_predictions"), base.PREDICTION),
        **{"references": base.NUMBER, "patients": base.TEXT},
    }
    CONFIGS = (*base.KINDS, "matrix")
    CITATION = base.AMPLIFICATION

    def __init__(self, config_name=None, *, schema=None, graph=None, interventions=None, **kwargs):
        if schema is not None:
            config_name = config_name or "matrix"
            schema = schema if isinstance(schema, AttributeSchema) else AttributeSchema(schema)
        if config_name == "matrix":
            if schema is None or graph is None:
                raise ValueError('The amplification matrix needs load(..., "matrix", schema=..., graph=...).')
            graph = graph if isinstance(graph, CausalGraph) else CausalGraph(graph, schema.names)
            for k in interventions or ():
                schema.index(k)
            self._cells = {k: untouched(graph, schema.names, k) for k in interventions or schema.names}
            self.function = self._matrix
        self._schema, self._graph = schema, graph
        super().__init__(config_name, **kwargs)

    def columns(self):
        if self.config_name != "matrix":
            return super().columns()
        cells = {f"do/{k}/{j}": j for k, row in self._cells.items() for j in row}
        columns = {f"real/{j}": j for j in self._schema.names if j in cells.values()} | cells
        categorical = {n: self._schema[j].scored_as == "categorical" for n, j in columns.items()}
        kinds = {name: base.NUMBERS if several else base.NUMBER for name, several in categorical.items()}
        return {"factual": base.NUMBERS, **kinds, "patients": base.TEXT}

    def flatten(self, given):
        out = {name: value for name, value in given.items() if not isinstance(value, Mapping)}
        if self.config_name != "matrix":
            return super().flatten(given)
        if unknown := given.keys() - out.keys() - {"real", "counterfactual"}:
            raise ValueError(f"{unknown.pop()!r} cannot be a dictionary; only real and counterfactual can.")
        out |= {f"real/{j}": p for j, p in given.get("real", {}).items() if f"real/{j}" in self.features}
        for k, row in given.get("counterfactual", {}).items():
            if k not in self._cells:
                raise ValueError(f"do({k}) is not among {', '.join(self._cells)}.")
            out |= {f"do/{k}/{j}": p for j, p in row.items() if j in self._cells[k]}
        return out

    def score(self, data, **options):
        if self.config_name == "matrix":
            patients = data.pop("patients")
            data = {"data": data, "patients": patients}
        return super().score(data, **options)

    def _matrix(self, data, weights):
        real = {n.removeprefix("real/"): p for n, p in data.items() if n.startswith("real/")}
        changed = {k: {j: data[f"do/{k}/{j}"] for j in row} for k, row in self._cells.items()}
        result = amplification(self._schema, self._graph, real, changed, data["factual"], weights)
        return {
            "matrix": {k: {j: list(i) for j, i in row.items()} for k, row in result.matrix.items()},
            "mean_abs_auc": result.mean_abs_auc,
            "mean_abs_units": {j: list(i) for j, i in result.mean_abs_units.items()},
            "undefined": [list(cell) for cell in result.undefined],
        }
