"""Losses against known answers, and the prior against what it promises."""

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from cf_cxr.models.progressive_explainer.posterior_bins import PosteriorBins
from cf_cxr.training.progressive_explainer.losses import (
    MahalanobisPrior,
    context_aware_reconstruction,
    discriminator_hinge_loss,
    posterior_kl,
)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- posterior ----------------------------------------------------------------------------------------------


def test_kl_is_that_of_the_library():
    t, r = rand(50), rand(50, seed=1)
    expected = kl_divergence(Bernoulli(t), Bernoulli(r)).mean().item()
    assert posterior_kl(t, r).item() == pytest.approx(expected, rel=1e-5)


def test_kl_is_zero_at_equality_and_only_there():
    p = torch.cat([torch.tensor([0.0, 1.0, 1e-6, 1 - 1e-6]), PosteriorBins().centres, rand(100)])
    assert posterior_kl(p, p) == 0  # a cross-entropy would be the entropy
    assert posterior_kl(p, (p + 0.1).clamp(max=1).flip(0)) > 0


def test_kl_gradient_pulls_towards_the_target():
    t = torch.tensor([0.15, 0.95, 0.5], requires_grad=True)
    r = torch.tensor([0.5, 0.5, 0.5], requires_grad=True)
    posterior_kl(t, r).backward()
    assert r.grad.tolist() == pytest.approx([0.35 / 0.25 / 3, -0.45 / 0.25 / 3, 0], abs=1e-6)
    assert t.grad is None


def test_kl_is_finite_and_moves_a_confident_classifier():
    logits = torch.tensor([-60.0, 14.0, 200.0, -200.0], requires_grad=True)
    loss = posterior_kl(torch.tensor([0.95, 0.05, 0.05, 0.95]), logits.sigmoid())
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    # d KL / d logit = r - t, as long as the posterior is not rounded to 0 or 1
    assert (4 * logits.grad[:2]).tolist() == pytest.approx([-0.95, 0.95], rel=1e-2)


def test_hinge_known_answers_and_gradients():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0])
    assert discriminator_hinge_loss(real, fake).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1) / 2)
    assert discriminator_hinge_loss(torch.tensor([1.0]), torch.tensor([-1.0])) == 0
    real, fake = torch.tensor([2.0, 0.5], requires_grad=True), torch.tensor([-3.0, 0.0], requires_grad=True)
    discriminator_hinge_loss(real, fake).backward()
    assert real.grad.tolist() == [0, -0.5] and fake.grad.tolist() == [0, 0.5]


# --- reconstruction -----------------------------------------------------------------------------------------


def slow_reconstruction(image, reconstruction, masks, background=True):
    """The double sum of the equation, region by region."""
    total = 0.0
    for x, y, regions in zip(image, reconstruction, masks.double(), strict=True):
        regions = [*regions, *([1 - torch.stack(list(regions)).amax(0)] if background else [])]
        l1 = (x - y).abs().double().mean(0)
        total += sum(float((m * l1).sum() / m.sum()) for m in regions if m.any())
    return total / len(image)


def test_reconstruction_known_answer():
    image = torch.zeros(1, 1, 2, 3)
    reconstruction = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).reshape(1, 1, 2, 3)
    lungs = [[1, 1, 0], [0, 0, 0]]  # mean 1.5
    device = [[0, 1, 0], [0, 1, 0]]  # overlaps: mean 3.5
    masks = torch.tensor([lungs, device]).reshape(1, 2, 2, 3)
    background = (3 + 4 + 6) / 3  # what none covers
    got = context_aware_reconstruction(image, reconstruction, masks)
    assert got.item() == pytest.approx(1.5 + 3.5 + background)
    without = context_aware_reconstruction(image, reconstruction, masks, background=False)
    assert without.item() == pytest.approx(5.0)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("kind", ["bool", "soft"])
def test_reconstruction_is_the_double_sum(kind, background):
    image, reconstruction = rand(3, 2, 4, 5), rand(3, 2, 4, 5, seed=1)
    masks = rand(3, 3, 4, 5, seed=2)
    masks = masks > 0.6 if kind == "bool" else masks
    masks[1, 2] = 0  # this image has no device
    got = context_aware_reconstruction(image, reconstruction, masks, background)
    assert got.item() == pytest.approx(
        slow_reconstruction(image, reconstruction, masks, background), rel=1e-5
    )


def test_empty_masks_give_zero_and_never_nan():
    image, reconstruction = rand(2, 1, 4, 4), rand(2, 1, 4, 4, seed=1).requires_grad_()
    empty = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    plain = (image - reconstruction).abs().mean().item()
    for masks in (empty, empty[:, :0], ~empty[:, :1]):  # of the last the background is empty
        assert context_aware_reconstruction(image, reconstruction, masks).item() == pytest.approx(plain)
    alone = context_aware_reconstruction(image, reconstruction, empty, background=False)
    alone.backward()
    assert alone == 0 and (reconstruction.grad == 0).all()


# --- the prior ----------------------------------------------------------------------------------------------


def radiographs(count=4000, seed=0):
    """4 x 4 images of independent pixels, those of the left half with five times the spread."""
    noise = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 0.05
    noise[..., :2] *= 5
    return noise


def test_a_change_that_radiographs_do_not_differ_by_is_dear():
    images = radiographs()
    prior = MahalanobisPrior(images, grid=4)
    assert prior(images[::2] - images[1::2]).item() == pytest.approx(2, rel=0.03)
    assert prior(torch.zeros(2, 1, 4, 4)).item() == 0
    left, right = torch.zeros(2, 1, 1, 4, 4)
    left[..., 0], right[..., 3] = 0.1, 0.1
    assert prior(right).item() == pytest.approx(25 * prior(left).item(), rel=0.15)


def test_the_shortest_change_of_a_linear_classifier_is_its_pattern():
    images = radiographs()
    prior = MahalanobisPrior(images, grid=4)
    filter_ = torch.linspace(-1, 1, 16)
    covariance = torch.from_numpy(np.cov(images.flatten(1).numpy().T)).float()
    pattern = covariance @ filter_  # Haufe et al. 2014, eq. 6
    change = torch.zeros(16, requires_grad=True)
    optimizer = torch.optim.LBFGS([change], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = prior(change.view(1, 1, 4, 4)) + 1e3 * (change @ filter_ - 1) ** 2
        value.backward()
        return value

    optimizer.step(loss)
    assert torch.cosine_similarity(change.detach(), pattern, dim=0) > 0.99
    assert torch.cosine_similarity(change.detach(), filter_, dim=0) < 0.95


def test_means_over_squares_are_what_counts():
    prior = MahalanobisPrior(radiographs(100).repeat_interleave(2, 2).repeat_interleave(2, 3), grid=4)
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]
    assert prior(checkers).item() < 1e-10


@pytest.mark.parametrize(("shape", "grid"), [((10, 1, 4, 4), 3), ((1, 1, 4, 4), 4)])
def test_impossible_grids_and_single_images_are_refused(shape, grid):
    with pytest.raises(ValueError, match="grid of . x ."):
        MahalanobisPrior(torch.zeros(shape), grid)
