"""The phantom's causal model: its laws, its abduction, and what an ideal observer can know."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cf_cxr.attributes import AttributeValueError, UnknownAttributeError
from cf_cxr.data.phantom import (
    FACTORS,
    NOISE_COLUMNS,
    ChestPhantom,
    PhantomConfig,
    bayes_posterior,
    phantom_schema,
)
from cf_cxr.data.phantom.factors import AGE_FACTORS, age_means, factor_means, site_means
from cf_cxr.data.phantom.scm import abduct_finding, age_log_density, finding_probability

PHANTOM = ChestPhantom(PhantomConfig(resolution=32))
N = 20_000


@pytest.fixture(scope="module")
def population():
    return PHANTOM.sample_attributes(N, 7), PHANTOM.sample_noise(N, 7)


@pytest.fixture(scope="module")
def observed(population):
    attributes, noise = population[0][:6000], population[1][:6000]
    return attributes, PHANTOM.bayes_posterior(attributes, noise)


def test_schema_and_graph():
    schema, graph = phantom_schema()
    assert schema.names == ("age", "sex", "site", "finding")
    assert schema["sex"].categories == ("Male", "Female")
    assert schema["finding"].categories == ("No Finding", "Effusion")
    assert graph.parents("finding") == ("age",)
    assert graph.parents("sex") == () and graph.parents("site") == ()
    assert phantom_schema("Cardiomegaly")[0]["finding"].categories[1] == "Cardiomegaly"


def test_attributes_follow_their_laws(population):
    age, sex, site, finding = population[0].unbind(1)
    assert age.min() >= 18 and age.max() <= 95
    assert abs(sex.mean() - 0.48) < 4 * (0.25 / N) ** 0.5
    shares = torch.bincount(site.long(), minlength=3) / N
    assert torch.allclose(shares, torch.tensor([0.40, 0.35, 0.25]), atol=0.015)
    for low in range(20, 90, 10):  # the finding's frequency per decade of age is the closed form
        rows = (age >= low) & (age < low + 10)
        expected = finding_probability(age[rows]).mean()
        assert abs(finding[rows].mean() - expected) < 4 * (0.25 / rows.sum()) ** 0.5


def test_age_density_integrates_to_one_and_matches_the_sample(population):
    grid = torch.linspace(18, 95, 7701, dtype=torch.float64)
    density = age_log_density(grid).exp()
    assert torch.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-6)
    assert population[0][:, 0].double().mean() == pytest.approx(
        torch.trapezoid(density * grid, grid).item(), abs=0.5
    )
    assert age_log_density(torch.tensor([17.0, 96.0])).tolist() == [-torch.inf, -torch.inf]


def test_noise_is_standard_and_independent_of_the_attributes(population):
    attributes, noise = population
    normal = noise[:, :-2]
    assert normal.mean(0).abs().max() < 5 / N**0.5 and (normal.std(0) - 1).abs().max() < 0.03
    rank, grain = noise[:, NOISE_COLUMNS.index("finding_rank")], noise[:, NOISE_COLUMNS.index("grain")]
    assert 0 < rank.min() and rank.max() < 1 and abs(rank.mean() - 0.5) < 0.01
    assert torch.equal(grain, grain.round()) and grain.max() < 2**24
    both = torch.cat([attributes, noise], dim=1).double().T
    correlation = torch.corrcoef(both)[:4, 4:]
    assert correlation.abs().max() < 5 / N**0.5


def test_rows_depend_on_seed_and_index_only():
    few, many = PHANTOM.sample_noise(3, 5), PHANTOM.sample_noise(50, 5)
    assert torch.equal(few, many[:3])
    assert torch.equal(PHANTOM.noise_at(5, [40, 2, 3, 17]), many[[40, 2, 3, 17]])
    assert torch.equal(PHANTOM.attributes_at(5, [40, 2]), PHANTOM.sample_attributes(50, 5)[[40, 2]])
    assert not torch.equal(PHANTOM.sample_noise(3, 6), few)
    by_torch = [PHANTOM.sample_noise(3, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*by_torch)
    assert PHANTOM.sample_noise(2, np.random.default_rng(0)).shape == (2, len(NOISE_COLUMNS))


def test_bad_seeds_and_indices_are_refused():
    with pytest.raises(ValueError, match="-1"):
        PHANTOM.sample_noise(2, -1)
    with pytest.raises(TypeError, match="str"):
        PHANTOM.sample_attributes(2, "1")
    with pytest.raises(ValueError, match="indices"):
        PHANTOM.noise_at(0, [3, -2])


def test_abducted_noise_reproduces_the_finding_and_is_uniform(population):
    attributes, noise = population
    age, finding = attributes[:, 0], attributes[:, 3]
    u = abduct_finding(age, finding, noise[:, NOISE_COLUMNS.index("finding_rank")])
    assert torch.equal((u < finding_probability(age)).float(), finding)
    quantiles = torch.arange(N, dtype=torch.float64) / N
    assert (u.sort().values - quantiles).abs().max() < 1.95 / N**0.5  # Kolmogorov-Smirnov, p = 0.001


def test_finding_answers_do_age_with_the_closed_form_frequency():
    n = 20_000
    noise = PHANTOM.sample_noise(n, 3)
    for factual, counterfactual, present in ((80.0, 40.0, 1.0), (30.0, 75.0, 0.0)):
        attributes = torch.tensor([[factual, 0.0, 1.0, present]]).repeat(n, 1)
        result = PHANTOM.counterfactual_attributes(attributes, noise, {"age": counterfactual})
        before, after = finding_probability(torch.tensor([factual, counterfactual]))
        # With one u: P(u < after | u < before) when present, P(u < after | u >= before) when absent.
        expected = after / before if present else (after - before) / (1 - before)
        assert result[:, 3].mean() == pytest.approx(expected.item(), abs=4 * 0.5 / n**0.5)
        assert torch.equal(result[:, 1:3], attributes[:, 1:3])
    fixed = PHANTOM.counterfactual_attributes(attributes, noise, {"age": 90, "finding": "No Finding"})
    assert fixed[:, 3].sum() == 0


@pytest.mark.parametrize(
    ("do", "error", "message"),
    [
        ({"race": "A"}, UnknownAttributeError, "race"),
        ({"sex": "Banana"}, AttributeValueError, "Banana"),
        ({"age": torch.tensor([40.0, -3.0])}, AttributeValueError, "-3"),
        ({"age": torch.tensor([40.0, 50.0, 60.0])}, ValueError, "3 values"),
    ],
)
def test_bad_interventions_are_refused(population, do, error, message):
    with pytest.raises(error, match=message):
        PHANTOM.counterfactual_attributes(population[0][:2], population[1][:2], do)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("resolution", 8), ("finding", "Edema"), ("device_rate", 1.5), ("age_noise", 0.0), ("photons", np.nan)],
)
def test_bad_settings_are_refused(setting, value):
    with pytest.raises(ValueError, match=setting):
        PhantomConfig(**{setting: value})


def test_factors_are_unit_normal_around_means_set_by_one_attribute(population):
    attributes, noise = population
    config = PHANTOM.config
    residual = PHANTOM.factors(attributes, noise) - factor_means(attributes, config).float()
    assert torch.allclose(residual, noise[:, : len(FACTORS)], atol=1e-5)
    distances = torch.pdist(site_means(config.site_separation))
    assert torch.allclose(distances, torch.full((3,), config.site_separation, dtype=torch.float64))
    step = age_means(torch.tensor([57.0, 57.0 + config.age_noise]), config)
    assert (step[1] - step[0]).norm() == pytest.approx(1.0, abs=1e-6)


def test_posterior_equals_brute_force_weighting(population):
    """Weak factors, so that priors matter: weight 20 000 draws of the attributes by their likelihood."""
    config = PhantomConfig(age_noise=25.0, sex_separation=0.5, site_separation=0.5, finding_separation=1.0)
    attributes = population[0]
    factors = torch.randn(6, len(FACTORS), generator=torch.Generator().manual_seed(0)).double()
    factors[:, : len(AGE_FACTORS)] += torch.linspace(-1.2, 1.2, 6)[:, None]
    distance = factors[:, None] - factor_means(attributes, config)[None]
    weight = torch.softmax(-0.5 * distance.square().sum(-1), dim=1)
    error = weight.square().sum(1).sqrt()  # one standard error of a weighted mean, per unit of spread
    posterior = bayes_posterior(factors, config)
    age, sex, site, finding = attributes.double().unbind(1)
    assert error.max() < 0.06
    assert ((posterior.age_mean - weight @ age).abs() < 4 * error * posterior.age_std).all()
    assert ((posterior.sex - weight @ sex).abs() < 2 * error).all()  # spread of a coin is at most 1/2
    assert ((posterior.finding - weight @ finding).abs() < 2 * error).all()
    for k in range(3):
        assert ((posterior.site[:, k] - weight @ (site == k).double()).abs() < 2 * error).all()


def test_ambiguity_is_inside_the_design_bands(observed):
    attributes, posterior = observed
    assert 4.0 < (posterior.age_median - attributes[:, 0]).abs().mean() < 6.5
    assert 0.93 < roc_auc_score(attributes[:, 1], posterior.sex) < 0.98
    assert 0.90 < roc_auc_score(attributes[:, 2], posterior.site, multi_class="ovr") < 0.96
    assert 0.90 < roc_auc_score(attributes[:, 3], posterior.finding) < 0.96
