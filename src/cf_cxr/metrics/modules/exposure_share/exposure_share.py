"""Exposure share as an evaluate module; `cf_cxr.metrics.exposure` is the plain function."""

import numpy as np
import torch

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.exposure import exposure_share


def shares(predictions, references):
    """Share of each change that one grey-level curve explains."""
    if predictions.shape != references.shape:
        raise ValueError(
            f"predictions and references must be images of one size, got {predictions.shape} and {references.shape} "
            "(flattened)."
        )
    share = exposure_share(torch.tensor(references), torch.tensor(predictions)).double().numpy()
    changed = share[~np.isnan(share)]
    median = float(np.median(changed)) if len(changed) else float("nan")
    return {
        "exposure_share": share, "exposure_share_median": median, "changed_share": len(changed) / len(share)
    }  # fmt: skip


class ExposureShare(base.CXRMetric):
    """Share of the squared change between factual and counterfactual image that one global affine map of intensities
    explains, between 0 and 1. Near 1 the intervention is a change of brightness and contrast, not of anatomy. Images that
    did not change have no share and are left out.

    Args:
        predictions: counterfactual images in [-1, 1], any shape.
        references: factual images.

    Returns:
        exposure_share (mean), exposure_share_interval, exposure_share_median, changed_share (of images with a change);
        NaN if no image changed.
    """

    function = staticmethod(shares)
    COLUMNS = {"predictions": base.PIXELS, "references": base.PIXELS, "patients": base.TEXT}
    CITATION = base.PACKAGE
