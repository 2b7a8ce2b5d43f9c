"""Models of a few thousand weights at 16x16 pixels, random or with answers in closed form, and images for them."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from cf_cxr import (
    Attribute,
    AttributeClassifierConfig,
    AttributeSchema,
    AttributeSCMConfig,
    CausalFlowConfig,
    CausalHVAEConfig,
    CXRImageProcessor,
    DeepSCMConfig,
    DeepSCMModel,
    ProgressiveExplainerConfig,
    ProgressiveExplainerModel,
)
from cf_cxr.black_box import from_module
from cf_cxr.images.out_of_distribution import KINDS, NUM_FEATURES, film_features

SIDE = 16
SCHEMA = AttributeSchema(
    [
        Attribute("age", "continuous", minimum=0.0, maximum=100.0, unit="years"),
        Attribute("sex", "binary", categories=("Male", "Female")),
        Attribute("site", "categorical", categories=("A", "B", "C")),
        Attribute("finding", "binary", categories=("No Finding", "Effusion")),
    ]
)
GRAPH = {"age": [], "sex": [], "site": [], "finding": ["age"]}


MECHANISMS = {
    "hvae": CausalHVAEConfig(
        image_size=SIDE,
        context_dim=SCHEMA.dim,
        encoder_blocks="16b1d4,4b1d4,1b1",
        decoder_blocks="1b1,4b1,16b1",
        widths=[8, 8, 8],
        z_dim=2,
        bottleneck=2,
        z_max_res=4,
        bias_max_res=4,
    ),
    "flow": CausalFlowConfig(
        attribute_names=list(SCHEMA.names),
        attribute_sizes=[a.size for a in SCHEMA],
        image_size=SIDE,
        patch_size=2,
        block_out_channels=[8, 16],
        layers_per_block=1,
    ),
}


def tiny_model(graph=GRAPH, mechanism="hvae") -> DeepSCMModel:
    """Random weights, with the parents' influence on the image strengthened so that interventions show."""
    config = DeepSCMConfig(
        scm_config=AttributeSCMConfig(attributes=SCHEMA.to_list(), graph=graph, hidden_sizes=[8]),
        image_config=MECHANISMS[mechanism],
        classifier_config=AttributeClassifierConfig(
            attributes=SCHEMA.to_list(),
            image_size=SIDE,
            backbone_config={
                "model_type": "resnet",
                "embedding_size": 4,
                "hidden_sizes": [4, 8],
                "depths": [1, 1],
                "layer_type": "basic",
            },
        ),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DeepSCMModel(config).eval()
        with torch.no_grad():
            for name, weight in model.image_mechanism.named_parameters():
                if "z_proj" in name:
                    weight.mul_(8)
                if "attribute_embedding.values" in name:
                    weight.mul_(3)
            for name, weight in model.named_parameters():
                if name.startswith(("classifier.heads", "attribute_scm")) and weight.ndim == 2:
                    weight.mul_(20)
    return model


def tiny_processor() -> CXRImageProcessor:
    """The image processor that goes with these models."""
    return CXRImageProcessor(size=SIDE)


def processor_knowing(image, side: int = SIDE) -> CXRImageProcessor:
    """One that calls the inverted `image` inverted, and everything that is unlike its negative usual."""
    layout = film_features(CXRImageProcessor(size=side)(image)["pixel_values"])[0, :256]
    nothing = [0.0] * NUM_FEATURES
    record = {
        "mean": nothing,
        "std": [1.0] * NUM_FEATURES,
        "weight": [(-layout).tolist() + [0.0] * (NUM_FEATURES - 256), *[nothing] * (len(KINDS) - 1)],
        "bias": [0.0] * len(KINDS),
        "distance_limit": 100.0,
        "log_odds_limit": 0.5 * float(layout.square().sum()),
    }
    return CXRImageProcessor(size=side, usual_films=record)


def grey_image(seed: int, side: int = SIDE) -> Image.Image:
    """A smooth random grey image that spans most of the range."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def save_tiny(folder, mechanism="hvae") -> str:
    """Writes model and processor as a user would; returns the folder's path."""
    tiny_model(mechanism=mechanism).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


# ---------------------------------------------------------------- explainers and classifiers with known answers

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


def flat_with_texture(mean: float, seed: int = 0) -> Image.Image:
    """A grey image of 16 x 16 whose mean on [-1, 1] is `mean` up to half a grey level in all, with some texture."""
    texture = np.random.default_rng(seed).integers(-20, 21, (SIDE, SIDE // 2))
    level = round((mean + 1) * 127.5)
    pixels = np.concatenate([level + texture, level - texture], axis=1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
