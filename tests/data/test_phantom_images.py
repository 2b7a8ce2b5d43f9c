"""The phantom's pictures: reproducible, anatomically consistent, and changed only where they should be."""

import numpy as np
import pytest
import torch

from cf_cxr.data.phantom import FACTORS, NOISE_COLUMNS, ChestPhantom, PhantomConfig
from cf_cxr.data.phantom import chest as chest_module
from cf_cxr.data.phantom.anatomy import fluid_height, heart_scale

RESOLUTION = 64


@pytest.fixture(scope="module")
def phantom():
    return ChestPhantom(PhantomConfig(resolution=RESOLUTION, device_rate=0.4))


@pytest.fixture(scope="module")
def batch(phantom):
    attributes, noise = phantom.sample_attributes(40, 11), phantom.sample_noise(40, 11)
    return attributes, noise, phantom.render(attributes, noise)


def without_and_with_finding(n=24, seed=2, **settings):
    """The same ``n`` chests under do(finding = 0) and do(finding = 1)."""
    phantom = ChestPhantom(PhantomConfig(**{"resolution": RESOLUTION} | settings))
    attributes, noise = phantom.sample_attributes(n, seed), phantom.sample_noise(n, seed)
    return [phantom.counterfactual(attributes, noise, {"finding": value})[1] for value in (0, 1)]


def test_shapes_range_and_grey_levels(batch):
    images = batch[2]
    assert images.pixel_values.shape == (40, 1, RESOLUTION, RESOLUTION)
    assert images.pixel_values.dtype == torch.float32
    levels = (images.pixel_values + 1) * 127.5
    assert levels.min() >= 0 and levels.max() <= 255
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    for name in ("lung_mask", "heart_mask", "device_mask", "finding_mask", "touch_mask"):
        assert getattr(images, name).shape == images.pixel_values.shape
        assert getattr(images, name).dtype == torch.bool
    assert images.cardiothoracic_ratio.shape == (40,) and images.costophrenic_angles.shape == (40, 2)


def test_rendering_does_not_depend_on_batching(phantom, batch, monkeypatch):
    attributes, noise, images = batch
    singles = [phantom.render(attributes[i : i + 1], noise[i : i + 1]) for i in (0, 17, 39)]
    monkeypatch.setattr(chest_module, "_CHUNK", 7)
    odd = phantom.render(attributes, noise)
    shuffled = phantom.render(attributes.flip(0), noise.flip(0))
    for name, value in vars(images).items():
        assert torch.equal(value, getattr(odd, name)), name
        assert torch.equal(value, getattr(shuffled, name).flip(0)), name
        for i, single in zip((0, 17, 39), singles):
            assert torch.equal(value[i], getattr(single, name)[0]), name


def test_null_interventions_return_the_same_picture(phantom, batch):
    attributes, noise, images = batch
    for do in ({}, {"age": attributes[:, 0]}, {"site": attributes[:, 2], "finding": attributes[:, 3]}):
        changed, again = phantom.counterfactual(attributes, noise, do)
        assert torch.equal(changed, attributes)
        assert torch.equal(again.pixel_values, images.pixel_values)


@pytest.mark.parametrize("finding", ["Effusion", "Cardiomegaly"])
def test_do_finding_changes_only_the_region_it_may_touch(finding):
    without, present = without_and_with_finding(finding=finding, finding_separation=4.0)
    difference = (present.pixel_values - without.pixel_values).abs()
    assert torch.equal(without.touch_mask, present.touch_mask)
    assert difference[~without.touch_mask].max() == 0
    assert (difference.amax(dim=(1, 2, 3)) > 0.1).all()
    assert without.touch_mask.float().mean() < 0.5
    assert torch.equal(without.device_mask, present.device_mask)


