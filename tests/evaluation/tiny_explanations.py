"""Drawn chests whose every measurement is known, a linear black box of one patch, and explainers made by hand."""

import numpy as np
import torch

from cf_cxr.black_box import ImageClassifier
from cf_cxr.evaluation.explanations.collecting import ExplanationCollector
from cf_cxr.evaluation.explanations.summary import Summary
from cf_cxr.models.progressive_explainer.posterior_bins import PosteriorBins

SIDE = 32
LUNG, HEART, DEVICE = -0.6, 0.3, 0.95
NARROW, WIDE, THORAX = 8, 12, 26  # widths in pixels
SLOPE = 4.0


class PatchClassifier(ImageClassifier):
    """sigmoid(slope * mean of the lower rows); the class is present from 0.5 on."""

    image_size = SIDE

    def __init__(self, slope=SLOPE):
        super().__init__("bright patch")
        self.slope = torch.nn.Parameter(torch.tensor(float(slope)))

    def compute_posterior(self, pixel_values):
        rows = pixel_values.shape[2] * 26 // 32
        return torch.sigmoid(self.slope * pixel_values[:, 0, rows:].mean((1, 2)))


def make_classifier():
    """A factory, for `module:function`."""
    return PatchClassifier()


def make_other_classifier():
    """Another one."""
    return PatchClassifier(2.0)


class GreySegmenter:
    """Reads organs and devices off their grey levels."""

    def segment(self, pixel_values):
        x = pixel_values[:, 0]
        inside = torch.zeros_like(x, dtype=torch.bool)
        inside[:, 4:24] = True
        return {
            "lungs": inside & (x < -0.5),
            "heart": inside & ((x - HEART).abs() < 0.05),
            "devices": x > 0.9,
        }


def set_patch(images, posterior):
    """The images with lower rows that make the classifier say `posterior` (N,), exactly."""
    out = images.clone()
    out[:, :, images.shape[2] * 26 // 32 :] = (torch.logit(posterior) / SLOPE)[:, None, None, None]
    return out


def set_heart(images, wide):
    """Hearts of 8 or, where `wide` (N,), 12 pixels."""
    out = images.clone()
    out[:, :, 14:20, 10:22] = LUNG
    out[:, :, 14:20, 13:19] = 0.0
    out[:, :, 14:20, 12:20] = HEART
    for i in wide.nonzero()[:, 0]:
        out[i, :, 14:20, 10:22] = HEART
    return out


class DrawnChests:
    """`size` patients; posteriors evenly over (0.05, 0.95), hearts wide above 0.5, devices in every other image."""

    def __init__(self, size=40, batch_size=16):
        generator = torch.Generator().manual_seed(0)
        images = torch.zeros(size, 1, SIDE, SIDE)
        images[:, :, :3] = (
            torch.rand(size, 1, 3, SIDE, generator=generator) - 0.5
        )  # the patient's own pattern
        images[:, :, 6:22, 3:13] = LUNG
        images[:, :, 6:22, 19:29] = LUNG
        posterior = 0.05 + 0.9 * (torch.arange(size) + 0.5) / size
        images = set_heart(set_patch(images, posterior), posterior >= 0.5)
        images[::2, :, 8:11, 4:8] = DEVICE
        self.images, self.batch_size = images, batch_size
        self.posterior = posterior
        self.patients = [f"p{i}" for i in range(size)]
        self.ratio = torch.where(posterior >= 0.5, WIDE, NARROW) / THORAX

    def batches(self):
        for index, start in enumerate(range(0, len(self.images), self.batch_size)):
            rows = slice(start, start + self.batch_size)
            images = self.images[rows]
            yield (
                index,
                start,
                {
                    "pixel_values": images,
                    "masks": GreySegmenter().segment(images),
                    "cardiothoracic_ratio": self.ratio[rows],
                    "costophrenic_angles": torch.full((len(images), 2), 90.0),
                },
            )


class ByTarget:
    """An explainer from a function of images and one target per image."""

    image_size = SIDE

    def __init__(self, function):
        self.function = function

    def series(self, pixel_values, classifier, targets):
        images = [self.function(pixel_values, t.expand(len(pixel_values))) for t in targets]
        return torch.stack(images, dim=1), None


def ideal(images, target):
    return set_heart(set_patch(images, target), target >= 0.5)


def make_patch_explainer():
    """A factory, for `module:function`: right about the posterior, on any image."""
    return ByTarget(set_patch)


def eraser(images, target):
    """Ideal, but devices become lung."""
    return torch.where(images > 0.9, LUNG, ideal(images, target))


def records_of(explainer, data=None, **options):
    """Records of drawn chests under an explainer."""
    data = data or DrawnChests()
    collector = ExplanationCollector(
        explainer,
        PatchClassifier(),
        PosteriorBins(10).centres,
        **{"segmenter": GreySegmenter(), "embedding": lambda images: images[:, 0, :3].flatten(1), **options},
    )
    parts = [collector(*batch) for batch in data.batches()]
    return {name: np.concatenate([p[name] for p in parts if name in p]) for name in parts[0]}


def results_of(explainer, data=None, **options):
    """Results of drawn chests under an explainer."""
    data = data or DrawnChests()
    records = records_of(explainer, data, **options)
    settings = {"threshold": 0.5, "size": (SIDE, SIDE), "n_resamples": 50, "feature_extractor": "pattern"}
    return Summary(records, data.patients, **settings).results()
