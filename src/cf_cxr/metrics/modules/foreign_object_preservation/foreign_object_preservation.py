"""Foreign-object preservation as an evaluate module; `cf_cxr.metrics.preservation` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.preservation import foreign_object_preservation


class ForeignObjectPreservation(base.CXRMetric):
    """Share of the images with a detected foreign object (pacemaker, lead, tube) whose explanation still has it. Ideal 1.
    Configurations: flags (what a detector says of each image), masks (kept when the overlap over the area in the source
    image reaches a minimum). NaN if no image has an object.

    Args:
        references: of the source images: flags 0 or 1 (N,), or binary masks of any shape (N, H, W).
        predictions: of the explanations, same shape.
        minimum_overlap (`float`, 0.5): of masks, to count as kept.
        minimum_area (`int`, 1): pixels that make an object, with masks.

    Returns:
        preservation; added (share of images without object whose explanation has one, ideal 0); with masks overlap (mean
        share of the object's area that is left); each with "_interval"; with_object, without_object (numbers of images).
    """

    function = staticmethod(foreign_object_preservation)
    COLUMNS = {"references": base.NUMBER, "predictions": base.NUMBER, "patients": base.TEXT}
    CONFIGS = ("flags", "masks")
    CITATION, URL = base.EXPLAINING, base.EXPLAINING_URL

    def columns(self):
        masks = dict.fromkeys(("references", "predictions"), base.PIXELS)
        return super().columns() | (masks if self.config_name == "masks" else {})
