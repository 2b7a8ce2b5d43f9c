import math
import time
from dataclasses import fields, replace

import pytest
import torch

from cf_cxr.training.augmentation import AUGMENTATION_PRESETS, AugmentationConfig, CXRAugmentation

STRENGTHS = [f.name for f in fields(AugmentationConfig) if f.name != "erasing_size"]


def radiographs(batch=4, size=24, seed=0):
    return torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


def augment(config, x, seed=0):
    return CXRAugmentation(config)(x, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("preset", AUGMENTATION_PRESETS)
def test_presets_keep_shape_dtype_and_range(preset):
    for dtype in (torch.float32, torch.bfloat16):
        x = radiographs().sign().to(dtype)  # extremes: -1 and 1
        y = augment(preset, x)
        assert y.shape == x.shape and y.dtype == dtype
        assert y.isfinite().all() and y.min() >= -1 and y.max() <= 1


def test_none_returns_the_input():
    x = radiographs()
    assert augment("none", x) is x


def test_generator_decides_the_result():
    x = radiographs()
    assert torch.equal(augment("strong", x, 1), augment("strong", x, 1))
    assert not torch.equal(augment("strong", x, 1), augment("strong", x, 2))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_every_strength_acts_and_differs_between_images(strength):
    value = {"rotation": 10.0, "flip_probability": 0.5, "erasing_probability": 0.5}.get(strength, 0.3)
    x = radiographs(1).expand(16, -1, -1, -1)
    y = augment(AugmentationConfig(**{strength: value}), x)
    assert (y - x).abs().max() > 0.01
    assert len({tuple(image.flatten().tolist()) for image in y}) >= 2


@pytest.mark.parametrize(
    "strength", ["scale", "rotation", "translation", "blur", "contrast", "erasing_probability"]
)
def test_a_uniform_image_is_not_changed_by_geometry_blur_contrast_or_erasing(strength):
    x = torch.full((3, 1, 16, 20), 0.25)
    y = augment(AugmentationConfig(**{strength: 1.0}), x)
    assert torch.allclose(y, x, atol=1e-5)


def test_gamma_keeps_black_and_white_and_order():
    x = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).repeat(6, 1, 1, 1)
    y = augment(AugmentationConfig(gamma=0.7), x).flatten(1)
    assert torch.allclose(y[:, 0], torch.tensor(-1.0), atol=1e-5)
    assert torch.allclose(y[:, -1], torch.tensor(1.0), atol=1e-5)
    assert (y.diff(dim=1) > 0).all()
    assert y[:, 32].std() > 0.05


def centroid(images):
    """Mean position (x, y) of brightness above black, in pixels, per image."""
    weight = (images + 1)[:, 0]
    h, w = weight.shape[1:]
    total = weight.sum((1, 2))
    x = (weight * (torch.arange(w) + 0.5)).sum((1, 2)) / total
    y = (weight * (torch.arange(h) + 0.5)[:, None]).sum((1, 2)) / total
    return torch.stack([x, y], dim=1)


def spot(h=64, w=64, x=44, y=24):
    image = -torch.ones(1, 1, h, w)
    image[..., y - 2 : y + 2, x - 2 : x + 2] = 1
    return image


@pytest.mark.parametrize("shape", [(64, 64), (64, 96)])
def test_rotation_keeps_distance_from_the_centre_and_stays_within_the_angle(shape):
    x = spot(*shape).expand(32, -1, -1, -1)
    middle = torch.tensor([shape[1] / 2, shape[0] / 2])
    before, after = centroid(x) - middle, centroid(augment(AugmentationConfig(rotation=20.0), x)) - middle
    assert torch.allclose(after.norm(dim=1), before.norm(dim=1), atol=0.3)
    turned = torch.atan2(after[:, 1], after[:, 0]) - torch.atan2(before[:, 1], before[:, 0])
    assert math.radians(12) < turned.abs().max() < math.radians(20.5)
    assert turned.min() < 0 < turned.max()


def test_translation_and_scale_have_the_stated_size():
    x = spot(x=32, y=32).expand(64, -1, -1, -1)
    moved = (centroid(augment(AugmentationConfig(translation=0.1), x)) - 32).abs()
    assert (moved.amax(0) > 5).all() and (moved.amax(0) <= 6.5).all()  # on both axes
    brightness = (augment(AugmentationConfig(scale=0.2), x) + 1).sum((1, 2, 3)) / (x + 1).sum((1, 2, 3))
    assert math.exp(0.3) < brightness.max() < math.exp(0.42)  # area grows with the square of the zoom
    assert math.exp(-0.42) < brightness.min() < math.exp(-0.3)


def test_presets_never_mirror_and_the_flip_is_exact_when_asked_for():
    assert all(c.flip_probability == 0 for c in AUGMENTATION_PRESETS.values())
    x = radiographs()
    assert torch.allclose(augment(AugmentationConfig(flip_probability=1.0), x), x.flip(-1), atol=1e-5)


def test_erasing_replaces_one_rectangle_by_the_mean():
    x = radiographs(32)
    y = augment(AugmentationConfig(erasing_probability=1.0, erasing_size=0.5), x)
    changed = (y - x).abs() > 1e-4
    assert changed.any() and changed.float().mean((1, 2, 3)).max() <= 0.27
    for before, after, mask in zip(x, y, changed):
        assert torch.allclose(after[mask], before.mean(), atol=1e-5)


def test_gradients_reach_every_pixel_and_are_finite():
    config = replace(AUGMENTATION_PRESETS["strong"], erasing_probability=0.0, translation=0.0, scale=0.0)
    x = radiographs().requires_grad_()
    y = augment(config, x)
    y.square().sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).float().mean() > 0.9
    black = (-torch.ones(2, 1, 16, 16)).requires_grad_()
    augment("strong", black).sum().backward()
    assert black.grad.isfinite().all()


def test_gradient_matches_finite_differences():
    # single-precision inside, hence a directional derivative with a moderate step on smooth transforms
    config = AugmentationConfig(rotation=8, gamma=0.3, bias_field=0.1, contrast=0.1, blur=0.5)
    x = (radiographs(2, 16) * 0.5).requires_grad_()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)) * 1e-2
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    (augment(config, x) * weight).sum().backward()
    with torch.no_grad():
        plus, minus = ((augment(config, x + s * direction) * weight).sum() for s in (1, -1))
    assert (x.grad * direction).sum().item() == pytest.approx((plus - minus).item() / 2, rel=0.02)


@pytest.mark.parametrize(
    "kwargs", [{"gamma": -0.1}, {"noise": math.nan}, {"translation": 1.5}, {"rotation": math.inf}]
)
def test_impossible_strengths_are_refused_by_name(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        AugmentationConfig(**kwargs)


def test_unknown_preset_and_wrong_input():
    with pytest.raises(ValueError, match="'medium'.*light"):
        CXRAugmentation("medium")
    with pytest.raises(ValueError, match="uint8"):
        augment("light", torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        augment("light", torch.zeros(8, 8))


@pytest.mark.slow
def test_a_training_batch_takes_milliseconds():
    x = radiographs(32, 128)
    augment("strong", x)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        augment("strong", x)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1
