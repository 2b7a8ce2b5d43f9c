"""Cardiothoracic ratio as an evaluate module; `cf_cxr.metrics.cardiothoracic` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.cardiothoracic import cardiothoracic_ratio
from cf_cxr.metrics.paired_tests import change_by_decision


def change(
    predictions, references, thoraxes, reference_thoraxes, posteriors, patients,
    threshold=0.5, rises_with_posterior=None, n_resamples=1000, seed=0,
):  # fmt: skip
    """The change of the ratio, by decision; arguments as the module describes them."""
    before = cardiothoracic_ratio(references, reference_thoraxes)
    after = cardiothoracic_ratio(predictions, thoraxes)
    options = {"threshold": threshold, "rises_with_posterior": rises_with_posterior}
    options |= {"patients": patients, "n_resamples": n_resamples, "seed": seed}
    return change_by_decision(before, after, posteriors, **options)


class CardiothoracicRatio(base.CXRMetric):
    """Cardiothoracic ratio (maximal heart width over maximal thorax width of binary masks) of images and of their
    explanations, by factual decision, with the mean change, a paired t-test and Wilcoxon's signed-rank test.

    Args:
        predictions: heart masks of the explanations (N, H, W), binary.
        references: heart masks of the source images.
        thoraxes, reference_thoraxes: thorax masks, or the union of both lungs, of explanations and source images.
        posteriors: of the source images (N,), in [0, 1].
        threshold (`float`, 0.5): decision boundary.
        rises_with_posterior (`bool`): True expects a rise from negative and a fall from positive images, False the
            opposite; without it tests are two-sided.

    Returns:
        for "negative" and "positive" (factual decision), prefixed by the name: pairs, undefined (images left out since a
        mask is empty), patients, before, after, change (mean, with "_interval"), direction, alternative, t_p, wilcoxon_p.
    """

    function = staticmethod(change)
    COLUMNS = {
        **dict.fromkeys(("predictions", "references", "thoraxes", "reference_thoraxes"), base.IMAGES),
        **{"posteriors": base.NUMBER, "patients": base.TEXT},
    }
    CITATION, URL = base.EXPLAINING, base.EXPLAINING_URL