@pytest.mark.parametrize("finding", ["Effusion", "Cardiomegaly"])
def test_touch_region_holds_for_extreme_severities(finding):
    phantom = ChestPhantom(PhantomConfig(resolution=RESOLUTION, finding=finding))
    attributes, noise = phantom.sample_attributes(16, 4), phantom.sample_noise(16, 4)
    images = []
    for severity in (-6.0, 6.0):
        extreme = noise.clone()
        extreme[:, [FACTORS.index("severity"), FACTORS.index("haze")]] = severity
        images.append(phantom.render(attributes, extreme))
    mild, severe = images
    assert torch.equal(mild.touch_mask, severe.touch_mask)
    assert not ((mild.pixel_values != severe.pixel_values) & ~mild.touch_mask).any()


def test_effusion_opens_the_costophrenic_angle_and_fills_the_lung():
    without, present = without_and_with_finding(40, 11, device_rate=0.4)
    rise = present.costophrenic_angles - without.costophrenic_angles
    assert (rise >= -1e-3).all()
    assert (rise.amax(1) > 3).all()
    assert without.costophrenic_angles.amin() > 15 and present.costophrenic_angles.amax() < 180
    wet, dry = present.finding_mask.sum((1, 2, 3)), without.finding_mask.sum((1, 2, 3))
    assert (wet >= dry).all() and wet.sum() > 2 * dry.sum()
    fluid = present.finding_mask & ~without.finding_mask
    assert present.pixel_values[fluid].mean() > without.pixel_values[fluid].mean() + 0.1


def test_severity_maps_are_strictly_increasing():
    severity = torch.linspace(-5, 5, 101)
    assert (fluid_height(severity).diff() > 0).all() and fluid_height(severity[0]) > 0
    assert (heart_scale(severity, torch.zeros(101)).diff() > 0).all()


def width(mask):
    columns = mask[0].any(0).nonzero().flatten()
    return int(columns.max() - columns.min() + 1)


def test_cardiothoracic_ratio_is_that_of_the_masks():
    phantom = ChestPhantom(PhantomConfig(resolution=256))
    attributes, noise = phantom.sample_attributes(16, 8), phantom.sample_noise(16, 8)
    images = phantom.render(attributes, noise)
    for i in range(16):
        thorax = images.lung_mask[i] | images.finding_mask[i]
        measured = width(images.heart_mask[i]) / width(thorax)
        assert measured == pytest.approx(images.cardiothoracic_ratio[i].item(), abs=0.015)
    assert 0.40 < images.cardiothoracic_ratio.mean() < 0.52


def test_cardiomegaly_raises_the_cardiothoracic_ratio():
    without, present = without_and_with_finding(30, 8, resolution=32, finding="Cardiomegaly")
    assert (present.cardiothoracic_ratio > without.cardiothoracic_ratio + 0.02).all()


def test_masks_are_anatomically_consistent(batch):
    images = batch[2]
    lung, heart, fluid = images.lung_mask, images.heart_mask, images.finding_mask
    assert not (lung & heart).any() and not (lung & fluid).any()
    columns = torch.arange(RESOLUTION).expand_as(lung).float()
    for i in range(len(images)):
        thorax = columns[i][lung[i] | fluid[i]]
        organ = columns[i][heart[i]]
        assert thorax.min() < organ.min() and organ.max() < thorax.max()
        assert organ.mean() > 0.5 * (thorax.min() + thorax.max())  # patient's left, image right
    areas = lung.float().mean((1, 2, 3))
    assert areas.min() > 0.10 and areas.max() < 0.5
    assert images.pixel_values[heart].mean() > images.pixel_values[lung].mean() + 0.4


def test_devices_have_their_rate_and_are_bright():
    noise = ChestPhantom().sample_noise(50, 1)
    attributes = ChestPhantom().sample_attributes(50, 1)
    counts = []
    for rate in (0.0, 0.4, 1.0):
        images = ChestPhantom(PhantomConfig(resolution=48, device_rate=rate)).render(attributes, noise)
        counts.append(images.device_mask.any(-1).any(-1).sum().item())
    assert counts[0] == 0 and counts[2] == 50
    assert 20 < counts[1] < 44  # 1 - 0.6^2 = 0.64 of 50
    none = ChestPhantom(PhantomConfig(resolution=48, device_rate=0.0)).render(attributes, noise)
    assert (
        images.pixel_values[images.device_mask].mean() > none.pixel_values[images.device_mask].mean() + 0.05
    )


