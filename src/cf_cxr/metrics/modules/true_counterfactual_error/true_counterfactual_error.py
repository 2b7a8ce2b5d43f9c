"""Error to the true counterfactual as an evaluate module; `cf_cxr.metrics.true_counterfactual` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.true_counterfactual import counterfactual_error


def errors(predictions, references, masks):
    """Error to the true counterfactual, inside and outside the masks."""
    inside, outside = counterfactual_error(predictions, references, masks)
    return {"error_inside": inside, "error_outside": outside}


class TrueCounterfactualError(base.CXRMetric):
    """Mean absolute difference between counterfactuals and the true counterfactual images of a simulator, in grey levels
    of 0 to 255, inside and outside the region that the intervention may touch. Ideal 0.

    Args:
        predictions: counterfactual images in [-1, 1], any shape.
        references: true counterfactual images.
        masks: same shape, true (1) where the true intervention may change a pixel.

    Returns:
        error_inside, error_outside; each with "_interval"; NaN if no image has such a region.
    """

    function = staticmethod(errors)
    COLUMNS = {**dict.fromkeys(("predictions", "references", "masks"), base.PIXELS), "patients": base.TEXT}
    CITATION = base.PACKAGE
