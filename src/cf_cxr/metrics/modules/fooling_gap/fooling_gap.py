"""Fooling gap as an evaluate module; `cf_cxr.metrics.fooling` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.fooling import fooling_gap


class FoolingGap(base.CXRMetric):
    """See DESCRIPTION."""

    CONFIGS = base.KIND_CONFIGS
    CITATION = base.CITATION_PACKAGE
    DESCRIPTION = """How much better the classifier used in training likes the counterfactuals than an independent judge
does: its score minus the judge's, of the intervened value, in AUC points or units of the mean absolute error. Ideal 0.
Configurations: binary, categorical, continuous.
"""
    INPUTS = f"""
Args:
    predictions: the judge on counterfactuals: probability of class 1, probabilities per class, or a mean in units.
    model_predictions: the training classifier on the same images.
    references: intervened values (class index or units).
{base.PATIENTS_DESCRIPTION}{base.INTERVAL_DESCRIPTION}Returns:
    judge, model, gap (model - judge); each with "_interval".
"""

    def columns(self):
        prediction = base.prediction_feature(self.config_name)
        return {
            "predictions": prediction,
            "references": base.NUMBER,
            "model_predictions": prediction,
            "patients": base.TEXT,
        }

    def score(self, data, n_resamples=1000, seed=0):
        weights = base.weights_of(data["patients"], n_resamples, seed)
        return base.with_intervals(
            fooling_gap(
                self.config_name, data["predictions"], data["model_predictions"], data["references"], weights
            )
        )
