"""Cardiothoracic ratio: hand-made masks, and the phantom's true ratio."""

import numpy as np
import pytest
import torch

from cf_cxr.metrics.cardiothoracic import cardiothoracic_ratio
from cf_cxr.metrics.masks import horizontal_width, largest_components
from cf_cxr.metrics.paired_tests import change_by_decision
from tests.metrics.phantom_reference import explained, rendered


def chest():
    """Heart of columns 7 to 11, its borders on different rows; lungs of columns 2 to 5 and 13 to 17."""
    heart, lungs = np.zeros((2, 1, 12, 20), bool)
    heart[0, 7, 7:10], heart[0, 4, 9:12] = True, True
    lungs[0, 2:9, 3:6], lungs[0, 2:10, 13:17] = True, True
    lungs[0, 8, 2], lungs[0, 3, 17] = True, True
    return heart, lungs


def test_by_hand():
    heart, lungs = chest()
    np.testing.assert_array_equal(horizontal_width(heart), [5])
    np.testing.assert_array_equal(horizontal_width(lungs), [16])
    assert cardiothoracic_ratio(heart, lungs) == 5 / 16
    assert cardiothoracic_ratio(torch.tensor(heart)[:, None].float(), lungs.astype(int)) == 5 / 16
    assert horizontal_width(np.eye(3, dtype=bool)[None]) == 3 and horizontal_width(heart[:, :, 7:8]) == 1


def test_empty_masks_are_missing():
    heart, lungs = (np.repeat(m, 3, 0) for m in chest())
    heart[0], lungs[1] = False, False
    ratio = cardiothoracic_ratio(heart, lungs)
    assert np.isnan(ratio[:2]).all() and ratio[2] == 5 / 16


def test_a_stray_pixel_counts_unless_it_is_removed():
    heart, lungs = chest()
    heart[0, 4, 8], heart[0, 5:8, 9] = True, True  # one piece
    heart[0, 0, 19] = lungs[0, 11, 0] = True
    assert cardiothoracic_ratio(heart, lungs) == 13 / 18
    lungs[0, 8, 2] = lungs[0, 3, 17] = True
    assert cardiothoracic_ratio(largest_components(heart), largest_components(lungs, 2)) == 5 / 16


@pytest.mark.parametrize("finding", ["Effusion", "Cardiomegaly"])
@pytest.mark.parametrize("resolution, mean_bound", [(64, 0.012), (128, 0.006)])
def test_error_to_the_phantoms_true_ratio(finding, resolution, mean_bound):
    """Each width is that of the pixel centres inside an outline, hence off by less than one pixel; no bias.

    Fluid may hide the widest part of a lung: the bound per image holds without fluid.
    """
    factual, *_, present = rendered(finding, resolution)
    ratio = cardiothoracic_ratio(factual.heart_mask, factual.lung_mask)
    error = ratio - factual.cardiothoracic_ratio.numpy()
    dry = ~factual.finding_mask.flatten(1).any(1).numpy() | (finding != "Effusion")
    one_pixel = (1 + ratio) / horizontal_width(factual.lung_mask[:, 0].numpy())
    assert dry.sum() > 10 and (np.abs(error) < one_pixel)[dry].all()
    assert np.abs(error).mean() < mean_bound and abs(error[dry].mean()) < mean_bound / 3
    assert np.corrcoef(ratio, factual.cardiothoracic_ratio)[0, 1] > 0.95


@pytest.mark.parametrize("resolution", [64, 128])
def test_true_counterfactuals_of_cardiomegaly_are_seen(resolution):
    def ratio(images):
        return cardiothoracic_ratio(images.heart_mask, images.lung_mask)

    out = change_by_decision(*explained("Cardiomegaly", resolution, ratio), rises_with_posterior=True)
    assert out["negative"].direction == "rises" and out["positive"].direction == "falls"
    for group in out.values():
        assert group.undefined == 0 and max(group.t_p, group.wilcoxon_p) < 1e-4
    true = change_by_decision(
        *explained("Cardiomegaly", resolution, lambda images: images.cardiothoracic_ratio.numpy())
    )
    for name in out:
        assert out[name].change[0] == pytest.approx(true[name].change[0], abs=0.004)


def test_fluid_moves_the_ratio_by_little():
    """True effusions leave heart and thorax alone, but hide lung: a small false rise, never a large one."""
    before, after, posterior = explained(
        "Effusion", 128, lambda images: cardiothoracic_ratio(images.heart_mask, images.lung_mask)
    )
    true = explained("Effusion", 128, lambda images: images.cardiothoracic_ratio.numpy())
    np.testing.assert_array_equal(true[0], true[1])
    out = change_by_decision(before, after, posterior)
    assert 0 <= out["negative"].change[0] < 0.005 and -0.005 < out["positive"].change[0] <= 0


def test_largest_components():
    mask = np.zeros((1, 3, 7), bool)
    mask[0, 0, :3], mask[0, 2, :2], mask[0, 1, 5] = True, True, True
    assert largest_components(mask).sum() == 3 and largest_components(mask, 2).sum() == 5
    assert largest_components(mask, 9).sum() == 6 and not largest_components(mask & False).any()
