"""Matched targets against closed forms: in a linear Gaussian world they are the true counterfactual readouts."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cf_cxr import Attribute, AttributeSchema
from cf_cxr.training.counterfactual_finetuning.matched_targets import (
    ReadoutMechanism,
    attribute_design,
    matched_readouts,
    readout_loss,
    readouts,
    targets_from_readouts,
)

SCHEMA = AttributeSchema(
    [
        Attribute("age", "continuous", minimum=0.0, maximum=100.0, unit="years"),
        Attribute("sex", "binary", categories=("Male", "Female")),
        Attribute("site", "categorical", categories=("A", "B", "C")),
    ]
)
SHIFT = torch.tensor([[0.0, 0.0, 0.0], [2.0, -1.0, -1.0], [-1.0, 2.0, -1.0]])


def world(n=6000, seed=0):
    """Attributes, exogenous noise, and the readouts they give; sex has spread 1 in men, 2 in women."""
    g = torch.Generator().manual_seed(seed)
    age = torch.rand(n, generator=g) * 60 + 20
    sex = (torch.rand(n, generator=g) < 0.4).float()
    site = torch.randint(3, (n,), generator=g).float()
    noise = torch.randn(n, 3, generator=g)
    attributes = torch.stack([age, sex, site], 1)
    return attributes, noise, truth(attributes, noise)


def truth(attributes, noise):
    age, sex, site = attributes.unbind(1)
    common = noise[:, 2:] * torch.tensor([[0.5, -0.25, -0.25]])
    return {
        "age": (0.7 * (age / 50 - 1) + 0.1 * noise[:, 0])[:, None],
        "sex": (3 * sex - 1.5 + 0.4 * (age / 50 - 1) + (1 + sex) * noise[:, 1])[:, None],
        "site": SHIFT[site.long()] + common,
    }


def test_design_codes_every_kind():
    design = attribute_design(torch.tensor([[75.0, 1, 2], [50.0, 0, 0]]), SCHEMA)
    assert design.tolist() == [[1, 0.5, 0.25, 1, 0, 1], [1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("do", ["age", "sex", "site"])
def test_transport_is_the_true_counterfactual_of_a_linear_gaussian_world(do):
    attributes, _, values = world()
    mechanism = ReadoutMechanism.fit(values, attributes, SCHEMA)
    factual, noise, values = world(500, seed=1)
    changed = factual.clone()
    column = SCHEMA.index(do)
    changed[:, column] = factual[torch.randperm(500, generator=torch.Generator().manual_seed(2)), column]
    expected = truth(changed, noise)
    found = matched_readouts(mechanism, values, factual, changed, {do, "sex"})
    torch.testing.assert_close(found[do], expected[do], atol=0.12, rtol=0.05)
    torch.testing.assert_close(found["sex"], expected["sex"], atol=0.25, rtol=0.05)  # answers to age as well
    for name in set(SCHEMA.names) - {do, "sex"}:
        assert torch.equal(found[name], values[name]), "untouched readouts are kept bit for bit"


def test_a_null_intervention_asks_for_no_change():
    attributes, _, values = world()
    mechanism = ReadoutMechanism.fit(values, attributes, SCHEMA)
    found = matched_readouts(mechanism, values, attributes, attributes.clone(), set(SCHEMA.names))
    for name, value in values.items():
        assert torch.equal(found[name], value)
    assert all(v == 0 for v in readout_loss(values, found, mechanism).values())


@pytest.mark.parametrize("random", [False, True])
def test_matched_counterfactuals_are_as_ambiguous_as_reality(random):
    attributes, _, values = world()
    mechanism = ReadoutMechanism.fit(values, attributes, SCHEMA)
    torch.manual_seed(0)
    changed = attributes.clone()
    changed[:, 1] = attributes[torch.randperm(len(attributes)), 1]
    real = roc_auc_score(attributes[:, 1], values["sex"][:, 0])
    found = matched_readouts(mechanism, values, attributes, changed, {"sex"}, random=random)["sex"][:, 0]
    assert real == pytest.approx(0.91, abs=0.02), "an ambiguous attribute, or the test says nothing"
    assert roc_auc_score(changed[:, 1], found) == pytest.approx(real, abs=0.015)
    if not random:  # the image's own noise is kept: same rank within the class
        flipped = (attributes[:, 1] == 0) & (changed[:, 1] == 1)
        assert np.corrcoef(values["sex"][flipped, 0], found[flipped])[0, 1] > 0.95


def test_gain_multiplies_the_change_of_the_readout():
    attributes, _, values = world()
    mechanism = ReadoutMechanism.fit(values, attributes, SCHEMA)
    changed = attributes.clone()
    changed[:, 0] = 55.0
    once, twice = (
        matched_readouts(mechanism, values, attributes, changed, {"age"}, gain=gain)["age"]
        for gain in (1.0, 2.0)
    )
    inside = ((twice > mechanism.low["age"]) & (twice < mechanism.high["age"]))[:, 0]
    assert inside.float().mean() > 0.9
    torch.testing.assert_close((twice - values["age"])[inside], 2 * (once - values["age"])[inside])
    null = matched_readouts(mechanism, values, attributes, attributes.clone(), {"age"}, gain=2.0)
    assert torch.equal(null["age"], values["age"])


def test_draws_have_the_intervened_value():
    attributes, _, values = world()
    values = {**values, "sex": attributes[:, 1:2] * 10, "age": attributes[:, :1] / 50 - 1}
    values["sex"] = values["sex"] + 0.01 * torch.randn(len(attributes), 1)
    mechanism = ReadoutMechanism.fit(values, attributes, SCHEMA)
    wanted = torch.tensor([[30.0, 1, 0], [70.0, 0, 0], [55.0, 1, 2]])
    assert mechanism.draw(wanted, "sex")[:, 0].round().tolist() == [10, 0, 10]
    drawn_age = (mechanism.draw(wanted, "age")[:, 0] + 1) * 50
    torch.testing.assert_close(drawn_age, wanted[:, 0], atol=1.0, rtol=0)


def test_targets_stay_within_what_was_seen():
    attributes, _, values = world()
    mechanism = ReadoutMechanism.fit(values, attributes, SCHEMA)
    factual = torch.tensor([[50.0, 0, 0]])
    extreme = {**{k: v[:1] for k, v in values.items()}, "sex": torch.tensor([[60.0]])}
    found = mechanism.transport(extreme, factual, torch.tensor([[50.0, 1, 0]]), "sex")
    assert found.item() == pytest.approx(values["sex"].max().item(), abs=1e-5)


def test_readouts_and_targets_round_trip():
    logits = {
        "age": torch.tensor([[0.2, -1.0]]),
        "sex": torch.tensor([0.5]),
        "site": torch.tensor([[1.0, 2.0, 6.0]]),
    }
    values = readouts(logits, SCHEMA)
    assert values["site"].sum().item() == pytest.approx(0, abs=1e-6)
    targets = targets_from_readouts(values, SCHEMA)
    assert targets["age"].tolist() == pytest.approx([0.2])
    assert targets["sex"].item() == pytest.approx(1 / (1 + math.exp(-0.5)))
    torch.testing.assert_close(targets["site"], logits["site"].softmax(1))


def test_readout_loss_is_huber_in_units_of_the_spread():
    attributes, _, values = world()
    mechanism = ReadoutMechanism.fit(values, attributes, SCHEMA)
    unit = mechanism.unit["sex"].item()
    moved = {**values, "sex": values["sex"] + 0.5 * unit}
    assert readout_loss(moved, values, mechanism)["sex"].item() == pytest.approx(0.125, rel=1e-4)
    moved["sex"] = values["sex"] + 3 * unit
    loss = readout_loss(moved, values, mechanism, ["sex"])
    assert list(loss) == ["sex"] and loss["sex"].item() == pytest.approx(2.5, rel=1e-4)


def test_what_cannot_be_fitted_is_refused():
    attributes, _, values = world(300)
    attributes[:, 1] = 0
    with pytest.raises(ValueError, match="Only 0 images have sex = 'Female'"):
        ReadoutMechanism.fit(values, attributes, SCHEMA)
    attributes, _, values = world(300)
    values["site"][3, 1] = math.nan
    with pytest.raises(ValueError, match="'site' is not finite"):
        ReadoutMechanism.fit(values, attributes, SCHEMA)
    with pytest.raises(ValueError, match="more than 6 labelled images"):
        ReadoutMechanism.fit({k: v[:5] for k, v in values.items()}, attributes[:5], SCHEMA)
