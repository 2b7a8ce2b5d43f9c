"""Minimality of counterfactuals as an evaluate module; `cf_cxr.metrics.minimality` is the plain function."""

import numpy as np

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.minimality import latent_minimality


def divergences(kind, references, predictions, values, counterfactual_values, distance="l1", n_bins=10):
    """Latent distance of each image to its counterfactual."""
    latents = [references, predictions]
    if distance == "kl":
        if any(z.shape[1] % 2 for z in latents):
            raise ValueError('distance="kl" needs latents (N, 2, D): mean and log standard deviation.')
        latents = [z.reshape(len(z), 2, -1) for z in latents]
    given = (*latents, values, counterfactual_values)
    found = latent_minimality(kind, *given, distance=distance, n_bins=n_bins)
    return {"minimality": found, "defined_share": float(1 - np.isnan(found).mean())}


class Minimality(base.CXRMetric):
    """Counterfactual latent divergence: does a counterfactual stay closer to its factual image than other real images of
    the new class are, yet farther than those of the old class? Between 0 (ideal) and 1. Configurations: kind of the
    intervened attribute (binary, categorical, continuous).

    Args:
        references: latents of the factual images (N, D); (N, 2, D), mean and log standard deviation, for distance="kl".
        predictions: latents of the counterfactuals.
        values, counterfactual_values: of the intervened attribute, factual and counterfactual.
        distance (`str`, "l1"): or "kl".
        n_bins (`int`, 10): of a continuous attribute, whose values are the same within a bin.

    Returns:
        minimality (mean), minimality_interval, defined_share (of images that have a yard-stick).
    """

    function = staticmethod(divergences)
    COLUMNS = {
        **dict.fromkeys(("references", "predictions"), base.NUMBERS),
        **dict.fromkeys(("values", "counterfactual_values"), base.NUMBER),
        "patients": base.TEXT,
    }
    CONFIGS = base.KINDS
    CITATION = base.BENCHMARK
