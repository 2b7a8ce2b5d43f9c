"""Exaggeration curve as an evaluate module; `cf_cxr.metrics.exaggeration` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.exaggeration import exaggeration_curve


class ExaggerationCurve(base.CXRMetric):
    """See DESCRIPTION."""

    CITATION = base.CITATION_EXPLAINING
    URL = base.URL_EXPLAINING
    DESCRIPTION = """Does the classifier answer what an explanation was asked for? Mean posterior reached per bin of the
posterior asked for, by group of source images (all, negative, positive by factual decision), with the least-squares slope
on the bin centres (ideal 1) and the mean over bins of |mean reached - centre| (ideal 0).
"""
    INPUTS = f"""
Args:
    predictions: posteriors the explanations reached (N, S), one per step, in [0, 1].
    references: posteriors asked for (N, S).
    posteriors: of the source images (N,).
{base.PATIENTS_DESCRIPTION}    n_bins (`int`, 10): equal bins of [0, 1].
    threshold (`float`, 0.5): decision boundary.
    by_source_bin (`bool`, False): adds a group per bin of the source posterior.
{base.INTERVAL_DESCRIPTION}Returns:
    for each group, prefixed by its name: images, centres, counts, means (list, NaN in empty bins), slope, intercept, mae,
    image_mae (nothing cancels within a bin), empty_bins; means, slope, intercept, mae and image_mae with "_interval".
"""

    def columns(self):
        return {
            "predictions": base.numbers(),
            "references": base.numbers(),
            "posteriors": base.NUMBER,
            "patients": base.TEXT,
        }

    def score(self, data, n_bins=10, threshold=0.5, by_source_bin=False, n_resamples=1000, seed=0):
        return base.group_results(
            exaggeration_curve(
                data["posteriors"],
                data["references"],
                data["predictions"],
                n_bins,
                base.patient_names(data["patients"]),
                threshold=threshold,
                by_source_bin=by_source_bin,
                n_resamples=n_resamples,
                seed=seed,
            )
        )
