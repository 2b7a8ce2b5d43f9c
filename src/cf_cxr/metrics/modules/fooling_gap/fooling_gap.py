"""Fooling gap as an evaluate module; `cf_cxr.metrics.effectiveness.fooling_gap` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.effectiveness import fooling_gap


class FoolingGap(base.CXRMetric):
    """How much better the classifier used in training likes the counterfactuals than an independent judge does: its score
    minus the judge's, of the intervened value, in AUC points or units of the mean absolute error. Ideal 0.
    Configurations: binary, categorical, continuous.

    Args:
        predictions: the judge on counterfactuals: probability of class 1, probabilities per class, or a mean in units.
        model_predictions: the training classifier on the same images.
        references: intervened values (class index or units).

    Returns:
        judge, model, gap (model - judge); each with "_interval".
    """

    function = staticmethod(fooling_gap)
    COLUMNS = {
        **dict.fromkeys(("predictions", "model_predictions"), base.PREDICTION),
        **{"references": base.NUMBER, "patients": base.TEXT},
    }
    CONFIGS = base.KINDS
    CITATION = base.PACKAGE