def test_every_intervention_is_visible(phantom, batch):
    attributes, noise = batch[0][:16], batch[1][:16]
    for name, values in {"sex": (0, 1), "site": (0, 1), "age": (25.0, 85.0), "finding": (0, 1)}.items():
        fixed = {"finding": 0} if name == "age" else {}
        first, second = (phantom.counterfactual(attributes, noise, {name: v, **fixed})[1] for v in values)
        smooth = torch.nn.functional.avg_pool2d(first.pixel_values - second.pixel_values, 3, stride=1)
        grey_levels = 127.5 * smooth.abs().amax((1, 2, 3))
        assert (grey_levels > 8).float().mean() > 0.9, name


def test_age_unfolds_the_aorta_and_thins_bone(phantom):
    """Pixels of bone over soft tissue are brighter in the young; the knob is wider in the old."""
    attributes = torch.tensor([[25.0, 0.0, 0.0, 0.0], [90.0, 0.0, 0.0, 0.0]])
    noise = torch.zeros(2, len(NOISE_COLUMNS))
    noise[:, NOISE_COLUMNS.index("finding_rank")] = 0.5
    young, old = phantom.render(attributes, noise).pixel_values[:, 0]
    middle = RESOLUTION // 2
    spine = slice(middle - 2, middle + 2)
    assert young[8:, spine].mean() > old[8:, spine].mean()
    knob_row = int((1.0 - 0.33 * 1.06) / 2 * RESOLUTION)
    beside = slice(middle + 6, middle + 9)
    assert old[knob_row, beside].mean() > young[knob_row, beside].mean() + 0.1


def test_attributes_reach_the_picture_through_the_factors_only(phantom, batch):
    """Moving the noise so that the factors stay put undoes a change of attributes: no other path exists."""
    attributes, noise, images = batch
    other = phantom.sample_attributes(40, 99)
    shift = (
        phantom.factors(attributes, noise).double() - phantom.factors(other, torch.zeros_like(noise)).double()
    )
    moved = noise.clone()
    moved[:, : len(FACTORS)] = shift.float()
    again = phantom.render(other, moved)
    assert (again.pixel_values - images.pixel_values).abs().max() <= 1.01 / 127.5  # rounding of the factors
    assert (again.pixel_values != images.pixel_values).float().mean() < 0.01


@pytest.mark.parametrize("resolution", [16, 30, 50, 224])
def test_any_resolution(resolution):
    phantom = ChestPhantom(PhantomConfig(resolution=resolution, device_rate=1.0))
    images = phantom.render(phantom.sample_attributes(2, 0), phantom.sample_noise(2, 0))
    assert images.pixel_values.shape[-1] == resolution
    assert torch.isfinite(images.pixel_values).all()


def test_same_anatomy_at_two_resolutions():
    attributes, noise = ChestPhantom().sample_attributes(6, 3), ChestPhantom().sample_noise(6, 3)
    small, large = (ChestPhantom(PhantomConfig(resolution=r)).render(attributes, noise) for r in (64, 128))
    assert torch.equal(small.cardiothoracic_ratio, large.cardiothoracic_ratio)
    reduced = torch.nn.functional.avg_pool2d(large.pixel_values, 2)
    correlation = [
        np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(reduced.numpy(), small.pixel_values)
    ]
    assert min(correlation) > 0.97


def test_bad_input_is_refused(phantom, batch):
    attributes, noise, _ = batch
    with pytest.raises(ValueError, match="noise has shape"):
        phantom.render(attributes, noise[:, :-1])
    with pytest.raises(ValueError, match="equally many"):
        phantom.render(attributes[:3], noise)
    with pytest.raises(ValueError, match="missing"):
        phantom.render(torch.full((40, 4), torch.nan), noise)
