"""Effectiveness of counterfactuals as an evaluate module; `cf_cxr.metrics.effectiveness` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.effectiveness import effectiveness


class Effectiveness(base.CXRMetric):
    """Does an independent judge see the value that was intervened on? AUC times 100 (macro one-vs-rest for categorical
    attributes) or mean absolute error, on counterfactuals and on real images, and the distance between the two; the
    ideal distance is 0. Configurations: binary, categorical, continuous.

    Args:
        predictions: the judge on counterfactuals: probability of class 1, probabilities per class, or a mean in units.
        references: intervened values (class index or units).
        real_predictions, real_references: the judge on the factual images, and their values; same rows.

    Returns:
        effectiveness, real, signed_distance (effectiveness - real), distance (its absolute value); each with
        "_interval".
    """

    function = staticmethod(effectiveness)
    COLUMNS = {
        **{"predictions": base.PREDICTION, "references": base.NUMBER},
        **{"real_predictions": base.PREDICTION, "real_references": base.NUMBER, "patients": base.TEXT},
    }
    CONFIGS = base.KINDS
    CITATION = base.AMPLIFICATION
