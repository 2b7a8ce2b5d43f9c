import pytest
import torch
from torch.nn import functional as F

from cf_cxr.models.progressive_explainer import ProgressiveExplainerConfig, ProgressiveExplainerModel
from cf_cxr.models.progressive_explainer.conditional_norm import ConditionalNorm2d
from cf_cxr.models.progressive_explainer.modeling_progressive_explainer import move_towards


def images(batch=3, size=16, seed=0):
    return torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tiny(**kwargs):
    """A model whose bins differ and whose running statistics are not the initial ones."""
    torch.manual_seed(0)
    config = ProgressiveExplainerConfig(**{"image_size": 16, "widths": [4, 6, 8], "num_bins": 5, **kwargs})
    model = ProgressiveExplainerModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gamma" in name or "beta" in name or "conv_out" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
        model.train()(images(8, seed=3), torch.arange(8) % config.num_bins)
    return model.eval()


# --- architecture -------------------------------------------------------------------------------------------


def test_the_default_is_the_network_of_the_paper():
    with torch.device("meta"):
        model = ProgressiveExplainerModel(ProgressiveExplainerConfig())
    assert model.config.total_stride == 32
    assert [b.conv2.out_channels for b in model.down_blocks] == [128, 256, 512, 1024, 1024]
    assert [b.conv2.out_channels for b in model.up_blocks] == [1024, 512, 256, 128, 64]
    assert {b.norm1.gamma.shape[0] for b in model.up_blocks} == {10}
    # per block a -> b: 3x3 a b + b, 3x3 b b + b, 1x1 a b + b, and (a + b) pairs per condition
    down = [(64, 128), (128, 256), (256, 512), (512, 1024), (1024, 1024)]
    blocks = [(a, b, 1) for a, b in down] + [(b, a, 10) for a, b in down]
    count = sum(10 * a * b + 9 * b * b + 3 * b + 2 * n * (a + b) for a, b, n in blocks)
    assert model.num_parameters() == count + (9 * 64 + 64) + (9 * 64 + 1) + 2 * 10 * 64


