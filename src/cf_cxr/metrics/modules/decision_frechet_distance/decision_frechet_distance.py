"""Fréchet distance per decision as an evaluate module; `cf_cxr.metrics.decision_distribution` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.decision_distribution import decision_frechet_distance


class DecisionFrechetDistance(base.CXRMetric):
    """Squared Fréchet distance ("FID") between the features of explanations and of real images that the classifier puts
    on the same side of the decision boundary. Biased upwards for few images: equal numbers are drawn on both sides by
    default. Only comparable with the same feature extractor; NaN for a group with fewer than two images.

    Args:
        references: features of real images (M, D).
        predictions: features of the explanations (N, D); N may differ from M, and either may be added alone.
        reference_posteriors: posteriors of the real images (M,).
        prediction_posteriors: posteriors that the explanations reached (N,).
        threshold (`float`, 0.5): decision boundary.
        equal_numbers (`bool`, True): draws the larger side of each group down to the smaller.
        seed (`int`, 0): of that draw.

    Returns:
        for "negative" and "positive", prefixed by the name: distance, real, explanations (numbers of images); extractor.
    """

    function = staticmethod(decision_frechet_distance)
    COLUMNS = {
        **dict.fromkeys(("references", "predictions"), base.NUMBERS),
        **dict.fromkeys(("reference_posteriors", "prediction_posteriors"), base.NUMBER),
    }
    UNPAIRED = EXTRACTOR = True
    CITATION, URL = base.EXPLAINING, base.EXPLAINING_URL
