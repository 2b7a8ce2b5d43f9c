import numpy as np
import pytest
import torch

from cf_cxr.metrics.soundness import image_distance
from cf_cxr.metrics.true_counterfactual import counterfactual_error

GREY = 2 / 255  # one grey level in [-1, 1]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="different shapes"):
        image_distance(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 5))


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


@pytest.mark.parametrize(
    "image, truth, mask, message",
    [
        (np.zeros((2, 4)), np.zeros((2, 5)), np.zeros((2, 4)), "one shape"),
        (np.zeros((0, 4)), np.zeros((0, 4)), np.zeros((0, 4)), "one shape"),
        (np.zeros((2, 4)), np.zeros((2, 4)), np.zeros((2, 3)), "touch_mask"),
        (np.zeros((2, 4)), np.zeros((2, 4)), np.zeros((1, 4)), "touch_mask"),
        (np.array([[0, 0], [np.nan, 0]]), np.zeros((2, 2)), np.zeros((2, 2)), "Image 1 has NaN"),
    ],
)
def test_bad_images(image, truth, mask, message):
    with pytest.raises(ValueError, match=message):
        counterfactual_error(image, truth, mask)
