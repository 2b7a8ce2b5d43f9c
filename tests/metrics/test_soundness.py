"""Distances between images: soundness, the true counterfactual, exposure."""

import numpy as np
import torch

from cf_cxr.metrics.exposure import affine_component, exposure_share
from cf_cxr.metrics.soundness import image_distance
from cf_cxr.metrics.true_counterfactual import counterfactual_error

GREY = 2 / 255  # one grey level in [-1, 1]


def test_error_to_the_truth_inside_and_outside():
    truth = np.zeros((3, 1, 2, 2))
    image = truth.copy()
    image[0, 0] = [[GREY, 3 * GREY], [5 * GREY, -5 * GREY]]
    mask = np.zeros((3, 1, 2, 2), bool)
    mask[0, 0, 0] = True
    mask[1] = True
    inside, outside = counterfactual_error(image, torch.tensor(truth), torch.tensor(mask))
    np.testing.assert_allclose(inside, [2, 0, np.nan])
    np.testing.assert_allclose(outside, [5, np.nan, 0])


def test_error_to_the_truth_broadcasts_the_mask_over_channels():
    image, truth = np.full((2, 3, 2, 2), GREY), np.zeros((2, 3, 2, 2))
    mask = np.array([[[[1, 0], [0, 0]]]] * 2)
    for part in counterfactual_error(image, truth, mask):
        np.testing.assert_allclose(part, 1)


def test_exposure_share_is_one_for_exposure_and_small_for_anatomy():
    torch.manual_seed(0)
    x = torch.rand(4, 1, 16, 16) * 1.4 - 0.7
    torch.testing.assert_close(exposure_share(x, 0.8 * x + 0.1), torch.ones(4))
    local = x.clone()
    local[:, :, 4:6, 4:6] += 0.2 * torch.randn(4, 1, 2, 2)
    assert exposure_share(x, local).max() < 0.1
    assert exposure_share(x, x).isnan().all()


def test_affine_component_is_the_least_squares_fit():
    torch.manual_seed(0)
    x, change = torch.randn(1, 1, 8, 8), torch.randn(1, 1, 8, 8)
    design = np.stack([x.numpy().ravel(), np.ones(64)], axis=1)
    fit = design @ np.linalg.lstsq(design, change.numpy().ravel(), rcond=None)[0]
    np.testing.assert_allclose(affine_component(x, change).numpy().ravel(), fit, atol=1e-5)


def test_image_distance_is_in_grey_levels():
    x = torch.zeros(2, 1, 4, 4)
    y = x.clone()
    y[1] = 2 / 255
    torch.testing.assert_close(image_distance(x, y), torch.tensor([0.0, 1.0]))
