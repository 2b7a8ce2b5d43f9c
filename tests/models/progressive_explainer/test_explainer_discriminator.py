import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from cf_cxr.models.progressive_explainer import (
    ExplainerDiscriminator,
    ExplainerDiscriminatorConfig,
    ProgressiveExplainerConfig,
)
from cf_cxr.training.progressive_explainer.losses import discriminator_hinge_loss


def images(batch=4, size=16, seed=0):
    return torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tiny(**kwargs):
    torch.manual_seed(0)
    config = ExplainerDiscriminatorConfig(**{"image_size": 16, "widths": [4, 6, 8], **kwargs})
    return ExplainerDiscriminator(config).eval()


def layers(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


def singular_value(weight):
    return torch.linalg.matrix_norm(weight.detach().flatten(1).double(), 2).item()


def test_the_default_is_the_network_of_the_paper():
    with torch.device("meta"):
        model = ExplainerDiscriminator(ExplainerDiscriminatorConfig())
    assert [b.conv2.out_channels for b in model.blocks] == [64, 128, 256, 512, 1024, 1024]
    assert [b.down for b in model.blocks] == [True] * 5 + [False]
    assert model.thresholds.out_features == 9


def test_every_weight_has_spectral_norm_one():
    model = tiny()
    assert all(is_parametrized(layer, "weight") for layer in layers(model).values())
    for name, layer in layers(model).items():
        assert singular_value(layer.weight) == pytest.approx(1, abs=0.02), name
    # weights that move are followed, by one power iteration per training step
    with torch.no_grad():
        for layer in layers(model).values():
            layer.parametrizations.weight.original.mul_(3).add_(
                0.1 * torch.randn_like(layer.parametrizations.weight.original)
            )
        for _ in range(30):
            model.train()(images(), 4)
    for name, layer in layers(model.eval()).items():
        assert singular_value(layer.parametrizations.weight.original) > 1.5, name
        assert singular_value(layer.weight) == pytest.approx(1, abs=0.02), name


def test_evaluation_does_not_move_the_singular_vectors():
    model = tiny()
    before = {n: b.clone() for n, b in model.named_buffers()}
    model(images(), 3)
    assert before and all(torch.equal(before[n], b) for n, b in model.named_buffers())


def test_each_threshold_has_its_own_direction_and_acts_from_its_bin_on():
    model, x = tiny(), images()
    with torch.no_grad():
        scores = torch.stack([model(x, k).scores for k in range(10)], dim=1)
        features = model(x, 0).features
        linear = (features @ model.linear.weight.T).squeeze(1) + model.linear.bias
        torch.testing.assert_close(scores[:, 0], linear)
        steps = features @ model.thresholds.weight.T
        torch.testing.assert_close(scores.diff(dim=1), steps, atol=1e-5, rtol=1e-4)
        assert steps.abs().min() > 1e-4
        # changing V_k changes the score of exactly the bins >= k
        nn.utils.parametrize.remove_parametrizations(model.thresholds, "weight")
        weight = model.thresholds.weight.clone()
        for k in range(1, 10):
            model.thresholds.weight.copy_(weight)
            model.thresholds.weight[k - 1] += 0.5
            for b in range(10):
                same = torch.allclose(model(x, b).scores, scores[:, b], atol=1e-5)
                assert same == (b < k), (k, b)


def test_only_the_passed_thresholds_get_a_gradient():
    model = tiny(num_bins=5)
    nn.utils.parametrize.remove_parametrizations(model.thresholds, "weight")
    model(images(1), torch.tensor([2])).scores.sum().backward()
    assert model.thresholds.weight.grad.abs().sum(1).nonzero().flatten().tolist() == [0, 1]


def test_features_are_sums_over_the_last_map():
    model, x = tiny(), images(2)
    with torch.no_grad():
        hidden = x
        for block in model.blocks:
            hidden = block(hidden)
        assert hidden.shape == (2, 8, 4, 4)
        torch.testing.assert_close(model(x, 1).features, hidden.relu().sum((2, 3)))


def test_the_loss_is_the_hinge_loss():
    model, x, bins = tiny(), images(), torch.tensor([0, 9, 4, 4])
    with torch.no_grad():
        output = model(x, bins, labels=torch.tensor([1, 1, 0, 0]))
        expected = discriminator_hinge_loss(output.scores[:2], output.scores[2:]) / 2
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_it_learns_to_tell_images_and_bins_apart():
    torch.manual_seed(0)
    model = tiny(num_bins=3, widths=[8, 8, 8]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.0, 0.9))
    bins = torch.arange(24) % 3
    x = 0.2 * images(24) + (bins.float() - 1).reshape(-1, 1, 1, 1) * 0.6  # grey level tells the bin
    for _ in range(60):
        optimizer.zero_grad()
        loss = discriminator_hinge_loss(model(x, bins).scores, model(x, (bins + 1) % 3).scores)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        model.eval()
        assert (model(x, bins).scores > model(x, (bins + 1) % 3).scores).float().mean() > 0.9


def test_it_follows_the_generator():
    generator = ProgressiveExplainerConfig(image_size=64, num_bins=8, widths=[16, 32])
    config = ExplainerDiscriminatorConfig.for_explainer(generator, widths=[8, 16])
    assert (config.image_size, config.num_bins, config.widths) == (64, 8, [8, 16])
    assert ExplainerDiscriminatorConfig.for_explainer(generator).widths == generator.widths


def test_bad_input_is_refused():
    model, x = tiny(), images()
    for wrong, bins, message in [
        (x[0], 1, "shape"),
        (x[..., :6], 1, "multiple of 4"),
        (x * float("nan"), 1, "NaN"),
        (x * 300, 1, r"\[-1, 1\]"),
        (x, 10, "Bin 10 does not exist"),
        (x, torch.tensor([1, 2]), r"each of 4 images.*\(2,\)"),
        (x, torch.rand(4), "integers"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(wrong, bins)
    for kwargs in ({"image_size": 100}, {"widths": [8]}, {"num_bins": 1}):
        with pytest.raises(Exception, match=next(iter(kwargs))):
            ExplainerDiscriminatorConfig(**kwargs)
    with pytest.raises(ValueError, match="checkpointing"):
        model.gradient_checkpointing_enable()
