"""A DeepSCM of a few thousand random weights at 16x16 pixels, and radiograph-like images, for the tests."""

import numpy as np
import torch
from PIL import Image

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
)
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
    """The image processor that goes with `tiny_model`."""
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
