"""Fréchet distance as an evaluate module; `cf_cxr.metrics.distribution` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.distribution import frechet_distance


class FrechetDistance(base.CXRMetric):
    """Squared Fréchet distance between Gaussians fitted to the features of generated and of real images ("FID"), exact
    also for fewer images than features. Biased upwards for few images: compare equal numbers only, and only with the same
    feature extractor.

    Args:
        predictions: features of generated images (N, D).
        references: features of real images (M, D); M may differ from N, and either may be added alone.

    Returns:
        frechet_distance, extractor.
    """

    function = staticmethod(frechet_distance)
    COLUMNS = {"predictions": base.NUMBERS, "references": base.NUMBERS}
    UNPAIRED = EXTRACTOR = True
    CITATION = """@inproceedings{heusel2017gans,
    title={GANs trained by a two time-scale update rule converge to a local Nash equilibrium},
    author={Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp},
    booktitle={NeurIPS}, year={2017}
}"""
