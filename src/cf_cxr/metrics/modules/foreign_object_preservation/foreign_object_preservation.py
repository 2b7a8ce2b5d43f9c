"""Foreign-object preservation as an evaluate module; `cf_cxr.metrics.preservation` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.preservation import foreign_object_preservation


class ForeignObjectPreservation(base.CXRMetric):
    """See DESCRIPTION."""

    CONFIGS = ("flags", "masks")
    CITATION = base.CITATION_EXPLAINING
    URL = base.URL_EXPLAINING
    DESCRIPTION = """Share of the images with a detected foreign object (pacemaker, lead, tube) whose explanation still has
it. Ideal 1. Configurations: flags (what a detector says of each image), masks (kept when the overlap over the area in the
source image reaches a minimum). NaN if no image has an object.
"""
    INPUTS = f"""
Args:
    predictions: of the explanations: flags 0 or 1 (N,), or binary masks of any shape (N, H, W).
    references: of the source images, same shape.
{base.PATIENTS_DESCRIPTION}    minimum_overlap (`float`, 0.5): of masks, to count as kept.
    minimum_area (`int`, 1): pixels that make an object, with masks.
{base.INTERVAL_DESCRIPTION}Returns:
    preservation; added (share of images without object whose explanation has one, ideal 0); with masks overlap (mean
    share of the object's area that is left); each with "_interval"; with_object, without_object (numbers of images).
"""

    def columns(self):
        kind = base.NUMBER if self.config_name == "flags" else base.pixels()
        return {"predictions": kind, "references": kind, "patients": base.TEXT}

    def score(self, data, minimum_overlap=0.5, minimum_area=1, n_resamples=1000, seed=0):
        before, after = data["references"], data["predictions"]
        if self.config_name == "masks":
            before, after = before[:, None], after[:, None]
        out = foreign_object_preservation(
            before,
            after,
            minimum_overlap=minimum_overlap,
            minimum_area=minimum_area,
            patients=base.patient_names(data["patients"]),
            n_resamples=n_resamples,
            seed=seed,
        )
        counts = {name: out.pop(name) for name in ("with_object", "without_object")}
        return {**base.with_intervals(out), **counts}
