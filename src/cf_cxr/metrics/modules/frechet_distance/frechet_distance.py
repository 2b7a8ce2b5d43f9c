"""Fréchet distance as an evaluate module; `cf_cxr.metrics.distribution` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.distribution import frechet_distance


class FrechetDistance(base.CXRMetric):
    """See DESCRIPTION."""

    UNPAIRED = True
    CITATION = """@inproceedings{heusel2017gans,
    title={GANs trained by a two time-scale update rule converge to a local Nash equilibrium},
    author={Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp},
    booktitle={NeurIPS},
    year={2017}
}
"""
    DESCRIPTION = """Squared Fréchet distance between Gaussians fitted to the features of generated and of real images
("FID"), exact also for fewer images than features. Biased upwards for few images: compare equal numbers only, and only
with the same feature extractor.
"""
    INPUTS = """
Args:
    predictions: features of generated images (N, D).
    references: features of real images (M, D); M may differ from N, and either may be added alone.
    extractor (`str`): name of the network that made the features; required, and part of the result.
Returns:
    frechet_distance, extractor.
"""

    def columns(self):
        return {"predictions": base.numbers(), "references": base.numbers()}

    def score(self, data, extractor=None):
        if not extractor:
            raise ValueError("Name the network that made the features: compute(..., extractor=...).")
        return {
            "frechet_distance": frechet_distance(data["predictions"], data["references"]),
            "extractor": extractor,
        }
