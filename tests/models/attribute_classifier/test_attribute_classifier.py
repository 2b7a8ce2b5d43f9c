import math

import pytest
import torch
from transformers import BitConfig, ConvNextV2Config, ResNetConfig

from cf_cxr.attributes import Attribute, AttributeSchema
from cf_cxr.models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from cf_cxr.models.attribute_classifier.heads import LOG_SIGMA_RANGE
from cf_cxr.models.attribute_classifier.modeling_attribute_classifier import _pool, standardize_images

SCHEMA = AttributeSchema(
    [
        Attribute("age", "continuous", minimum=0, maximum=100, unit="years"),
        Attribute("sex", "binary", ("Male", "Female")),
        Attribute("site", "categorical", ("A", "B", "C")),
    ]
)
NAN = math.nan
BACKBONES = {
    "bit": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnextv2": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
}


def tiny_config(backbone="bit", **kwargs):
    backbone_config = {"model_type": backbone, **BACKBONES[backbone]}
    return AttributeClassifierConfig(
        attributes=SCHEMA.to_list(), backbone_config=backbone_config, image_size=16, **kwargs
    )


def tiny_model(backbone="bit", **kwargs):
    torch.manual_seed(0)
    return AttributeClassifierModel(tiny_config(backbone, **kwargs)).eval()


def radiographs(batch=4, size=16, seed=0):
    return torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def loss_of(model, logits, labels):
    """Losses per attribute for chosen logits, bypassing the backbone."""
    return model._losses(torch.as_tensor(logits), torch.as_tensor(labels))


@pytest.mark.parametrize("config_class", [BitConfig, ResNetConfig, ConvNextV2Config])
def test_a_backbone_object_gets_our_channels_and_is_not_changed(config_class):
    backbone = config_class(**BACKBONES[config_class.model_type])
    config = AttributeClassifierConfig(attributes=SCHEMA.to_list(), backbone_config=backbone, num_channels=2)
    assert config.backbone_config.num_channels == 2 and backbone.num_channels == 3
    assert AttributeClassifierModel(config)(torch.rand(1, 2, 16, 16)).logits.shape == (1, 6)


@pytest.mark.parametrize(
    ("preset", "millions"), [("bit-small", 1.33), ("convnextv2-small", 1.13), ("resnet-small", 2.34)]
)
def test_presets(preset, millions):
    config = AttributeClassifierConfig.from_preset(preset, SCHEMA, 64, dropout=0.1)
    assert config.schema == SCHEMA and config.image_size == 64 and config.dropout == 0.1
    with torch.device("meta"):
        model = AttributeClassifierModel(config)
    assert model.num_parameters() / 1e6 == pytest.approx(millions, abs=0.01)


def test_loss_known_answers():
    model = tiny_model()
    # age 75 is 0.5 on [-1, 1]; mean 0.1, sigma 0.5; sex logit 2; site softmax of (0, ln 2, 0)
    logits = [[0.1, math.log(0.5), 2.0, 0.0, math.log(2), 0.0]]
    age = 0.5 * (0.4 / 0.5) ** 2 + math.log(0.5) + 0.5 * math.log(2 * math.pi)
    expected = [age, math.log(1 + math.exp(2)), math.log(2)]
    assert loss_of(model, logits, [[75.0, 0, 1]]).tolist() == pytest.approx(expected, rel=1e-5)


def test_unknown_labels_do_not_count():
    model = tiny_model()
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[40.0, 1, NAN], [NAN, 0, NAN], [90.0, NAN, NAN]])
    got = loss_of(model, logits, labels)
    assert got[0] == pytest.approx(loss_of(model, logits[[0, 2]], labels[[0, 2]])[0].item())
    assert got[1] == pytest.approx(loss_of(model, logits[:2], labels[:2])[1].item())
    assert got[2] == 0


def test_an_attribute_without_labels_leaves_the_other_gradients_alone():
    model = tiny_model().train()
    model(radiographs(), torch.tensor([[40.0, 1, NAN]] * 4)).loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
    age, sex, site = model.heads
    assert site.weight.grad.abs().sum() == 0
    assert age.weight.grad.abs().sum() > 0 and sex.weight.grad.abs().sum() > 0
    model.zero_grad()
    output = model(radiographs(), torch.full((4, 3), NAN))
    output.loss.backward()
    assert output.loss == 0 and all(p.grad.abs().sum() == 0 for p in model.parameters())


