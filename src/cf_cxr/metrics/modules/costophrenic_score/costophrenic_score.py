"""Costophrenic score as an evaluate module; `cf_cxr.metrics.costophrenic` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.costophrenic import costophrenic_score
from cf_cxr.metrics.paired_tests import change_by_decision


def change(
    predictions, references, posteriors, patients,
    threshold=0.5, rises_with_posterior=None, n_resamples=1000, seed=0,
):  # fmt: skip
    """The change of the score, by decision; arguments as the module describes them."""
    before, after = costophrenic_score(references), costophrenic_score(predictions)
    options = {"threshold": threshold, "rises_with_posterior": rises_with_posterior}
    options |= {"patients": patients, "n_resamples": n_resamples, "seed": seed}
    return change_by_decision(before, after, posteriors, **options)


class CostophrenicScore(base.CXRMetric):
    """Score of the costophrenic recesses from lung masks, 1 - angle / 180 of the blunter side (near 0.8 sharp, below 0.5
    fluid climbs the wall), of images and of their explanations, by factual decision, with the mean change, a paired
    t-test and Wilcoxon's signed-rank test. A geometric stand-in for the detector of the paper.

    Args:
        predictions: lung masks (union of both) of the explanations (N, H, W), binary.
        references: lung masks of the source images.
        posteriors: of the source images (N,), in [0, 1].
        threshold (`float`, 0.5): decision boundary.
        rises_with_posterior (`bool`): False expects a fall from negative and a rise from positive images (effusion),
            True the opposite; without it tests are two-sided.

    Returns:
        for "negative" and "positive" (factual decision), prefixed by the name: pairs, undefined (images left out since a
        lung is missing), patients, before, after, change (mean, with "_interval"), direction, alternative, t_p,
        wilcoxon_p.
    """

    function = staticmethod(change)
    COLUMNS = {
        **dict.fromkeys(("predictions", "references"), base.IMAGES),
        **{"posteriors": base.NUMBER, "patients": base.TEXT},
    }
    CITATION, URL = base.EXPLAINING, base.EXPLAINING_URL
