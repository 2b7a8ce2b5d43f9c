import math

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from cf_cxr.models.progressive_explainer.posterior_bins import PosteriorBins
from cf_cxr.training.progressive_explainer.losses import (
    ExplainerLossWeights,
    context_aware_reconstruction,
    discriminator_hinge_loss,
    embedding_distance,
    generator_hinge_loss,
    lungs_only_reconstruction,
    masked_l1,
    posterior_kl,
    reconstruction_loss,
)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def slow_reconstruction(image, reconstruction, masks, background=True):
    """The double sum of the equation, pixel by pixel."""
    n, channels, height, width = image.shape
    total = 0.0
    for i in range(n):
        regions = [masks[i, j].tolist() for j in range(masks.shape[1])]
        if background:
            regions.append(
                [
                    [1 - max((float(m[y][x]) for m in regions), default=0.0) for x in range(width)]
                    for y in range(height)
                ]
            )
        for region in regions:
            above, below = 0.0, 0.0
            for y in range(height):
                for x in range(width):
                    weight = float(region[y][x])
                    l1 = sum(
                        abs(float(image[i, c, y, x] - reconstruction[i, c, y, x])) for c in range(channels)
                    )
                    above += weight * l1 / channels
                    below += weight
            total += above / below if below else 0.0
    return total / n


# --- posterior ----------------------------------------------------------------------------------------------


def test_kl_known_answers():
    t, r = torch.tensor([0.5]), torch.tensor([0.25])
    assert posterior_kl(t, r).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-5)
    assert posterior_kl(torch.tensor([0.0]), r).item() == pytest.approx(math.log(4 / 3), rel=1e-5)
    assert posterior_kl(torch.tensor([1.0]), r).item() == pytest.approx(math.log(4), rel=1e-5)


def test_kl_is_that_of_the_library():
    t, r = rand(50), rand(50, seed=1)
    assert posterior_kl(t, r).item() == pytest.approx(
        kl_divergence(Bernoulli(t), Bernoulli(r)).mean().item(), rel=1e-5
    )


def test_kl_is_zero_at_equality_and_only_there():
    p = torch.cat([torch.tensor([0.0, 1.0, 1e-6, 1 - 1e-6]), rand(100)])
    assert posterior_kl(p, p) == 0  # a cross-entropy would be the entropy
    centres = PosteriorBins().centres
    assert posterior_kl(centres, centres) == 0
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


def test_kl_bad_input():
    p = torch.tensor([0.2, 0.8])
    with pytest.raises(ValueError, match="same shape"):
        posterior_kl(p, p[:1])
    for bad, message in [(1.3, r"lie in \[0, 1\].*logits"), (-0.1, r"\[0, 1\]"), (math.nan, "NaN")]:
        wrong = torch.tensor([0.2, bad])
        with pytest.raises(ValueError, match="target.*" + message):
            posterior_kl(wrong, p)
        with pytest.raises(ValueError, match="reached.*" + message):
            posterior_kl(p, wrong)


# --- adversarial --------------------------------------------------------------------------------------------


def test_hinge_known_answers():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0])
    assert discriminator_hinge_loss(real, fake).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1) / 2)
    assert generator_hinge_loss(fake).item() == pytest.approx(1.5)
    assert discriminator_hinge_loss(torch.tensor([1.0]), torch.tensor([-1.0])) == 0


def test_hinge_gradients():
    real, fake = torch.tensor([2.0, 0.5], requires_grad=True), torch.tensor([-3.0, 0.0], requires_grad=True)
    discriminator_hinge_loss(real, fake).backward()
    assert real.grad.tolist() == [0, -0.5] and fake.grad.tolist() == [0, 0.5]
    fake.grad = None
    generator_hinge_loss(fake).backward()
    assert fake.grad.tolist() == [-0.5, -0.5]


# --- reconstruction -----------------------------------------------------------------------------------------


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
    assert lungs_only_reconstruction(image, reconstruction, masks[:, 0]).item() == pytest.approx(1.5)


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
    loss = context_aware_reconstruction(image, reconstruction, empty)
    assert loss.item() == pytest.approx((image - reconstruction).abs().mean().item())
    assert context_aware_reconstruction(image, reconstruction, empty[:, :0]).item() == pytest.approx(
        loss.item()
    )
    alone = context_aware_reconstruction(image, reconstruction, empty, background=False)
    full = context_aware_reconstruction(image, reconstruction, ~empty[:, :1])  # the background is empty
    assert alone == 0 and full.item() == pytest.approx(loss.item())
    alone.backward()
    assert (reconstruction.grad == 0).all()


