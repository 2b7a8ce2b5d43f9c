"""Cardiothoracic ratio as an evaluate module; `cf_cxr.metrics.cardiothoracic` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.cardiothoracic import cardiothoracic_ratio
from cf_cxr.metrics.paired_tests import change_by_decision


class CardiothoracicRatio(base.CXRMetric):
    """See DESCRIPTION."""

    CITATION = base.CITATION_EXPLAINING
    URL = base.URL_EXPLAINING
    DESCRIPTION = """Cardiothoracic ratio (maximal heart width over maximal thorax width of binary masks) of images and of
their explanations, by factual decision, with the mean change, a paired t-test and Wilcoxon's signed-rank test.
"""
    INPUTS = f"""
Args:
    predictions: heart masks of the explanations (N, H, W), binary.
    references: heart masks of the source images.
    thoraxes, reference_thoraxes: thorax masks, or the union of both lungs, of explanations and source images.
    posteriors: of the source images (N,), in [0, 1].
{base.PATIENTS_DESCRIPTION}    width (`int`): pixels per row; without it images are square.
    threshold (`float`, 0.5): decision boundary.
    rises_with_posterior (`bool`): True expects a rise from negative and a fall from positive images, False the opposite;
        without it tests are two-sided.
{base.INTERVAL_DESCRIPTION}Returns:
    for "negative" and "positive" (factual decision), prefixed by the name: pairs, undefined (images left out since a
    mask is empty), patients, before, after, change (mean, with "_interval"), direction, alternative, t_p, wilcoxon_p.
"""

    def columns(self):
        image = base.pixels()
        names = ("predictions", "references", "thoraxes", "reference_thoraxes")
        return {**dict.fromkeys(names, image), "posteriors": base.NUMBER, "patients": base.TEXT}

    def score(self, data, width=None, threshold=0.5, rises_with_posterior=None, n_resamples=1000, seed=0):
        before, after = (
            cardiothoracic_ratio(*(base.to_masks(name, data[name], width) for name in pair))
            for pair in (("references", "reference_thoraxes"), ("predictions", "thoraxes"))
        )
        return base.group_results(
            change_by_decision(
                before,
                after,
                data["posteriors"],
                threshold=threshold,
                rises_with_posterior=rises_with_posterior,
                patients=base.patient_names(data["patients"]),
                n_resamples=n_resamples,
                seed=seed,
            )
        )
