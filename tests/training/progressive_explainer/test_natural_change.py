import numpy as np
import pytest
import torch

from cf_cxr.training.progressive_explainer.losses import NaturalChange


def radiographs(count=4000, seed=0):
    """4 x 4 images of independent pixels, those of the left half with five times the spread."""
    noise = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 0.05
    noise[..., :2] *= 5
    return noise


def test_two_radiographs_differ_by_a_length_of_two():
    images = radiographs()
    natural = NaturalChange(images, grid=4)
    assert natural(images[::2] - images[1::2]).item() == pytest.approx(2, rel=0.03)
    assert natural(torch.zeros(2, 1, 4, 4)).item() == 0


def test_a_change_that_radiographs_do_not_differ_by_is_dear():
    natural = NaturalChange(radiographs(), grid=4)
    left, right = torch.zeros(2, 1, 1, 4, 4)
    left[..., 0], right[..., 3] = 0.1, 0.1
    assert natural(right).item() == pytest.approx(25 * natural(left).item(), rel=0.15)


def test_the_shortest_change_of_a_linear_classifier_is_its_pattern():
    images = radiographs()
    natural = NaturalChange(images, grid=4)
    filter_ = torch.linspace(-1, 1, 16)
    covariance = torch.from_numpy(np.cov(images.flatten(1).numpy().T)).float()
    pattern = covariance @ filter_  # Haufe et al. 2014, eq. 6
    change = torch.zeros(16, requires_grad=True)
    optimizer = torch.optim.LBFGS([change], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = natural(change.view(1, 1, 4, 4)) + 1e3 * (change @ filter_ - 1) ** 2
        value.backward()
        return value

    optimizer.step(loss)
    assert torch.cosine_similarity(change.detach(), pattern, dim=0) > 0.99
    assert torch.cosine_similarity(change.detach(), filter_, dim=0) < 0.95


def test_means_over_squares_are_what_counts():
    images = radiographs(100)
    natural = NaturalChange(images.repeat_interleave(2, 2).repeat_interleave(2, 3), grid=4)
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]
    assert natural(checkers).item() < 1e-10


@pytest.mark.parametrize(("shape", "grid"), [((10, 1, 4, 4), 3), ((1, 1, 4, 4), 4)])
def test_impossible_grids_and_single_images_are_refused(shape, grid):
    with pytest.raises(ValueError, match="grid of . x ."):
        NaturalChange(torch.zeros(shape), grid)