def test_a_small_device_counts_as_much_as_a_lung():
    image = torch.zeros(1, 1, 8, 8)
    masks = torch.zeros(1, 2, 8, 8)
    masks[0, 0, :4] = 1  # 32 pixels
    masks[0, 1, 7, 7] = 1  # one
    for j in (0, 1):
        assert context_aware_reconstruction(
            image, image + 0.5 * masks[:, [j]], masks
        ).item() == pytest.approx(0.5)


def test_lungs_only_lets_the_rest_go_and_the_context_does_not():
    image = rand(2, 1, 4, 4)
    masks = torch.zeros(2, 2, 4, 4)
    masks[:, 0, :2], masks[:, 1, 3, 3] = 1, 1
    labels = ["lungs", "devices"]
    gradients = {}
    for lungs_only in (False, True):
        reconstruction = (image + 0.3).requires_grad_()
        weights = ExplainerLossWeights(lungs_only=lungs_only)
        reconstruction_loss(image, reconstruction, masks, labels, weights).backward()
        gradients[lungs_only] = reconstruction.grad
    assert (gradients[False] > 0).all()
    assert torch.equal(gradients[True] > 0, masks[:, :1] > 0)
    # the mean over 2 images, a lung of 8 pixels, a device of one, a background of 7
    assert gradients[False][0, 0, 0, 0].item() == pytest.approx(1 / 16)
    assert gradients[False][0, 0, 3, 3].item() == pytest.approx(1 / 2)
    assert gradients[False][0, 0, 3, 0].item() == pytest.approx(1 / 14)


def test_masked_l1_is_a_mean_per_image():
    image = torch.zeros(2, 3, 2, 2)
    other = torch.ones(2, 3, 2, 2) * torch.tensor([1.0, 2, 6]).reshape(1, 3, 1, 1)
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[0, 0] = True
    assert masked_l1(image, other, mask).tolist() == [3, 0]


def test_reconstruction_bad_input():
    image = rand(2, 1, 4, 4)
    masks = torch.ones(2, 3, 4, 4)
    with pytest.raises(ValueError, match="same shape"):
        context_aware_reconstruction(image, image[:1], masks)
    for wrong, message in [
        (masks[:1], r"\(2, labels, 4, 4\), got \(1, 3, 4, 4\)"),
        (masks[:, 0], "got"),
        (masks[..., :3], "got"),
        (2 * masks, r"masks must lie in \[0, 1\]"),
        (math.nan * masks, "NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            context_aware_reconstruction(image, image, wrong)
    with pytest.raises(ValueError, match="nothing to reconstruct"):
        context_aware_reconstruction(image, image, masks[:, :0], background=False)
    with pytest.raises(ValueError, match="2 labels"):
        reconstruction_loss(image, image, masks, ["lungs", "heart"], ExplainerLossWeights())
    with pytest.raises(ValueError, match="'lungs'"):
        reconstruction_loss(image, image, masks, ["a", "b", "c"], ExplainerLossWeights(lungs_only=True))


# --- embedding, weights -------------------------------------------------------------------------------------


def test_embedding_distance():
    a, b = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[1.0, 0], [0, 4]])
    assert embedding_distance(a, b).item() == pytest.approx(13 / 4)
    assert embedding_distance(a, a) == 0
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2, 1\)"):
        embedding_distance(a, b[:, :1])


def test_weights_are_those_of_the_paper_and_weight():
    weights = ExplainerLossWeights()
    terms = {"adversarial": 1.0, "classifier": 2.0, "reconstruction": 3.0, "embedding": 4.0}
    terms = {name: torch.tensor(value, requires_grad=True) for name, value in terms.items()}
    total = weights.total(terms)
    assert total.item() == 1 + 2 + 300 + 400
    total.backward()
    assert [t.grad.item() for t in terms.values()] == [1, 1, 100, 100]
    assert ExplainerLossWeights(embedding=0.0).total({"embedding": terms["embedding"]}) == 0


def test_weights_bad_input():
    with pytest.raises(ValueError, match="reconstruction must not be negative"):
        ExplainerLossWeights(reconstruction=-1.0)
    with pytest.raises(ValueError, match="classifer"):
        ExplainerLossWeights().total({"classifer": torch.ones(())})
    with pytest.raises(ValueError, match="terms"):
        ExplainerLossWeights().total({})
