"""Exposure share as an evaluate module; `cf_cxr.metrics.exposure` is the plain function."""

import numpy as np
import torch

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.exposure import exposure_share


class ExposureShare(base.CXRMetric):
    """See DESCRIPTION."""

    CITATION = base.CITATION_PACKAGE
    DESCRIPTION = """Share of the squared change between factual and counterfactual image that one global affine map of
intensities explains, between 0 and 1. Near 1 the intervention is a change of brightness and contrast, not of anatomy.
Images that did not change have no share and are left out.
"""
    INPUTS = f"""
Args:
    predictions: counterfactual images in [-1, 1], any shape.
    references: factual images.
{base.PATIENTS_DESCRIPTION}{base.INTERVAL_DESCRIPTION}Returns:
    exposure_share (mean), exposure_share_interval, exposure_share_median, changed_share (of images with a change);
    NaN if no image changed.
"""

    def columns(self):
        return {"predictions": base.pixels(), "references": base.pixels(), "patients": base.TEXT}

    def score(self, data, n_resamples=1000, seed=0):
        if data["predictions"].shape != data["references"].shape:
            raise ValueError(
                "predictions and references must be images of one size, got "
                f"{data['predictions'].shape} and {data['references'].shape} (flattened)."
            )
        share = exposure_share(torch.tensor(data["references"]), torch.tensor(data["predictions"])).numpy()
        share = share.astype(np.float64)
        changed = ~np.isnan(share)
        out = base.mean_with_interval("exposure_share", share, data["patients"], n_resamples, seed)
        out["exposure_share_median"] = float(np.median(share[changed])) if changed.any() else float("nan")
        return {**out, "changed_share": float(changed.mean())}
