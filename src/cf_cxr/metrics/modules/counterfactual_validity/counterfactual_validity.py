"""Counterfactual validity as an evaluate module; `cf_cxr.metrics.validity` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.validity import counterfactual_validity


class CounterfactualValidity(base.CXRMetric):
    """Share of explanations whose decision flips: the final image lies on the other side of the decision boundary than
    the source image. Ideal 1. Overall and by factual decision; NaN for a decision no image has.

    Args:
        references: posterior of the source image (N,), in [0, 1].
        predictions: posterior of the final explanation (N,).
        threshold (`float`, 0.5): decision boundary; a posterior equal to it is positive.
        minimum_change (`float`, 0): the posterior must also have moved by more than this.

    Returns:
        all, negative, positive (factual decision); each with "_interval".
    """

    function = staticmethod(counterfactual_validity)
    COLUMNS = {"references": base.NUMBER, "predictions": base.NUMBER, "patients": base.TEXT}
    CITATION, URL = base.EXPLAINING, base.EXPLAINING_URL
