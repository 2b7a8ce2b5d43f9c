"""Latent shift: the closed form of a linear decoder under a linear classifier, and paths that are not monotone."""

import math

import pytest
import torch

from cf_cxr.black_box import ImageClassifier, from_callable
from cf_cxr.explaining.latent_shift import (
    ExplainerAutoencoder,
    LatentCode,
    LatentShiftExplainer,
    MechanismAutoencoder,
    reach_targets,
)
from cf_cxr.models.progressive_explainer import ProgressiveExplainerConfig, ProgressiveExplainerModel
from cf_cxr.models.progressive_explainer.posterior_bins import PosteriorBins
from tests.evaluation.tiny_evaluation import build_model, build_parts

SIDE = 4
TARGETS = PosteriorBins(10).centres


class LinearClassifier(ImageClassifier):
    """sigmoid(w x + b)."""

    def __init__(self, weight, bias=0.3, differentiable=True):
        super().__init__("linear", differentiable=differentiable)
        self.weight, self.bias = torch.nn.Parameter(weight), bias

    def compute_posterior(self, pixel_values):
        return torch.sigmoid(pixel_values.flatten(1) @ self.weight + self.bias)


class LinearAutoencoder:
    """x = A z in two parts of z of different shapes; z is the shortest solution."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(SIDE * SIDE, 6, generator=generator) * 0.03
        self.decoded = 0

    def encode(self, pixel_values, posterior):
        z = pixel_values.flatten(1) @ torch.linalg.pinv(self.matrix).T
        return LatentCode((z[:, :2], z[:, 2:].reshape(-1, 2, 2)))

    def decode(self, latents, context):
        self.decoded += len(latents[0])
        z = torch.cat([latents[0], latents[1].flatten(1)], dim=1)
        return (z @ self.matrix.T).reshape(-1, 1, SIDE, SIDE)


@pytest.fixture
def linear():
    generator = torch.Generator().manual_seed(1)
    autoencoder = LinearAutoencoder()
    z = torch.randn(5, 6, generator=generator)
    images = autoencoder.decode((z[:, :2], z[:, 2:]), None)
    assert images.abs().max() < 1
    weight = torch.randn(SIDE * SIDE, generator=generator) * 20
    return autoencoder, LinearClassifier(weight), images, z


def test_the_closed_form_of_a_linear_decoder(linear):
    """logit f(A(z + c A'w)) = w A z + b + c |A'w|^2, so c = (logit t - logit f(x)) / |A'w|^2."""
    autoencoder, classifier, images, z = linear
    explainer = LatentShiftExplainer(autoencoder, radius=8.0, bisections=30, tolerance=0.0, batch_size=7)
    made, reached = explainer.series(images, classifier, TARGETS)
    assert made.shape == (5, 10, 1, SIDE, SIDE) and reached.shape == (5, 10)
    torch.testing.assert_close(reached, TARGETS.expand(5, 10), atol=1e-4, rtol=0)
    direction = autoencoder.matrix.T @ classifier.weight.detach()
    c = (torch.logit(TARGETS) - torch.logit(classifier.posterior(images))[:, None]) / direction.square().sum()
    expected = (z[:, None] + c[..., None] * direction) @ autoencoder.matrix.T
    torch.testing.assert_close(made.reshape(5, 10, -1), expected, atol=1e-3, rtol=0)


def test_directions_are_as_long_as_the_latents_and_point_uphill(linear):
    autoencoder, classifier, images, z = linear
    code = autoencoder.encode(images, None)
    found = LatentShiftExplainer(autoencoder).direction(code, classifier)
    assert [d.shape for d in found] == [z.shape for z in code.latents]
    joined = torch.cat([found[0], found[1].flatten(1)], 1)
    torch.testing.assert_close(joined.norm(dim=1), z.norm(dim=1), atol=1e-4, rtol=0)
    gradient = autoencoder.matrix.T @ classifier.weight.detach()
    assert torch.allclose(torch.cosine_similarity(joined, gradient.expand(5, 6)), torch.ones(5), atol=1e-5)


def test_without_a_gradient_nothing_moves(linear):
    autoencoder, _, images, _ = linear
    flat = LinearClassifier(torch.zeros(SIDE * SIDE))
    made, reached = LatentShiftExplainer(autoencoder).series(images, flat, TARGETS)
    torch.testing.assert_close(made, images[:, None].expand(made.shape), atol=1e-5, rtol=0)
    torch.testing.assert_close(reached, torch.full((5, 10), torch.sigmoid(torch.tensor(0.3)).item()))


def test_a_black_box_without_gradient_needs_a_student(linear):
    autoencoder, classifier, images, _ = linear
    black_box = from_callable(
        lambda pixels: classifier.posterior(torch.as_tensor(pixels)).numpy(), "linear", identity="test"
    )
    with pytest.raises(ValueError, match="gradient_classifier="):
        LatentShiftExplainer(autoencoder).series(images, black_box, TARGETS)
    explainer = LatentShiftExplainer(autoencoder, gradient_classifier=classifier, radius=8.0, tolerance=0.001)
    _, reached = explainer.series(images, black_box, TARGETS)
    torch.testing.assert_close(reached, TARGETS.expand(5, 10), atol=0.01, rtol=0)


def wave(s):
    """Rises to 0.9 at 0.5, falls to 0.1 at 1, and is 0.5 or less on the left."""
    return torch.where(s >= 0, 0.5 + 0.4 * torch.sin(math.pi * s), 0.5 + 0.2 * s)


def path(rows, s):
    return s.reshape(-1, 1, 1, 1), wave(s)


def test_the_nearest_bracket_of_a_path_that_is_not_monotone():
    grid = torch.linspace(-2, 2, 17)
    targets = torch.tensor([0.22, 0.7, 0.95])
    images, reached = reach_targets(path, 2, targets, grid, 30, 0.0)
    shift = images[:, :, 0, 0, 0]
    assert torch.equal(shift[0], shift[1])
    # 0.7 is met at s = 1/6 and at 5/6; 0.22 at -1.4 and at 1 + arcsin(0.7) / pi = 1.25, which is nearer
    assert shift[0, 1].item() == pytest.approx(1 / 6, abs=1e-4)
    assert shift[0, 0].item() == pytest.approx(1 + math.asin(0.7) / math.pi, abs=1e-4)
    # 0.95 is out of reach: the best there is, said as it is
    assert reached[0, 2].item() == pytest.approx(0.9, abs=1e-6) and shift[0, 2].item() == 0.5


def test_images_that_are_near_enough_are_not_searched_further():
    asked = []

    def counting(rows, s):
        asked.append(len(rows))
        return path(rows, s)

    reach_targets(counting, 3, torch.tensor([0.5, 0.9]), torch.linspace(-1, 1, 5), 10, 0.01)
    assert asked == [3] * 5 + [6]  # the grid, and its best points once more


def test_under_a_linear_classifier_several_steps_are_the_straight_line(linear):
    """The gradient's direction is the same everywhere, so only the length of z changes the steps."""
    autoencoder, classifier, images, _ = linear
    settings = {"radius": 2.0, "bisections": 30, "tolerance": 0.0}
    straight, _ = LatentShiftExplainer(autoencoder, **settings).series(images, classifier, TARGETS)
    steps, reached = LatentShiftExplainer(autoencoder, steps=5, **settings).series(
        images, classifier, TARGETS
    )
    torch.testing.assert_close(reached, TARGETS.expand(5, 10), atol=1e-4, rtol=0)
    torch.testing.assert_close(steps, straight, atol=1e-3, rtol=0)


class Ridge(ImageClassifier):
    """sigmoid of a function whose gradient at 0 leads along the first pixel, where it soon falls again."""

    def __init__(self):
        super().__init__("ridge")
        self.slope = torch.nn.Parameter(torch.tensor(6.0))

    def compute_posterior(self, pixel_values):
        x, y = pixel_values[:, 0, 0, 0], pixel_values[:, 0, 0, 1]
        return torch.sigmoid(self.slope * (y - 4 * (y - x.square()).square() + x - 2 * x.square()) - 1)


class Pixels:
    """The image is its own code."""

    def encode(self, pixel_values, posterior):
        return LatentCode((pixel_values,))

    def decode(self, latents, context):
        return latents[0].clamp(-1, 1)


def test_new_gradients_on_the_way_reach_what_a_line_does_not():
    images = torch.zeros(1, 1, 2, 2)
    images[0, 0, 1, 1] = 1.0  # |z| = 1
    target = torch.tensor([0.68])
    _, line = LatentShiftExplainer(Pixels()).series(images, Ridge(), target)
    _, ascent = LatentShiftExplainer(Pixels(), steps=20).series(images, Ridge(), target)
    assert line.item() < 0.63 and ascent.item() == pytest.approx(0.68, abs=0.006)


@pytest.mark.parametrize(
    "settings",
    [
        {"radius": 0},
        {"radius": math.inf},
        {"halvings": 0},
        {"steps": 0},
        {"bisections": -1},
        {"tolerance": 1},
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError):
        LatentShiftExplainer(LinearAutoencoder(), **settings)


@pytest.mark.parametrize("targets", [torch.tensor([0.5, 1.2]), torch.tensor([]), torch.tensor(0.5)])
def test_targets_that_are_none(linear, targets):
    autoencoder, classifier, images, _ = linear
    with pytest.raises(ValueError, match="targets"):
        LatentShiftExplainer(autoencoder).series(images, classifier, targets)


class Patch(ImageClassifier):
    """sigmoid of the centre's brightness."""

    def __init__(self):
        super().__init__("patch")
        self.slope = torch.nn.Parameter(torch.tensor(4.0))

    def compute_posterior(self, pixel_values):
        return torch.sigmoid(self.slope * pixel_values[:, 0, 4:12, 4:12].mean((1, 2)))


def test_the_image_mechanism_as_autoencoder(tmp_path):
    """Its noise keeps the residual: an unshifted code is the image, and shifts of the latents move the posterior."""
    from cf_cxr.models.deep_scm import DeepSCMModel

    build_parts(tmp_path, "phantom")
    model = DeepSCMModel.from_pretrained(build_model(tmp_path)).eval()
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    autoencoder, classifier = MechanismAutoencoder(model), Patch()
    code = autoencoder.encode(images, classifier.posterior(images))
    back = autoencoder.decode(code.latents, code.context)
    torch.testing.assert_close(back, images, atol=1e-4, rtol=0)
    part = code.rows(torch.tensor([2, 0]))
    torch.testing.assert_close(
        autoencoder.decode(part.latents, part.context), images[[2, 0]], atol=1e-4, rtol=0
    )
    explainer = LatentShiftExplainer(autoencoder, radius=4.0)
    source = classifier.posterior(images)
    made, reached = explainer.series(images, classifier, torch.tensor([0.05, 0.95]))
    torch.testing.assert_close(reached, classifier.posterior(made.flatten(0, 1)).reshape(3, 2))
    assert (reached[:, 0] <= source).all() and (reached[:, 1] >= source).all()
    assert (reached[:, 1] - reached[:, 0] > 0).all() and made.abs().max() <= 1


def test_a_progressive_explainer_as_autoencoder():
    torch.manual_seed(0)
    config = ProgressiveExplainerConfig(image_size=16, widths=[4, 8], residual_output=True)
    model = ProgressiveExplainerModel(config).eval()
    with torch.no_grad():
        model.conv_out.weight.normal_(std=0.1)
    classifier = Patch()
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    bins = model.bins.index(classifier.posterior(images))
    autoencoder = ExplainerAutoencoder(model)
    code = autoencoder.encode(images, classifier.posterior(images))
    with torch.no_grad():
        expected = model(images, bins).pixel_values
        torch.testing.assert_close(autoencoder.decode(code.latents, code.context), expected)
    _, reached = LatentShiftExplainer(autoencoder).series(images, classifier, torch.tensor([0.05, 0.95]))
    assert (reached[:, 1] > reached[:, 0]).all()
