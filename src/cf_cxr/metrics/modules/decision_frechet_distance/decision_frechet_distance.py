"""Fréchet distance per decision as an evaluate module; `cf_cxr.metrics.decision_distribution` is the plain function."""

import numpy as np

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.decision_distribution import decision_frechet_distance


class DecisionFrechetDistance(base.CXRMetric):
    """See DESCRIPTION."""

    UNPAIRED = True
    CITATION = base.CITATION_EXPLAINING
    URL = base.URL_EXPLAINING
    DESCRIPTION = """Squared Fréchet distance ("FID") between the features of explanations and of real images that the
classifier puts on the same side of the decision boundary. Biased upwards for few images: equal numbers are drawn on both
sides by default. Only comparable with the same feature extractor; NaN for a group with fewer than two images.
"""
    INPUTS = """
Args:
    predictions: features of the explanations (N, D).
    references: features of real images (M, D); M may differ from N.
    prediction_posteriors: posteriors that the explanations reached (N,).
    reference_posteriors: posteriors of the real images (M,).
    extractor (`str`): name of the network that made the features; required, and part of the result.
    threshold (`float`, 0.5): decision boundary.
    equal_numbers (`bool`, True): draws the larger side of each group down to the smaller.
    seed (`int`, 0): of that draw.
Returns:
    for "negative" and "positive", prefixed by the name: distance, real, explanations (numbers of images); extractor.
"""

    def columns(self):
        return {
            "predictions": base.numbers(),
            "references": base.numbers(),
            "prediction_posteriors": base.NUMBER,
            "reference_posteriors": base.NUMBER,
        }

    def score(self, data, extractor=None, threshold=0.5, equal_numbers=True, seed=0):
        if not extractor:
            raise ValueError("Name the network that made the features: compute(..., extractor=...).")
        posteriors = {}
        for name in ("prediction", "reference"):
            values = data[f"{name}_posteriors"]
            posteriors[name] = values[~np.isnan(values)]  # rows of the longer side have no partner
            if len(posteriors[name]) != len(data[f"{name}s"]):
                raise ValueError(
                    f"{name}_posteriors has {len(posteriors[name])} numbers (NaN left out) for "
                    f"{len(data[f'{name}s'])} rows of {name}s; give one posterior per image."
                )
        groups = decision_frechet_distance(
            data["references"],
            data["predictions"],
            posteriors["reference"],
            posteriors["prediction"],
            threshold=threshold,
            equal_numbers=equal_numbers,
            seed=seed,
        )
        return {**base.group_results(groups), "extractor": extractor}
