"""Explainers and classifiers whose answers are known in closed form, at 16x16 pixels."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from cf_cxr import CXRImageProcessor, ProgressiveExplainerConfig, ProgressiveExplainerModel
from cf_cxr.black_box import from_module

SIDE = 16
CLASS = "effusion"
SLOPE = 8.0


class MeanLogit(nn.Module):
    """The logit SLOPE * mean(x) + offset of an image, `(N, 1)`."""

    def __init__(self, offset=0.0):
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.tensor(SLOPE)), nn.Parameter(torch.tensor(float(offset)))

    def forward(self, x):
        return self.slope * x.mean((1, 2, 3))[:, None] + self.offset


def mean_classifier(threshold=0.5, class_name=CLASS, offset=0.0):
    """f(x) = sigmoid(SLOPE * mean(x) + offset)."""
    preprocess = {"channels": 1, "value_range": (-1, 1)}
    return from_module(
        MeanLogit(offset), preprocess, activation="sigmoid", class_name=class_name, threshold=threshold
    )


class KnownExplainer(ProgressiveExplainerModel):
    """x under bin k is x / 2 + levels[k]: its mean, hence its posterior, is known."""

    def set_levels(self, levels):
        self.levels = torch.as_tensor(levels, dtype=torch.float32)
        return self

    def decode(self, embedding, target_bins, pixel_values=None):
        condition = self._targets(target_bins, None, len(embedding))
        return pixel_values / 2 + self.levels[condition].view(-1, 1, 1, 1)


def known_explainer(levels=None, classifier=None, **config):
    """By default the levels are those that carry an image of mean 0 to the bins' centres under `mean_classifier()`."""
    classifier = classifier or mean_classifier()
    settings = {
        "image_size": SIDE,
        "widths": [4, 6],
        "class_name": classifier.class_name,
        "classifier_fingerprint": classifier.fingerprint(),
        "threshold": classifier.threshold,
        **config,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KnownExplainer(ProgressiveExplainerConfig(**settings)).eval()
    centres = model.bins.centres
    return model.set_levels(torch.logit(centres) / SLOPE if levels is None else levels)


def random_explainer(**config):
    """Random weights in which the target bin matters; trained for nobody."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ProgressiveExplainerModel(
            ProgressiveExplainerConfig(image_size=SIDE, widths=[4, 6], **config)
        ).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.startswith(("up_blocks", "norm_out")) and name.endswith(("gamma", "beta")):
                    weight.normal_(0, 1)
    return model


def processor():
    """Of these explainers."""
    return CXRImageProcessor(size=SIDE)


def flat_with_texture(mean: float, seed: int = 0) -> Image.Image:
    """A grey image of 16 x 16 whose mean on [-1, 1] is `mean` up to half a grey level in all, with some texture."""
    texture = np.random.default_rng(seed).integers(-20, 21, (SIDE, SIDE // 2))
    level = round((mean + 1) * 127.5)
    pixels = np.concatenate([level + texture, level - texture], axis=1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
