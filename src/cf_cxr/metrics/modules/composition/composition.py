"""Composition error as an evaluate module; `cf_cxr.metrics.soundness.image_distance` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.soundness import image_distance


def errors(predictions, references):
    """Error of each image against itself after null interventions, and the largest."""
    error = image_distance(references, predictions)
    return {"composition": error, "composition_max": float(error.max())}


class Composition(base.CXRMetric):
    """Mean absolute difference between images and what n null interventions make of them, in grey levels of 0 to 255.
    Ideal 0 for every n.

    Args:
        predictions: images after n null interventions, in [-1, 1], any shape.
        references: the images themselves.

    Returns:
        composition, composition_interval, composition_max (of all images).
    """

    function = staticmethod(errors)
    COLUMNS = {"predictions": base.PIXELS, "references": base.PIXELS, "patients": base.TEXT}
    CITATION = base.AXIOMS
