"""Attribute amplification as an evaluate module; `cf_cxr.metrics.amplification` holds the plain functions."""

from collections.abc import Mapping

from cf_cxr.attributes import AttributeSchema
from cf_cxr.causal_graph import CausalGraph
from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.amplification import amplification, amplification_samples, untouched
from cf_cxr.metrics.bootstrap import interval


class Amplification(base.CXRMetric):
    """See DESCRIPTION."""

    CONFIGS = (*base.KIND_CONFIGS, "matrix")
    CITATION = base.CITATION_AMPLIFICATION
    DESCRIPTION = """What do(k) does to an attribute j that it should leave alone: the judge's score of the factual
value of j on counterfactuals minus that on the factual images, in AUC points or units of the mean absolute error. Ideal
0; positive AUC points mean amplified, negative attenuated. Configurations binary, categorical, continuous: one cell
(k, j). Configuration matrix: all cells at once; load with schema= and graph= (and interventions=, all by default).
"""
    INPUTS = f"""
Args (one cell):
    predictions: the judge's prediction of j on the images under do(k).
    real_predictions: the same on the factual images.
    references: factual values of j.
Args (matrix):
    factual: raw attributes (N, n) in schema order.
    real: {{j: prediction}} on the factual images.
    counterfactual: {{k: {{j: prediction}}}} on the images under do(k), for all j that are neither k nor its
        descendants; further ones are left out.
Args (both):
{base.PATIENTS_DESCRIPTION}{base.INTERVAL_DESCRIPTION}Returns:
    one cell: amplification and amplification_interval. Matrix: matrix {{k: {{j: [estimate, low, high]}}}}, mean_abs_auc
    and its interval, mean_abs_units {{j: [estimate, low, high]}}, undefined [[k, j], ...].
"""

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
        self._schema, self._graph = schema, graph
        self._interventions = tuple(interventions or (schema.names if schema is not None else ()))
        super().__init__(config_name, **kwargs)

    def columns(self):
        if self.config_name != "matrix":
            prediction = base.prediction_feature(self.config_name)
            return {
                "predictions": prediction,
                "references": base.NUMBER,
                "real_predictions": prediction,
                "patients": base.TEXT,
            }
        cells = {f"do/{k}/{j}": j for k in self._interventions for j in self._untouched(k)}
        columns = {f"real/{j}": j for j in self._schema.names if j in cells.values()} | cells
        kinds = {name: base.prediction_feature(self._schema[j].kind) for name, j in columns.items()}
        return {"factual": base.numbers(), **kinds, "patients": base.TEXT}

    def flatten(self, given):
        if self.config_name != "matrix":
            return super().flatten(given)
        out = {}
        for name, value in given.items():
            if not isinstance(value, Mapping):
                out[name] = value
            elif name == "real":
                out |= {f"real/{j}": p for j, p in value.items() if f"real/{j}" in self.features}
            elif name == "counterfactual":
                for k, row in value.items():
                    if k not in self._interventions:
                        raise ValueError(f"do({k}) is not among {', '.join(self._interventions)}.")
                    out |= {f"do/{k}/{j}": p for j, p in row.items() if j in self._untouched(k)}
            else:
                raise ValueError(f"{name!r} cannot be a dictionary; only real and counterfactual can.")
        return out

    def _untouched(self, k):
        return untouched(self._graph, self._schema.names, k)

    def score(self, data, n_resamples=1000, seed=0):
        weights = base.weights_of(data["patients"], n_resamples, seed)
        if self.config_name != "matrix":
            samples = amplification_samples(
                self.config_name, data["predictions"], data["real_predictions"], data["references"], weights
            )
            return base.with_intervals({"amplification": interval(samples)})
        real = {n.removeprefix("real/"): p for n, p in data.items() if n.startswith("real/")}
        changed = {k: {j: data[f"do/{k}/{j}"] for j in self._untouched(k)} for k in self._interventions}
        result = amplification(self._schema, self._graph, real, changed, data["factual"], weights)
        return {
            "matrix": {k: {j: list(i) for j, i in row.items()} for k, row in result.matrix.items()},
            **base.with_intervals({"mean_abs_auc": result.mean_abs_auc}),
            "mean_abs_units": {j: list(i) for j, i in result.mean_abs_units.items()},
            "undefined": [list(cell) for cell in result.undefined],
        }
