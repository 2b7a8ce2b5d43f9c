"""Error to the true counterfactual as an evaluate module; `cf_cxr.metrics.true_counterfactual` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.true_counterfactual import counterfactual_error


class TrueCounterfactualError(base.CXRMetric):
    """See DESCRIPTION."""

    CITATION = base.CITATION_PACKAGE
    DESCRIPTION = """Mean absolute difference between counterfactuals and the true counterfactual images of a simulator, in
grey levels of 0 to 255, inside and outside the region that the intervention may touch. Ideal 0.
"""
    INPUTS = f"""
Args:
    predictions: counterfactual images in [-1, 1], any shape.
    references: true counterfactual images.
    masks: same shape, true (1) where the true intervention may change a pixel.
{base.PATIENTS_DESCRIPTION}{base.INTERVAL_DESCRIPTION}Returns:
    error_inside, error_outside; each with "_interval"; NaN if no image has such a region.
"""

    def columns(self):
        image = base.pixels()
        return {"predictions": image, "references": image, "masks": image, "patients": base.TEXT}

    def score(self, data, n_resamples=1000, seed=0):
        inside, outside = counterfactual_error(data["predictions"], data["references"], data["masks"])
        return {
            **base.mean_with_interval("error_inside", inside, data["patients"], n_resamples, seed),
            **base.mean_with_interval("error_outside", outside, data["patients"], n_resamples, seed),
        }
