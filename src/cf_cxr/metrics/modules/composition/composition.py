"""Composition error as an evaluate module; `cf_cxr.metrics.soundness` holds the plain functions."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.soundness import image_distance


class Composition(base.CXRMetric):
    """See DESCRIPTION."""

    CITATION = base.CITATION_AXIOMS
    DESCRIPTION = """Mean absolute difference between images and what n null interventions make of them, in grey levels
of 0 to 255. Ideal 0 for every n.
"""
    INPUTS = f"""
Args:
    predictions: images after n null interventions, in [-1, 1], any shape.
    references: the images themselves.
{base.PATIENTS_DESCRIPTION}{base.INTERVAL_DESCRIPTION}Returns:
    composition, composition_interval, composition_max (of all images).
"""

    def columns(self):
        return {"predictions": base.pixels(), "references": base.pixels(), "patients": base.TEXT}

    def score(self, data, n_resamples=1000, seed=0):
        error = image_distance(data["references"], data["predictions"])
        out = base.mean_with_interval("composition", error, data["patients"], n_resamples, seed)
        return {**out, "composition_max": float(error.max())}
