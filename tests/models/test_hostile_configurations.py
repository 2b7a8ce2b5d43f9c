"""A config.json may come from anybody: whatever stands in it, it loads within bounds or a ValueError names the key."""

import dataclasses
import json
import math
from functools import partial

import pytest
from transformers import AutoConfig, BitConfig, PreTrainedConfig

import cf_cxr
from cf_cxr.auto import MODELS
from cf_cxr.models.complete_loading import load_complete, load_config

HUGE = 10**9


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"backbone_config": value, "list": [value]}
    return value


HOSTILE = {
    "huge": HUGE,
    "larger than a float": 10**400,
    "minus one": -1,
    "zero": 0,
    "float": 2.5,
    "nan": math.nan,
    "infinity": math.inf,
    "true": True,
    "null": None,
    "text": "many",
    "long text": "1" * 100_000,
    "blocks": "128b1000000000",
    "pool by zero": "64b1d0,32b1",
    "list": [HUGE],
    "list of text": ["many"],
    "long list": [1] * 1000,
    "empty list": [],
    "list of nan": [math.nan, 4, 4, 4],
    "dict": {"num_labels": HUGE},
    "list of dicts": [{"name": "age", "kind": "continuous", "minimum": -math.inf, "maximum": "old"}],
    "nested": nested(1000),
}
EXTRA = (
    "quantization_config",
    "num_labels",
    "torch_dtype",
    "validate",
    "attribute_map",
    "sub_configs",
    "name_or_path",
)


def keys(config_class):
    return [*(f.name for f in dataclasses.fields(config_class)), *EXTRA]


def largest(value):
    """The largest integer anywhere in a configuration."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return max(map(largest, value), default=0)
    return abs(value) if type(value) is int else 0


@pytest.mark.parametrize("config_class", MODELS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_each_key_with_each_value(config_class, value):
    refused = 0
    for key in keys(config_class):
        try:
            config = config_class(**{key: value})
        except ValueError as error:
            message, refused = str(error), refused + 1
            assert key in message and len(message) < 2000, message[:2000]
        else:
            assert largest(config.to_dict()) <= 65_536, key
            config_class.from_dict(config.to_dict())
    assert refused or value is None


BACKBONE = {
    "model_type": "bit",
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "embedding_size": 8,
    "num_groups": 4,
}


@pytest.mark.parametrize(
    "key", sorted({*BitConfig().to_dict(), "depths", "model_type", "quantization_config"})
)
def test_each_key_of_a_backbone(key):
    for value in HOSTILE.values():
        try:
            config = cf_cxr.AttributeClassifierConfig(backbone_config={**BACKBONE, key: value})
        except ValueError as error:
            named = key if key not in ("model_type", "global_padding") else "backbone_config"
            assert named in str(error)
        else:
            assert largest(config.to_dict()) <= 65_536


@pytest.mark.parametrize(
    "settings, key",
    [
        ({"depths": [1000, 1000]}, "backbone_config"),
        ({"hidden_sizes": [4096] * 4, "depths": [200] * 4}, "backbone_config"),
        ({"width_factor": 64, "hidden_sizes": [4096, 4096]}, "backbone_config"),
        ({"model_type": "convnextv2", "patch_size": 10_000}, "patch_size"),
        ({"model_type": "vit", "hidden_size": 4096, "num_hidden_layers": 999}, "backbone_config"),
        (
            {
                "model_type": "attribute_classifier",
                "backbone_config": {"model_type": "bit", "depths": [HUGE]},
            },
            "depths",
        ),
    ],
)
def test_backbones_too_large_in_all(settings, key):
    with pytest.raises(ValueError, match=key):
        cf_cxr.AttributeClassifierConfig(backbone_config={**BACKBONE, **settings})


def test_a_backbone_given_as_an_object_is_bounded_too():
    with pytest.raises(ValueError, match="depths"):
        cf_cxr.AttributeClassifierConfig(backbone_config=BitConfig(depths=[HUGE, 1, 1, 1]))


@pytest.mark.parametrize(
    "config_class, settings, key",
    [
        (cf_cxr.CausalHVAEConfig, {"encoder_blocks": "64b1d2,32b1000000000d2,16b1d16,1b1"}, "encoder_blocks"),
        (cf_cxr.CausalHVAEConfig, {"decoder_blocks": "1b1,64b1000000000"}, "decoder_blocks"),
        (cf_cxr.CausalHVAEConfig, {"encoder_blocks": "64b999d2,32b999d2,16b1d2,8b1d2,4b1d4,1b1"}, "widths"),
        (cf_cxr.CausalHVAEConfig, {"widths": [4096] * 6}, "widths"),
        (cf_cxr.CausalFlowConfig, {"block_out_channels": [4096] * 4}, "block_out_channels"),
        (cf_cxr.ProgressiveExplainerConfig, {"widths": [4096] * 10, "image_size": 512}, "widths"),
        (cf_cxr.AttributeSCMConfig, {"hidden_sizes": [4096] * 64}, "hidden_sizes"),
    ],
)
def test_networks_too_large_in_all(config_class, settings, key):
    with pytest.raises(ValueError, match=key):
        config_class(**settings)


PARTS = ("scm_config", "image_config", "classifier_config")


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_a_deep_scm(part):
    for value in [
        {"model_type": "nothing"},
        {"model_type": [1]},
        {"model_type": "bit"},
        {"depths": nested(1000)},
    ]:
        with pytest.raises(ValueError, match=part):
            cf_cxr.DeepSCMConfig(**{part: value})
    other = cf_cxr.AnatomySegmenterConfig()
    with pytest.raises(ValueError, match=f"{part}.*anatomy_segmenter"):
        cf_cxr.DeepSCMConfig(**{part: other})


@pytest.mark.parametrize("depth", [30, 1000, 100_000])
def test_files_nested_without_end(tmp_path, depth):
    text = json.dumps({"model_type": "attribute_classifier"})[:-1]
    opened = ', "backbone_config": {"model_type": "attribute_classifier"' * depth
    (tmp_path / "config.json").write_text(text + opened + "}" * (depth + 1), encoding="utf-8")
    with pytest.raises(ValueError, match="nested"):
        load_config(tmp_path)
    with pytest.raises(ValueError, match="nested"):
        load_complete(cf_cxr.AttributeClassifierModel, tmp_path)
    for auto in (cf_cxr.AttributeClassifierConfig, cf_cxr.AttributeClassifierModel):
        with pytest.raises(ValueError, match="nested"):
            auto.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["null", "[]", "NaN", '"text"', "1"])
def test_files_that_are_no_dictionary(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    for load in (
        load_config,
        partial(load_complete, cf_cxr.AttributeClassifierModel),
        cf_cxr.AttributeClassifierConfig.from_pretrained,
        cf_cxr.AttributeClassifierModel.from_pretrained,
    ):
        with pytest.raises(ValueError, match="config.json"):
            load(tmp_path)


def test_presets_and_large_published_networks_pass():
    for settings in (
        {"model_type": "vit", "hidden_size": 1280, "num_hidden_layers": 32, "intermediate_size": 5120},
        {"model_type": "resnet", "depths": [3, 8, 36, 3]},
        {"model_type": "convnextv2", "depths": [3, 3, 27, 3], "hidden_sizes": [256, 512, 1024, 2048]},
        {"model_type": "swin", "embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48]},
    ):
        config = cf_cxr.AttributeClassifierConfig(backbone_config=settings, image_size=224)
        assert isinstance(AutoConfig.for_model(**config.to_dict()), PreTrainedConfig)
    cf_cxr.CausalHVAEConfig.paper_a_192()
