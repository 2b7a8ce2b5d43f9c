"""Effectiveness of counterfactuals as an evaluate module; `cf_cxr.metrics.effectiveness` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.effectiveness import effectiveness


class Effectiveness(base.CXRMetric):
    """See DESCRIPTION."""

    CONFIGS = base.KIND_CONFIGS
    CITATION = base.CITATION_AMPLIFICATION
    DESCRIPTION = """Does an independent judge see the value that was intervened on? AUC times 100 (macro one-vs-rest
for categorical attributes) or mean absolute error, on counterfactuals and on real images, and the distance between the
two; the ideal distance is 0. Configurations: binary, categorical, continuous.
"""
    INPUTS = f"""
Args:
    predictions: the judge on counterfactuals: probability of class 1, probabilities per class, or a mean in units.
    references: intervened values (class index or units).
    real_predictions, real_references: the judge on the factual images, and their values; same rows.
{base.PATIENTS_DESCRIPTION}{base.INTERVAL_DESCRIPTION}Returns:
    effectiveness, real, signed_distance (effectiveness - real), distance (its absolute value); each with "_interval".
"""

    def columns(self):
        prediction = base.prediction_feature(self.config_name)
        return {
            "predictions": prediction,
            "references": base.NUMBER,
            "real_predictions": prediction,
            "real_references": base.NUMBER,
            "patients": base.TEXT,
        }

    def score(self, data, n_resamples=1000, seed=0):
        weights = base.weights_of(data["patients"], n_resamples, seed)
        return base.with_intervals(
            effectiveness(
                self.config_name,
                data["predictions"],
                data["references"],
                data["real_predictions"],
                data["real_references"],
                weights,
            )
        )
