"""Exaggeration curve as an evaluate module; `cf_cxr.metrics.exaggeration` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.exaggeration import exaggeration_curve


class ExaggerationCurve(base.CXRMetric):
    """Does the classifier answer what an explanation was asked for? Mean posterior reached per bin of the posterior asked
    for, by group of source images (all, negative, positive by factual decision), with the least-squares slope on the bin
    centres (ideal 1) and the mean over bins of |mean reached - centre| (ideal 0).

    Args:
        posteriors: of the source images (N,).
        references: posteriors asked for (N, S), one per step, in [0, 1].
        predictions: posteriors the explanations reached (N, S).
        n_bins (`int`, 10): equal bins of [0, 1].
        threshold (`float`, 0.5): decision boundary.
        by_source_bin (`bool`, False): adds a group per bin of the source posterior.
        confidence (`float`, 0.95): of the intervals.

    Returns:
        for each group, prefixed by its name: images, centres, counts, means (list, NaN in empty bins), slope, intercept,
        mae, image_mae (nothing cancels within a bin), empty_bins; means, slope, intercept, mae and image_mae with
        "_interval".
    """

    function = staticmethod(exaggeration_curve)
    COLUMNS = {
        **{"posteriors": base.NUMBER, "references": base.NUMBERS, "predictions": base.NUMBERS},
        "patients": base.TEXT,
    }
    CITATION, URL = base.EXPLAINING, base.EXPLAINING_URL
