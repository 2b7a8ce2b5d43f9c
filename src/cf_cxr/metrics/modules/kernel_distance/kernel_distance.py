"""Kernel distance as an evaluate module; `cf_cxr.metrics.distribution` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.distribution import kernel_distance_samples


class KernelDistance(base.CXRMetric):
    """See DESCRIPTION."""

    UNPAIRED = True
    CITATION = """@inproceedings{binkowski2018demystifying,
    title={Demystifying MMD GANs},
    author={Bi{\\'n}kowski, Miko{\\l}aj and Sutherland, Danica J. and Arbel, Michael and Gretton, Arthur},
    booktitle={ICLR},
    year={2018}
}
"""
    DESCRIPTION = """Unbiased squared maximum mean discrepancy with a polynomial kernel between the features of generated
and of real images ("KID"). Zero on average for one distribution at every sample size; small negative values are normal.
"""
    INPUTS = """
Args:
    predictions: features of generated images (N, D).
    references: features of real images (M, D); M may differ from N, and either may be added alone.
    extractor (`str`): name of the network that made the features; required, and part of the result.
    degree (`int`, 3), gamma (`float`, 1 / D), coef0 (`float`, 1): of the kernel (gamma x·y + coef0)^degree.
    subset_size (`int`), n_subsets (`int`, 100), seed (`int`, 0): averages over subsets; without them all pairs are used.
Returns:
    kernel_distance, extractor; with subset_size also kernel_distance_std over the subsets.
"""

    def columns(self):
        return {"predictions": base.numbers(), "references": base.numbers()}

    def score(
        self, data, extractor=None, degree=3, gamma=None, coef0=1.0, subset_size=None, n_subsets=100, seed=0
    ):
        if not extractor:
            raise ValueError("Name the network that made the features: compute(..., extractor=...).")
        options = {"degree": degree, "gamma": gamma, "coef0": coef0}
        options |= {"subset_size": subset_size, "n_subsets": n_subsets, "seed": seed}
        values = kernel_distance_samples(data["predictions"], data["references"], **options)
        out = {"kernel_distance": float(values.mean()), "extractor": extractor}
        return out if subset_size is None else {**out, "kernel_distance_std": float(values.std())}
