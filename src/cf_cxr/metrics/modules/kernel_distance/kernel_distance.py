"""Kernel distance as an evaluate module; `cf_cxr.metrics.distribution` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.distribution import kernel_distance_samples


def distances(
    predictions, references, degree=3, gamma=None, coef0=1.0, subset_size=None, n_subsets=100, seed=0
):
    """Mean and spread over subsets of the kernel distance of two sets of features."""
    options = {"degree": degree, "gamma": gamma, "coef0": coef0, "n_subsets": n_subsets, "seed": seed}
    values = kernel_distance_samples(predictions, references, subset_size=subset_size, **options)
    spread = {} if subset_size is None else {"kernel_distance_std": float(values.std())}
    return {"kernel_distance": float(values.mean()), **spread}


class KernelDistance(base.CXRMetric):
    """Unbiased squared maximum mean discrepancy with a polynomial kernel between the features of generated and of real
    images ("KID"). Zero on average for one distribution at every sample size; small negative values are normal.

    Args:
        predictions: features of generated images (N, D).
        references: features of real images (M, D); M may differ from N, and either may be added alone.
        degree (`int`, 3), gamma (`float`, 1 / D), coef0 (`float`, 1): of the kernel (gamma x·y + coef0)^degree.
        subset_size (`int`), n_subsets (`int`, 100), seed (`int`, 0): averages over subsets; without them all pairs count.

    Returns:
        kernel_distance, extractor; with subset_size also kernel_distance_std over the subsets.
    """

    function = staticmethod(distances)
    COLUMNS = {"predictions": base.NUMBERS, "references": base.NUMBERS}
    UNPAIRED = EXTRACTOR = True
    CITATION = """@inproceedings{binkowski2018demystifying,
    title={Demystifying MMD GANs},
    author={Bi{\\'n}kowski, Miko{\\l}aj and Sutherland, Danica J. and Arbel, Michael and Gretton, Arthur},
    booktitle={ICLR}, year={2018}
}"""
