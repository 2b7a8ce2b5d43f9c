"""Mechanisms against closed forms: the Gumbel laws, exact inversion, densities that integrate to one."""

import numpy as np
import pytest
import torch
from scipy import stats

from cf_cxr import Attribute
from cf_cxr.models.attribute_scm import AttributeSCMConfig
from cf_cxr.models.attribute_scm.mechanisms import (
    Conditioner,
    GumbelMaxMechanism,
    SplineFlowMechanism,
    draw,
    precise_dtype,
)

AGE = Attribute("age", "continuous", minimum=20.0, maximum=95.0)
RACE = Attribute("race", "categorical", categories=("A", "B", "C"))
DRAWS = 100_000
SIGNIFICANCE = 1e-3  # each test of a law uses a fixed seed, so it fails for ever or never


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class GivenLogits(GumbelMaxMechanism):
    """A Gumbel-max mechanism whose parents are its logits."""

    def __init__(self):
        super().__init__(RACE, 0, AttributeSCMConfig())

    def forward(self, parents):
        return parents.double()


def spline(parent_dim: int = 0, scale: float = 1.0, **kwargs) -> SplineFlowMechanism:
    """A flow far from the identity on ages from 20 to 95."""
    settings = {"hidden_sizes": (8,), "hidden_act": "gelu", "num_transforms": 2, "num_bins": 6, **kwargs}
    mechanism = SplineFlowMechanism(AGE, parent_dim, AttributeSCMConfig(**settings))
    for i, parameter in enumerate(mechanism.parameters()):
        torch.nn.init.normal_(parameter, std=scale, generator=generator(i))
    return mechanism


# --- Gumbel-max -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_null_counterfactual_never_flips(n_classes):
    """Over 100 000 draws, logits from -5 to 5 and every observed class, the likely and the very unlikely."""
    mechanism = GivenLogits()
    logits = torch.rand(DRAWS, n_classes, generator=generator(1)) * 10 - 5
    observed = torch.randint(n_classes, (DRAWS,), generator=generator(2)).float()
    noise = mechanism.abduct(observed, logits, generator(3))
    assert torch.isfinite(noise).all()
    assert int((mechanism.decode(noise, logits) != observed).sum()) == 0


def test_extreme_logits_stay_finite():
    mechanism = GivenLogits()
    logits = torch.tensor([[-700.0, 700.0]]).repeat(1000, 1)
    observed = torch.zeros(1000)
    noise = mechanism.abduct(observed, logits, generator(5))
    assert torch.isfinite(noise).all() and (mechanism.decode(noise, logits) == 0).all()


@pytest.mark.parametrize("logits", [(-3.0, 0.5), (4.0, 1.0, -2.0), (-5.0, -4.5, -4.0, 5.0)])
def test_abducted_noise_follows_the_prior(logits):
    """Classes from the model, noise from the posterior: together the standard Gumbel law, independent."""
    mechanism = GivenLogits()
    parents = torch.tensor(logits).repeat(DRAWS, 1)
    noise = mechanism.abduct(mechanism.sample(parents, generator(6)), parents, generator(7)).numpy()
    reference = draw("gumbel", torch.empty(DRAWS, len(logits), dtype=torch.float64), generator(8)).numpy()
    for i in range(len(logits)):
        assert stats.ks_2samp(noise[:, i], reference[:, i]).pvalue > SIGNIFICANCE
        assert stats.kstest(noise[:, i], "gumbel_r").pvalue > SIGNIFICANCE
    ranks = stats.rankdata(noise, axis=0)
    correlation = np.corrcoef(ranks.T)[np.triu_indices(len(logits), 1)]
    assert np.abs(correlation).max() < 4 / np.sqrt(DRAWS)


def test_posterior_noise_is_that_of_rejection_sampling():
    """Given the class, the noise is the prior's noise among the draws that gave that class."""
    mechanism = GivenLogits()
    parents = torch.tensor([1.0, -0.5, 0.0]).repeat(DRAWS, 1)
    prior = draw("gumbel", parents.double(), generator(9))
    kept = prior[mechanism.decode(prior, parents) == 1]
    posterior = mechanism.abduct(torch.ones(len(kept)), parents[: len(kept)], generator(10))
    for i in range(3):
        assert stats.ks_2samp(posterior[:, i].numpy(), kept[:, i].numpy()).pvalue > SIGNIFICANCE


def test_constant_added_to_logits_changes_nothing():
    mechanism = GivenLogits()
    logits = torch.tensor([-2.0, 0.0, 1.0]).repeat(1000, 1)
    observed = torch.randint(3, (1000,), generator=generator(11)).float()
    noise = mechanism.abduct(observed, logits, generator(12))
    for constant in (-64.0, 3.0, 64.0):
        shifted = mechanism.abduct(observed, logits + constant, generator(12))
        torch.testing.assert_close(shifted, noise, rtol=0, atol=1e-9)
        moved = logits.flip(1)
        assert torch.equal(mechanism.decode(noise, moved), mechanism.decode(shifted, moved + constant))


