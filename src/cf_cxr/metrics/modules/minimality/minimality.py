"""Minimality of counterfactuals as an evaluate module; `cf_cxr.metrics.minimality` is the plain function."""

import numpy as np

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.minimality import latent_minimality


class Minimality(base.CXRMetric):
    """See DESCRIPTION."""

    CONFIGS = base.KIND_CONFIGS
    CITATION = base.CITATION_BENCHMARK
    DESCRIPTION = """Counterfactual latent divergence: does a counterfactual stay closer to its factual image than other
real images of the new class are, yet farther than those of the old class? Between 0 (ideal) and 1. Configurations: kind
of the intervened attribute (binary, categorical, continuous).
"""
    INPUTS = f"""
Args:
    predictions: latents of the counterfactuals (N, D); (N, 2, D), mean and log standard deviation, for distance="kl".
    references: latents of the factual images.
    values, counterfactual_values: of the intervened attribute, factual and counterfactual.
{base.PATIENTS_DESCRIPTION}    distance (`str`, "l1"): or "kl".
    n_bins (`int`, 10): of a continuous attribute, whose values are the same within a bin.
{base.INTERVAL_DESCRIPTION}Returns:
    minimality (mean), minimality_interval, defined_share (of images that have a yard-stick).
"""

    def columns(self):
        return {
            "predictions": base.numbers(),
            "references": base.numbers(),
            "values": base.NUMBER,
            "counterfactual_values": base.NUMBER,
            "patients": base.TEXT,
        }

    def score(self, data, distance="l1", n_bins=10, n_resamples=1000, seed=0):
        latents = [data["references"], data["predictions"]]
        if distance == "kl":
            if any(z.shape[1] % 2 for z in latents):
                raise ValueError('distance="kl" needs latents (N, 2, D): mean and log standard deviation.')
            latents = [z.reshape(len(z), 2, -1) for z in latents]
        values = latent_minimality(
            self.config_name,
            *latents,
            data["values"],
            data["counterfactual_values"],
            distance=distance,
            n_bins=n_bins,
        )
        out = base.mean_with_interval("minimality", values, data["patients"], n_resamples, seed)
        return {**out, "defined_share": float(1 - np.isnan(values).mean())}
