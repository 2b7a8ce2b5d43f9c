"""Reversibility error as an evaluate module; `cf_cxr.metrics.soundness.image_distance` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.soundness import image_distance


class Reversibility(base.CXRMetric):
    """Mean absolute difference between images and what comes back after n cycles of do(a) and do(the factual values), in
    grey levels of 0 to 255. Ideal 0 for every n.

    Args:
        predictions: images that came back after n cycles, in [-1, 1], any shape.
        references: the images themselves.

    Returns:
        reversibility, reversibility_interval.
    """

    function = staticmethod(image_distance)
    COLUMNS = {"predictions": base.PIXELS, "references": base.PIXELS, "patients": base.TEXT}
    CITATION = base.AXIOMS
