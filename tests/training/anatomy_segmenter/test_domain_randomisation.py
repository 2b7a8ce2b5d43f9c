"""Geometry moves image and masks alike; grey levels are never inverted; what is drawn is where it is said to be."""

from dataclasses import fields, replace

import pytest
import torch

from cf_cxr.training.anatomy_segmenter.domain_randomisation import (
    RANDOMISATION_PRESETS,
    DomainRandomisation,
    RandomisationConfig,
    lettering,
    shutters,
    wires,
)


def randomise(config, x, masks, seed=0, devices=None):
    return DomainRandomisation(config, devices)(x, masks, torch.Generator().manual_seed(seed))


def discs(batch=4, size=32):
    """Masks of two discs and images that are the first of them."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    first = ((x - 12) ** 2 + (y - 14) ** 2 < 50).expand(batch, size, size)
    second = ((x - 20) ** 2 + (y - 20) ** 2 < 20).expand(batch, size, size)
    masks = torch.stack([first, second], dim=1)
    return masks[:, :1].float() * 2 - 1, masks


def ramp(batch=8, size=32):
    return torch.linspace(-1, 1, size).expand(batch, 1, size, size).clone()


def test_none_changes_nothing():
    x, masks = discs()
    y, kept = randomise("none", x, masks)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(kept, masks.float())


def test_image_and_masks_move_alike():
    """The image is its own first mask, before and after; the second mask moves too."""
    x, masks = discs()
    y, moved = randomise(RandomisationConfig(crop=0.1, rotation=20, translation=0.1, scale=0.3), x, masks)
    torch.testing.assert_close((y + 1) / 2, moved[:, :1], atol=1e-6, rtol=0)
    assert (moved - masks.float()).abs().flatten(2).amax(2).gt(0.9).all()
    assert (moved[0] - moved[1]).abs().max() > 0.5  # every image in its own way


def test_a_crop_shows_a_part_of_the_film():
    """On a ramp, a crop of [l, 1 - r] is the same ramp from l to 1 - r, along both axes and for masks too."""
    x = ramp(16, 64)
    masks = ((x.mT + 1) / 2).repeat(1, 2, 1, 1)
    y, cropped = randomise(RandomisationConfig(crop=0.2), x, masks)
    edges = torch.cat([(y[:, 0, 0, [0, -1]] + 1) / 2, cropped[:, 1, [0, -1], 5]])
    assert (edges[:, 0] <= 0.22).all() and (edges[:, 1] >= 0.78).all()
    assert edges[:, 0].mean() == pytest.approx(0.1, abs=0.04)
    steps = y[:, 0, 0].diff(dim=1)[:, 2:-2]
    torch.testing.assert_close(steps, steps.mean(1, keepdim=True).expand_as(steps), atol=1e-4, rtol=0)
    assert (edges[:16] - edges[16:]).abs().max() > 0.03  # proportions change


@pytest.mark.parametrize("preset", RANDOMISATION_PRESETS)
def test_ranges_shapes_and_reproducibility(preset):
    x, masks = discs(6)
    y, changed = randomise(preset, x, masks, seed=3, devices=1)
    assert y.shape == x.shape and changed.shape == masks.shape
    assert y.min() >= -1 and y.max() <= 1 and changed.min() >= 0 and changed.max() <= 1
    again, same = randomise(preset, x, masks, seed=3, devices=1)
    assert torch.equal(y, again) and torch.equal(changed, same)
    if preset != "none":
        assert not torch.equal(y, randomise(preset, x, masks, seed=4, devices=1)[0])


def test_tone_curve_rises_from_black_to_white():
    x = ramp(16, 64)
    y, _ = randomise(RandomisationConfig(tone=1.0), x, torch.zeros(16, 1, 64, 64))
    line = y[:, 0, 0]
    assert (line.diff(dim=1) > 0).all()
    torch.testing.assert_close(line[:, [0, -1]], torch.tensor([-1.0, 1.0]).expand(16, 2))
    assert (line - x[:, 0, 0]).abs().amax(1).gt(0.02).all()


def test_bright_stays_bright():
    """The strongest preset without geometry and overlays: every image correlates with the ramp it was."""
    strong = replace(RANDOMISATION_PRESETS["strong"], crop=0.0, rotation=0.0, translation=0.0, scale=0.0)
    strong = replace(strong, text_probability=0.0, wire_probability=0.0, shutter_probability=0.0)
    x = ramp(64)
    y, _ = randomise(strong, x, torch.zeros(64, 1, 32, 32))
    pairs = torch.stack([x.flatten(1), y.flatten(1)], dim=1)
    assert min(float(torch.corrcoef(p)[0, 1]) for p in pairs) > 0.75


def test_grey_levels_and_text_leave_the_masks():
    x, masks = discs()
    plain = {"crop", "rotation", "translation", "scale", "shutter_probability", "wire_probability"}
    strong = replace(RANDOMISATION_PRESETS["strong"], text_probability=1.0, **dict.fromkeys(plain, 0.0))
    y, kept = randomise(strong, x, masks, devices=1)
    assert torch.equal(kept, masks.float()) and not torch.allclose(y, x, atol=0.1)


def test_wires_join_the_devices_and_nothing_else():
    x, masks = torch.full((8, 1, 32, 32), -0.5), torch.zeros(8, 3, 32, 32)
    config = RandomisationConfig(wire_probability=1.0)
    y, changed = randomise(config, x, masks, devices=2)
    assert torch.equal((y > x + 1e-3)[:, 0], (y - x)[:, 0] > 1e-3)
    assert ((y - x)[:, 0].gt(1e-6) == changed[:, 2].gt(1e-5)).float().mean() > 0.999
    assert changed[:, :2].eq(0).all() and (y >= x - 1e-6).all()
    assert changed[:, 2].amax((1, 2)).gt(0.5).sum() >= 6  # some lie outside the film
    assert torch.allclose(randomise(config, x, masks, devices=None)[0], x)


def test_what_a_shutter_covers_is_black_and_out_of_the_masks():
    x, masks = torch.full((8, 1, 32, 32), 0.9), torch.ones(8, 2, 32, 32)
    y, seen = randomise(RandomisationConfig(shutter_probability=1.0, shutter_width=0.2), x, masks)
    covered = seen[:, :1] == 0
    assert covered.flatten(1).any(1).all() and (y[covered] < -0.75).all()
    torch.testing.assert_close(y[seen[:, :1] == 1], x[seen[:, :1] == 1])
    assert (seen[:, :, 12:20, 12:20] == 1).all()
    assert torch.equal(seen[:, 0], seen[:, 1])


def test_overlays_cover_what_they_should():
    generator = torch.Generator().manual_seed(0)
    assert shutters(50, (64, 64), 0.1, tilt=0, generator=generator)[:, 0, 8:56, 8:56].eq(0).all()
    straight = shutters(200, (64, 64), 0.25, tilt=0, generator=generator)[:, 0]
    # a side's width is uniform in [0, 0.25]: 0.125 of 64 pixels on average
    assert straight[:, :32, 32].sum(1).mean() == pytest.approx(8, abs=1.2)
    drawn, opacity = wires(20, (64, 64), most=1, generator=generator)
    assert drawn.mean() < 0.08 and drawn.amax((1, 2, 3)).gt(0.4).sum() > 12
    assert opacity.min() >= 0.15 and opacity.max() <= 0.8
    written, level = lettering(40, (64, 48), most=3, generator=generator)
    assert set(written.unique().tolist()) == {0.0, 1.0}
    assert written.flatten(1).sum(1).gt(0).all() and written.mean() < 0.2
    border = written.mean((0, 1, 3))
    assert border[:16].mean() > 3 * border[24:40].mean() < border[48:].mean()
    assert ((level >= 0.8) | (level <= 0.2)).all() and (level <= 0.2).any()


@pytest.mark.parametrize("name", [f.name for f in fields(RandomisationConfig)])
def test_bad_ranges_are_named(name):
    for value in (-0.1, float("inf")):
        with pytest.raises(ValueError, match=name):
            RandomisationConfig(**{name: value})