@pytest.mark.parametrize("size", [(64, 64), (256, 32)])
def test_any_size_that_the_strides_divide(size):
    with torch.no_grad():
        output = tiny()(torch.zeros(1, 1, *size), 4)
    assert output.pixel_values.shape == (1, 1, *size)
    assert output.embedding.shape == (1, 8, size[0] // 4, size[1] // 4)


# --- what the target does -----------------------------------------------------------------------------------


@pytest.mark.parametrize("residual_output", [False, True])
def test_the_embedding_does_not_depend_on_the_target_and_the_image_does(residual_output):
    model = tiny(residual_output=residual_output)
    with torch.no_grad():
        outputs = [model(images(), k) for k in range(5)]
    for k in range(1, 5):
        assert torch.equal(outputs[0].embedding, outputs[k].embedding)
        for j in range(k):
            assert (outputs[j].pixel_values - outputs[k].pixel_values).abs().mean() > 1e-3
    assert torch.equal(outputs[0].embedding, model.encode(images()))


def test_every_conditional_norm_is_read_at_the_row_of_the_target():
    model = tiny()
    conditional = {n: m for n, m in model.named_modules() if isinstance(m, ConditionalNorm2d)}
    assert {n for n, m in conditional.items() if len(m.gamma) > 1} == {
        *(f"up_blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2)),
        "norm_out",
    }
    model(images(2), torch.tensor([1, 3])).pixel_values.square().sum().backward()
    for name, norm in conditional.items():
        rows = norm.gamma.grad.abs().sum(1).nonzero().flatten().tolist()
        assert rows == ([1, 3] if len(norm.gamma) > 1 else [0]), name


def test_conditional_batch_norm_known_answers():
    norm = ConditionalNorm2d(2, 3)
    with torch.no_grad():
        norm.gamma.copy_(torch.tensor([[1.0, 1], [2, 3], [0, 5]]))
        norm.beta.copy_(torch.tensor([[0.0, 0], [1, -1], [4, 0]]))
        norm.norm.running_mean.copy_(torch.tensor([1.0, 2]))
        norm.norm.running_var.copy_(torch.tensor([4.0, 9]))
    x = torch.tensor([5.0, 8.0]).reshape(1, 2, 1, 1).expand(3, 2, 1, 1)  # both two deviations above
    got = norm.eval()(x, torch.tensor([0, 1, 2])).flatten(1)
    torch.testing.assert_close(got, torch.tensor([[2.0, 2], [5, 5], [4, 10]]), atol=1e-4, rtol=0)
    # in training mode it is the batch's statistics, and they enter the running ones
    x = torch.randn(4, 2, 3, 3) * 3 + 1
    got = norm.train()(x, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(got, F.batch_norm(x, None, None, training=True))
    assert norm.norm.running_mean.tolist() == pytest.approx(
        (0.9 * torch.tensor([1.0, 2]) + 0.1 * x.mean((0, 2, 3))).tolist()
    )


def test_a_posterior_stands_for_its_bin_and_a_series_for_single_calls():
    model, x = tiny(residual_output=True), images()
    with torch.no_grad():
        posterior = torch.tensor([0.05, 0.59, 1.0])
        by_posterior = model(x, target_posterior=posterior).pixel_values
        assert torch.equal(by_posterior, model(x, torch.tensor([0, 2, 4])).pixel_values)
        series = model.series(x)
        assert series.shape == (3, 5, 1, 16, 16)
        for k in range(5):
            torch.testing.assert_close(series[:, k], model(x, k).pixel_values)
        assert torch.equal(model.series(x, torch.tensor([4, 1])), series[:, [4, 1]])


# --- output -------------------------------------------------------------------------------------------------


def test_move_towards_known_answers_and_gradients():
    x = torch.tensor([0.5, 0.5, 0.5, -1.0, 1.0, 0.2])
    d = torch.tensor([0.0, 1.0, -0.5, 0.25, 0.3, -1.0])
    assert move_towards(x, d).tolist() == pytest.approx([0.5, 1.0, -0.25, -0.5, 1.0, -1.0])
    d = torch.zeros(2, requires_grad=True)
    move_towards(torch.tensor([0.5, -0.5]), d).sum().backward()
    assert d.grad.tolist() == [0.5, 1.5]  # alive at no change


def test_an_untrained_residual_model_returns_its_input_and_learns_from_there():
    torch.manual_seed(0)
    model = ProgressiveExplainerModel(
        ProgressiveExplainerConfig(image_size=16, widths=[4, 8], residual_output=True)
    )
    x = images()
    output = model(x, 3, labels=-x)
    assert torch.equal(output.pixel_values, x)
    assert output.loss.item() == pytest.approx(2 * x.abs().mean().item(), rel=1e-5)
    output.loss.backward()
    assert model.conv_out.weight.grad.abs().sum() > 0


def test_a_change_stride_makes_the_change_linear_between_the_squares():
    any_change, smooth = (tiny(residual_output=True, change_stride=stride) for stride in (1, 4))
    smooth.load_state_dict(any_change.state_dict())
    x = torch.zeros(2, 1, 16, 16)  # where the image moved towards white or black is the change itself
    with torch.no_grad():
        fine, coarse = (torch.atanh(model(x, 2).pixel_values) for model in (any_change, smooth))
    squares = fine.unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean((3, 5))  # one per 4 x 4 pixels
    assert (fine[..., 2:] - 2 * fine[..., 1:-1] + fine[..., :-2]).abs().max() > 0.01
    # pixels 2 to 5 lie an eighth, three, five and seven eighths of the way between two centres
    for share, place in zip((0.125, 0.375, 0.625, 0.875), range(2, 6)):
        columns = torch.lerp(squares[..., 0], squares[..., 1], share)  # rows are interpolated alike
        expected = torch.lerp(columns[:, :, :-1], columns[:, :, 1:], 0.375)
        assert torch.allclose(coarse[:, :, 3:15:4, place], expected, atol=1e-5)


@pytest.mark.parametrize("residual_output", [False, True])
def test_outputs_stay_in_range_for_extreme_weights(residual_output):
    model = tiny(residual_output=residual_output)
    with torch.no_grad():
        model.conv_out.weight.mul_(1e4)
        y = model(images(), 2).pixel_values
    assert y.abs().max() <= 1 + 1e-6 and y.std() > 0.5


def test_bfloat16_and_autocast_give_float32_images():
    model, x = tiny(residual_output=True), images()
    with torch.no_grad():
        expected = model(x, 2).pixel_values
        with torch.autocast("cpu", torch.bfloat16):
            got = model(x.to(memory_format=torch.channels_last), 2).pixel_values
        assert got.dtype == torch.float32 and torch.allclose(got, expected, atol=0.05)
        low = model.to(torch.bfloat16)(x, 2)
    assert low.pixel_values.dtype == torch.float32 and low.embedding.dtype == torch.bfloat16
    assert torch.allclose(low.pixel_values, expected, atol=0.05)


def test_the_generator_learns_a_change_by_target():
    torch.manual_seed(0)
    model = ProgressiveExplainerModel(
        ProgressiveExplainerConfig(image_size=8, widths=[8, 8], num_bins=2, residual_output=True)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    bins = torch.arange(16) % 2
    for step in range(120):
        x = 0.5 * images(16, 8, seed=step)
        wanted = x.clone()
        wanted[bins == 1, :, 2:6, 2:6] += 0.4
        optimizer.zero_grad()
        model(x, bins, labels=wanted).loss.backward()
        optimizer.step()
    with torch.no_grad():
        x = 0.5 * images(16, 8, seed=1000)
        change = (model.eval()(x, bins).pixel_values - x).mean(1)
    inside, outside = change[:, 2:6, 2:6].mean((1, 2)), change[:, [0, 7]].mean((1, 2))
    assert (inside[bins == 1] > 0.2).all() and (inside[bins == 0].abs() < 0.1).all()
    assert outside.abs().max() < 0.1


# --- bad input ----------------------------------------------------------------------------------------------


def test_wrong_images_are_refused():
    model, x = tiny(), images()
    for wrong, message in [
        (x[0], r"shape \(batch, 1, height, width\), got \(1, 16, 16\)"),
        (x.expand(3, 3, 16, 16), r"\(3, 3, 16, 16\)"),
        (x[..., :14], "16 x 14 pixels.*multiple of 4.*nearest size is 16 x 16"),
        (x[..., :0], "multiple of 4"),
        (x * float("nan"), "NaN"),
        (255 * (x + 1) / 2, r"lie in \[-1, 1\].*CXRImageProcessor"),
        (x - float("inf"), r"lie in \[-1, 1\]"),
        ((x * 127).to(torch.int8), "floating point.*int8"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(wrong, 1)
        with pytest.raises(ValueError, match=message):
            model.encode(wrong)


def test_wrong_targets_are_refused():
    model, x = tiny(), images()
    for kwargs, message in [
        ({"target_bins": 5}, "Bin 5 does not exist.*0 to 4"),
        ({"target_bins": torch.tensor([0, -1, 2])}, "Bin -1 does not exist"),
        ({"target_bins": torch.tensor([0.5, 1, 2])}, "integers"),
        ({"target_bins": torch.tensor([1, 2])}, r"each of 3 images.*\(2,\)"),
        ({"target_posterior": torch.tensor([0.5, 1.2, 0.1])}, r"lie in \[0, 1\].*1.2"),
        ({"target_posterior": torch.tensor([0.5, float("nan"), 0.1])}, "NaN"),
        ({}, "either target_bins or target_posterior"),
        ({"target_bins": 1, "target_posterior": torch.rand(3)}, "either"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(x, **kwargs)
    with pytest.raises(ValueError, match="Bin 9 does not exist"):
        model.series(x, torch.tensor([0, 9]))
    residual = tiny(residual_output=True)
    with pytest.raises(ValueError, match="residual_output.*pixel_values"):
        residual.decode(residual.encode(x), 1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"image_size": 100}, "image_size=100 is not a multiple of 32"),
        ({"widths": [64]}, "widths"),
        ({"num_bins": 1}, "num_bins"),
        ({"num_channels": 0}, "num_channels"),
        ({"norm_type": "layer"}, "norm_type='layer'"),
        ({"norm_momentum": 0.0}, "norm_momentum"),
        ({"norm_groups": 0}, "norm_groups"),
        ({"threshold": 1.0}, "threshold"),
        ({"residual_output": True, "change_stride": 3}, "change_stride=3 does not divide image_size=256"),
        ({"change_stride": 4}, "change_stride=4 needs residual_output=True"),
    ],
)
def test_impossible_configurations_are_refused(kwargs, message):
    with pytest.raises(Exception, match=message):
        ProgressiveExplainerConfig(**kwargs)
