import math

import torch

from cf_cxr.models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from tests.models.attribute_classifier.test_attribute_classifier import BACKBONES, SCHEMA
from tests.models.test_modeling_common import ModelCommonTestsMixin


class ClassifierTests(ModelCommonTestsMixin):
    """What does not depend on the backbone."""

    model_class = AttributeClassifierModel
    num_hidden_states = 3
    backbone: dict = {}
    options: dict = {}

    def config(self):
        return AttributeClassifierConfig(
            attributes=SCHEMA.to_list(),
            backbone_config=dict(self.backbone),
            image_size=32,
            temperature={"sex": 1.5},
            **self.options,
        )

    def inputs(self):
        generator = torch.Generator().manual_seed(0)
        labels = [[63.0, 1, 2], [20.0, 0, 1], [math.nan, 1, 0], [45.0, math.nan, math.nan]]
        return {
            "pixel_values": torch.rand(4, 1, 32, 32, generator=generator) * 2 - 1,
            "labels": torch.tensor(labels),
        }

    def batch_outputs(self, model, inputs):
        posterior = model.predict(inputs["pixel_values"])
        return {**super().batch_outputs(model, inputs), **posterior, "map": posterior.mode()}


class TestWithGroupNormResNet(ClassifierTests):
    backbone = {"model_type": "bit", **BACKBONES["bit"]}


class TestWithBatchNormResNet(ClassifierTests):
    backbone = {"model_type": "resnet", **BACKBONES["resnet"]}
    options = {"layer_norm": True, "standardize": False}


class TestWithGridPooling(ClassifierTests):
    backbone = TestWithGroupNormResNet.backbone
    options = {"pool_grid": 2}


class TestWithProjection(ClassifierTests):
    backbone = TestWithGroupNormResNet.backbone
    options = {"pool_grid": 2, "projection_dim": 6}


class TestWithConvNeXt(ClassifierTests):
    backbone = {"model_type": "convnextv2", **BACKBONES["convnextv2"]}
    options = {"dropout": 0.1}


class TestWithTokens(ClassifierTests):
    """A backbone without feature maps, and one that checkpoints."""

    backbone = {
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 32,
        "patch_size": 8,
    }
