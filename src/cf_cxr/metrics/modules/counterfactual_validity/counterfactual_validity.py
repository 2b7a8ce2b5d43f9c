"""Counterfactual validity as an evaluate module; `cf_cxr.metrics.validity` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.validity import counterfactual_validity


class CounterfactualValidity(base.CXRMetric):
    """See DESCRIPTION."""

    CITATION = base.CITATION_EXPLAINING
    URL = base.URL_EXPLAINING
    DESCRIPTION = """Share of explanations whose decision flips: the final image lies on the other side of the decision
boundary than the source image. Ideal 1. Overall and by factual decision; NaN for a decision no image has.
"""
    INPUTS = f"""
Args:
    predictions: posterior of the final explanation (N,), in [0, 1].
    references: posterior of the source image (N,).
{base.PATIENTS_DESCRIPTION}    threshold (`float`, 0.5): decision boundary; a posterior equal to it is positive.
    minimum_change (`float`, 0): the posterior must also have moved by more than this.
{base.INTERVAL_DESCRIPTION}Returns:
    all, negative, positive (factual decision); each with "_interval".
"""

    def columns(self):
        return {"predictions": base.NUMBER, "references": base.NUMBER, "patients": base.TEXT}

    def score(self, data, threshold=0.5, minimum_change=0.0, n_resamples=1000, seed=0):
        return base.with_intervals(
            counterfactual_validity(
                data["references"],
                data["predictions"],
                threshold=threshold,
                minimum_change=minimum_change,
                patients=base.patient_names(data["patients"]),
                n_resamples=n_resamples,
                seed=seed,
            )
        )