@pytest.mark.parametrize(("before", "after"), [(0.2, 0.6), (0.6, 0.2), (0.05, 0.95), (0.5, 0.5)])
def test_binary_counterfactual_frequency(before, after):
    """Gumbel-max with two classes is monotone: P(1' | 0) = (p' - p)/(1 - p) if p' > p, P(0' | 1) = (p - p')/p."""
    mechanism = GivenLogits()
    old, new = (torch.tensor([1 - p, p]).log().repeat(DRAWS, 1) for p in (before, after))
    for k in (0.0, 1.0):
        noise = mechanism.abduct(torch.full((DRAWS,), k), old, generator(13))
        one = mechanism.decode(noise, new).mean().item()
        if k == 0:
            expected = max(0.0, (after - before) / (1 - before))
        else:
            expected = 1 - max(0.0, (before - after) / before)
        assert abs(one - expected) < 4 * np.sqrt(max(expected * (1 - expected), 1e-12) / DRAWS) + 1e-12


def test_counterfactual_marginal_is_the_interventional_law():
    """Averaged over the factual classes, a counterfactual has the child's probabilities under the new parent."""
    mechanism = GivenLogits()
    old, new = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([-2.0, 1.5, 1.0])
    parents = old.repeat(DRAWS, 1)
    noise = mechanism.abduct(mechanism.sample(parents, generator(14)), parents, generator(15))
    counts = torch.bincount(mechanism.decode(noise, new.repeat(DRAWS, 1)).long(), minlength=3)
    expected = new.double().softmax(0) * DRAWS
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > SIGNIFICANCE


def test_samples_have_the_model_probabilities():
    mechanism = GivenLogits()
    logits = torch.tensor([-5.0, 0.0, 1.0])
    counts = torch.bincount(mechanism.sample(logits.repeat(DRAWS, 1), generator(16)).long(), minlength=3)
    assert stats.chisquare(counts.numpy(), (logits.double().softmax(0) * DRAWS).numpy()).pvalue > SIGNIFICANCE
    torch.testing.assert_close(
        mechanism.log_prob(torch.tensor([0.0, 1.0, 2.0]), logits.repeat(3, 1)), logits.double().log_softmax(0)
    )


# --- spline flow ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parent_dim", [0, 3])
@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_flow_round_trip(parent_dim, scale):
    mechanism = spline(parent_dim, scale)
    value = torch.cat([torch.linspace(20, 95, 2001), torch.tensor([20.0, 95.0])])
    parents = torch.randn(len(value), parent_dim, generator=generator())
    noise = mechanism.abduct(value, parents)
    assert torch.isfinite(noise).all()
    assert (mechanism.decode(noise, parents) - value).abs().max() < 1e-3
    inside = noise.abs() < 4
    assert (mechanism.abduct(mechanism.decode(noise, parents), parents) - noise)[inside].abs().max() < 1e-6


def test_flow_density_integrates_to_one_per_unit():
    mechanism = spline(2, 0.7)
    value = torch.linspace(20, 95, 200_001, dtype=torch.float64)
    parents = torch.tensor([[0.3, -0.8]]).expand(len(value), -1)
    log_density = mechanism.log_prob(value, parents)
    assert torch.isfinite(log_density).all()
    assert abs(torch.trapezoid(log_density.exp(), value).item() - 1) < 2e-3


def test_flow_samples_follow_the_density():
    mechanism = spline(1, 0.7)
    parents = torch.full((20_000, 1), 0.4)
    sample = mechanism.sample(parents, generator(1))
    assert (sample >= 20).all() and (sample <= 95).all()
    grid = torch.linspace(20, 95, 100_001, dtype=torch.float64)
    cdf = torch.cumulative_trapezoid(mechanism.log_prob(grid, parents[:1].expand(len(grid), -1)).exp(), grid)
    law = stats.ks_1samp(sample.detach().numpy(), lambda x: np.interp(x, grid[1:], cdf.detach().numpy()))
    assert law.pvalue > SIGNIFICANCE


def test_abducted_flow_noise_is_standard_normal():
    mechanism = spline(1, 0.7)
    parents = torch.full((20_000, 1), -0.2)
    noise = mechanism.abduct(mechanism.sample(parents, generator(2)), parents)
    assert stats.kstest(noise.detach().numpy(), "norm").pvalue > SIGNIFICANCE


def test_flow_clamps_what_lies_beyond_the_range():
    mechanism = spline()
    parents = torch.empty(2, 0)
    assert mechanism.decode(torch.tensor([-40.0, 40.0], dtype=torch.float64), parents).tolist() == [20, 95]


def test_flow_keeps_the_order_of_values():
    """A counterfactual keeps ranks: the noise grows with the value."""
    noise = spline(0, 2.0).abduct(torch.linspace(20, 95, 500), torch.empty(500, 0))
    assert (noise.diff() > 0).all()


# --- shared -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_arithmetic_is_float64_whatever_the_parameters(dtype):
    conditioner = Conditioner(2, 3, (4,), "gelu").to(dtype)
    parents = torch.randn(5, 2, generator=generator())
    out = conditioner(parents)
    assert out.dtype == precise_dtype(parents.device) == torch.float64
    hidden = torch.nn.functional.gelu(parents.double() @ conditioner.layers[0].weight.double().T
                                      + conditioner.layers[0].bias.double())  # fmt: skip
    expected = hidden @ conditioner.layers[1].weight.double().T + conditioner.layers[1].bias.double()
    torch.testing.assert_close(out, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(conditioner(parents), out)
