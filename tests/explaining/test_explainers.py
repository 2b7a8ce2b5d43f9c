"""The contract of every explainer, whatever it is made of."""

import pytest
import torch

from cf_cxr.explaining.causal import CausalExplainer
from cf_cxr.explaining.explanation import METHODS
from cf_cxr.explaining.latent_shift import ExplainerAutoencoder, LatentShiftExplainer, MechanismAutoencoder
from cf_cxr.explaining.progressive import ProgressiveExplainer
from tests.pipelines.tiny import SIDE, mean_classifier, random_explainer, tiny_model

SEARCH = {"radius": 4.0, "halvings": 4, "bisections": 4}
EXPLAINERS = {
    "progressive": lambda: ProgressiveExplainer(random_explainer()),
    "causal": lambda: CausalExplainer(tiny_model(), "finding=Effusion"),
    "causal, first value": lambda: CausalExplainer(tiny_model(), "sex=Male"),
    "causal, of a flow": lambda: CausalExplainer(tiny_model(mechanism="flow"), "finding=Effusion"),
    "latent shift of a causal model": lambda: LatentShiftExplainer(MechanismAutoencoder(tiny_model()), **SEARCH),
    "latent shift of an explainer": lambda: LatentShiftExplainer(ExplainerAutoencoder(random_explainer()), **SEARCH),
}  # fmt: skip


@pytest.fixture(scope="module", params=EXPLAINERS)
def explainer(request):
    return EXPLAINERS[request.param]()


@pytest.fixture(scope="module")
def classifier():
    return mean_classifier()


@pytest.fixture(scope="module")
def x():
    noise = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) - 0.5
    return noise + torch.tensor([-0.2, 0.1, 0.3]).view(3, 1, 1, 1)


def test_series_has_an_image_of_every_query_for_every_target(explainer, classifier, x):
    targets = torch.tensor([0.05, 0.3, 0.95])
    images, reached = explainer.series(x, classifier, targets)
    assert images.shape == (3, 3, 1, SIDE, SIDE) and images.dtype == torch.float32
    assert images.isfinite().all() and images.abs().max() <= 1 and not images.requires_grad
    assert (images[:, 0] - images[:, 2]).abs().max() > 1e-4
    if reached is not None:
        torch.testing.assert_close(reached, classifier.posterior(images.flatten(0, 1)).reshape(3, 3))


def test_explain_leads_from_every_query_across_the_boundary(explainer, classifier, x):
    posteriors = classifier.posterior(x)
    assert explainer.method in METHODS
    for before, one in zip(posteriors, explainer.explain(x, classifier, posteriors, steps=4)):
        assert one.images.shape == (4, 1, SIDE, SIDE) and one.targets.shape == (4,) and not one.at_target
        assert one.images.dtype == one.targets.dtype == torch.float32 and one.images.abs().max() <= 1
        assert abs(one.targets[0] - before) <= 0.05  # the query's own bin at the farthest
        assert classifier.decision(one.targets[-1]) != classifier.decision(before)
        assert float(one.targets[-1]) == pytest.approx(0.05 if before >= 0.5 else 0.95)


def test_a_given_target_and_a_query_that_is_there(explainer, classifier, x):
    posteriors = classifier.posterior(x)
    target = float(posteriors[2])
    first, _, there = explainer.explain(x, classifier, posteriors, target=target)
    assert abs(first.targets[-1] - target) <= 0.05 and len(first.images) > 1
    assert there.at_target and len(there.images) == len(there.targets) == 1
    assert abs(there.targets[0] - target) <= 0.05


def test_a_query_has_the_same_series_alone_and_among_others(explainer, classifier, x):
    posteriors = classifier.posterior(x)
    together = explainer.explain(x, classifier, posteriors, steps=3)
    for i, series in enumerate(together):
        [alone] = explainer.explain(x[i : i + 1], classifier, posteriors[i : i + 1], steps=3)
        torch.testing.assert_close(alone.images, series.images, atol=1e-4, rtol=0)
        torch.testing.assert_close(alone.targets, series.targets)