def test_log_sigma_is_bounded():
    model = tiny_model()
    low, high = LOG_SIGMA_RANGE
    logits = torch.tensor([[0.0, -50, 0, 0, 0, 0], [0.0, 50, 0, 0, 0, 0]])
    assert model.split_logits(logits)["age"][:, 1].tolist() == pytest.approx([low, high])
    assert loss_of(model, logits, [[50.0, 0, 0]] * 2).isfinite().all()


def test_standardised_images_have_zero_mean_and_unit_variance():
    x = standardize_images(radiographs() * torch.tensor([1.0, 0.1, 0.01, 0.5])[:, None, None, None])
    assert torch.allclose(x.mean((1, 2, 3)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(x.var((1, 2, 3), correction=0), torch.ones(4), atol=1e-4)


@pytest.mark.parametrize(("gain", "offset"), [(0.05, 0.0), (0.5, 0.4), (0.9, -0.1)])
def test_prediction_is_invariant_to_global_exposure(gain, offset):
    x = radiographs()
    # not "bit": a GroupNorm net is nearly blind to the gain by itself
    model, sensitive = tiny_model("resnet"), tiny_model("resnet", standardize=False)
    assert torch.allclose(model(x).logits, model(gain * x + offset).logits, atol=1e-5)
    assert not torch.allclose(sensitive(x).logits, sensitive(gain * x + offset).logits, atol=1e-3)


def test_grid_pooling_keeps_the_averages_of_the_cells():
    features = type("Features", (), {"last_hidden_state": torch.arange(32.0).reshape(1, 2, 4, 4)})()
    pooled = _pool(features, 2)
    cells = features.last_hidden_state.reshape(1, 2, 2, 2, 2, 2).mean((3, 5)).flatten(1)
    assert torch.equal(pooled, cells / 4) and (4 * pooled[0, :4]).tolist() == [2.5, 4.5, 10.5, 12.5]
    torch.testing.assert_close(pooled.reshape(1, 2, 4).sum(2), _pool(features))
    model = tiny_model("resnet", pool_grid=2)
    assert model.heads[0].in_features == 4 * tiny_model("resnet").heads[0].in_features
    assert model(radiographs()).embedding.shape[1] == model.heads[0].in_features


def test_projection_is_a_hidden_layer_read_by_every_head():
    model = tiny_model("resnet", projection_dim=3)
    output = model(radiographs())
    features = _pool(model.backbone(standardize_images(radiographs())))
    hidden = torch.nn.functional.gelu(features @ model.projection[1].weight.T + model.projection[1].bias)
    torch.testing.assert_close(output.embedding, hidden)
    assert hidden.shape[1] == 3
    torch.testing.assert_close(output.logits, torch.cat([head(hidden) for head in model.heads], dim=1))
    with pytest.raises(Exception, match="projection_dim"):
        tiny_model("resnet", projection_dim=-1)


def test_grid_pooling_needs_feature_maps():
    features = type("Features", (), {"last_hidden_state": torch.zeros(1, 5, 8)})()
    with pytest.raises(ValueError, match="gives a sequence"):
        _pool(features, 2)
    with pytest.raises(Exception, match="pool_grid.*\n.*got 0"):
        tiny_model("resnet", pool_grid=0)


@pytest.mark.parametrize("grey", [-1.0, 0.3, 0.5])  # 0.3 has no exact mean in float32, the others have
def test_a_constant_image_has_finite_logits_and_gradients(grey):
    x = torch.full((2, 1, 16, 16), grey, requires_grad=True)
    logits = tiny_model()(x).logits
    logits.sum().backward()
    assert logits.isfinite().all() and x.grad.isfinite().all()


def test_posterior_known_answers_and_calibration():
    logits = torch.tensor([[0.2, math.log(0.1), 2.0, 0.0, math.log(4), 0.0]])
    plain = tiny_model().posterior_from_logits(logits)
    assert list(plain) == ["age", "sex", "site"]
    mean, std = plain["age"]
    assert (mean.item(), std.item()) == pytest.approx((60.0, 5.0))
    assert plain["sex"].item() == pytest.approx(1 / (1 + math.exp(-2)))
    assert plain["site"][0].tolist() == pytest.approx([1 / 6, 4 / 6, 1 / 6])
    model = tiny_model(temperature={"age": 3.0, "sex": 2.0, "site": 2.0})
    calibrated = model.posterior_from_logits(logits)
    mean, std = calibrated["age"]
    assert (mean.item(), std.item()) == pytest.approx((60.0, 15.0))
    assert calibrated["sex"].item() == pytest.approx(1 / (1 + math.exp(-1)))
    assert calibrated["site"][0].tolist() == pytest.approx([0.25, 0.5, 0.25])
    assert model.split_logits(logits)["sex"].item() == 2.0
    assert model.calibrated_logits(logits)["sex"].item() == 1.0


def test_posterior_is_differentiable_and_predict_is_not():
    model = tiny_model(temperature={"sex": 2.0})
    x = radiographs().requires_grad_()
    posterior = model.posterior_from_logits(model(x).logits)
    (posterior["sex"].sum() + posterior["site"][:, 0].sum() + posterior["age"][1].sum()).backward()
    assert x.grad.abs().sum() > 0
    predicted = model.predict(x)
    assert not predicted["sex"].requires_grad and torch.equal(predicted["sex"], posterior["sex"])


def test_most_probable_values_are_raw_and_in_range():
    model = tiny_model()
    logits = torch.tensor([[1.7, 0, -0.1, 0, 0, 3], [-1.2, 0, 0.1, 5, 0, 3], [0.5, 0, 9, 0, 1, 0]])
    got = model.posterior_from_logits(logits).mode()
    assert got.tolist() == [[100, 0, 2], [0, 1, 0], [75, 1, 1]]
    x = radiographs()
    assert torch.equal(model.infer(x), model.predict(x).mode())
    SCHEMA.to_tensor(model.infer(x))  # validates


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bfloat16_autocast_channels_last_and_weights(backbone):
    model, x = tiny_model(backbone), radiographs()
    expected = model(x).logits
    model = model.to(memory_format=torch.channels_last)
    x_last = x.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(model(x_last).logits, expected, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x_last, torch.tensor([[50.0, 1, 2]] * 4))
    assert output.logits.dtype == torch.float32 and output.loss.dtype == torch.float32
    assert torch.allclose(output.logits, expected, atol=0.05)
    low = model.to(torch.bfloat16)(x).logits
    assert low.dtype == torch.bfloat16 and torch.allclose(low.float(), expected, atol=0.05)


def test_learns_a_visible_attribute():
    torch.manual_seed(0)
    model = AttributeClassifierModel(tiny_config()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    sex = torch.arange(32) % 2
    x = 0.3 * radiographs(32)
    x[sex == 1, :, 4:12, 4:12] += 0.5
    labels = torch.stack([torch.full((32,), NAN), sex.float(), torch.full((32,), NAN)], dim=1)
    for _ in range(25):
        optimizer.zero_grad()
        model(x, labels).loss.backward()
        optimizer.step()
    assert torch.equal(model.eval().infer(x)[:, 1], sex.float())


def test_first_posteriors_are_near_uniform():
    torch.manual_seed(0)
    model = AttributeClassifierModel(AttributeClassifierConfig.from_preset("bit-small", SCHEMA, 32)).eval()
    posterior = model.predict(radiographs(4, 32))
    assert (posterior["sex"] - 0.5).abs().max() < 0.3
    assert (posterior["age"][0] - 50).abs().max() < 40


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 16, 16), r"\(batch, 1, height, width\).*\(2, 3, 16, 16\)"),
        ((1, 16, 16), r"\(1, 16, 16\)"),
        ((2, 1, 4, 16), r"4x16.*at least 8x8"),
    ],
)
def test_wrong_images_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(torch.zeros(shape))


def test_wrong_labels_and_logits_are_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"labels must have shape \(4, 3\).*\(4, 2\)"):
        model(radiographs(), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"\(batch, 6\).*\(4, 5\)"):
        model.split_logits(torch.zeros(4, 5))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temperature": {"sex": 0.0}}, "positive"),
        ({"temperature": {"race": 1.0}}, "'race'"),
        ({"dropout": 1.0}, "dropout"),
        ({"image_size": 4}, "total stride"),
        ({"backbone_config": {"hidden_sizes": [8]}}, "model_type"),
        ({"backbone_config": {"model_type": "no-such-net"}}, "no-such-net"),
    ],
)
def test_impossible_configurations_are_refused(kwargs, message):
    given = {"backbone_config": {"model_type": "bit", **BACKBONES["bit"]}, **kwargs}
    with pytest.raises(ValueError, match=message):
        AttributeClassifierConfig(attributes=SCHEMA.to_list(), **given)


def test_unknown_preset_and_missing_attributes_are_refused():
    with pytest.raises(ValueError, match="bit-small"):
        AttributeClassifierConfig.from_preset("resnet-18", SCHEMA)
    with pytest.raises(ValueError, match="at least one attribute"):
        AttributeClassifierModel(AttributeClassifierConfig())
