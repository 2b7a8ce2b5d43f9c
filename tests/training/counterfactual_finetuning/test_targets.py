"""Targets and their losses against values by hand; matched ones against a world in which they are the truth."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cf_cxr import AttributeSchema, CausalGraph
from cf_cxr.training.counterfactual_finetuning.constraint import FreeEnergyConstraint
from cf_cxr.training.counterfactual_finetuning.targets import HardTargets, MatchedTargets, SoftTargets
from tests.training.loop.tiny import SCHEMA

SIGN = {"name": "sign", "kind": "binary", "categories": ["none", "effusion"]}
FOUR = AttributeSchema([*SCHEMA, SIGN])  # age, sex, site, sign
GRAPH = CausalGraph({"age": [], "sex": [], "site": [], "sign": ["age"]})
FACTUAL = torch.tensor([[50.0, 0, 2, 0], [20, 1, 0, 1]])
POSTERIOR = torch.tensor([[0.0, 0.3, 0.1, 0.2, 0.7, 0.25], [0.0, 0.8, 0.6, 0.3, 0.1, 0.9]])
BEFORE = torch.cat(
    [POSTERIOR[:, :1], POSTERIOR[:, 1:2].logit(), POSTERIOR[:, 2:5].log(), POSTERIOR[:, 5:].logit()], 1
)
SHIFT = torch.tensor([[0.0, 0.0, 0.0], [2.0, -1.0, -1.0], [-1.0, 2.0, -1.0]])


def affected(schema, names, rows=2):
    return torch.tensor([n in names for n in schema.names]).expand(rows, -1)


@pytest.mark.parametrize(
    ("kind", "do", "counterfactual", "expected"),
    [
        (SoftTargets, "sex", [[50.0, 1, 2, 0], [20, 0, 0, 1]],
         [[0.0, 1, 0.1, 0.2, 0.7, 0.25], [-0.6, 0, 0.6, 0.3, 0.1, 0.9]]),
        (SoftTargets, "age", [[90.0, 0, 2, 1], [5, 1, 0, 0]],  # whose descendant is the sign
         [[0.8, 0.3, 0.1, 0.2, 0.7, 1], [-0.9, 0.8, 0.6, 0.3, 0.1, 0]]),
        (HardTargets, "sex", [[50.0, 1, 2, 0], [20, 0, 0, 1]],
         [[0.0, 1, 0, 0, 1, 0], [-0.6, 0, 1, 0, 0, 1]]),
    ],
)  # fmt: skip
def test_label_targets_by_hand(kind, do, counterfactual, expected):
    names = {do} | GRAPH.descendants(do)
    wanted = kind(FOUR).wanted(BEFORE, FACTUAL, torch.tensor(counterfactual), affected(FOUR, names))
    torch.testing.assert_close(wanted, torch.tensor(expected))


def test_label_losses_by_hand():
    after = torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.0, 1.0], [-0.6, 2.0, 1.0, 1.0, 1.0, -1.0]])
    wanted = torch.tensor([[0.0, 1, 0.1, 0.2, 0.7, 0.25], [-0.6, 0, 0.6, 0.3, 0.1, 0.9]])
    p = 1 / (1 + math.exp(1))
    expected = [
        [2.5, math.log(2), math.log(3), -(0.25 * math.log(1 - p) + 0.75 * math.log(p))],  # age: ten times
        [0.0, math.log(1 + math.exp(2)), math.log(3), -(0.9 * math.log(p) + 0.1 * math.log(1 - p))],
    ]
    torch.testing.assert_close(SoftTargets(FOUR).loss(after, wanted), torch.tensor(expected))


def world(n=6000, seed=0):
    """Attributes, exogenous noise, and the answers they give; sex has spread 1 in men, 2 in women."""
    g = torch.Generator().manual_seed(seed)
    age = torch.rand(n, generator=g) * 60 + 20
    sex = (torch.rand(n, generator=g) < 0.4).float()
    site = torch.randint(3, (n,), generator=g).float()
    noise = torch.randn(n, 3, generator=g)
    attributes = torch.stack([age, sex, site], 1)
    return attributes, noise, truth(attributes, noise)


def truth(attributes, noise):
    (age, sex, site), (e, f, h) = attributes.unbind(1), noise.unbind(1)
    return torch.cat(
        [
            (0.7 * (age / 50 - 1) + 0.1 * e)[:, None],
            (3 * sex - 1.5 + 0.4 * (age / 50 - 1) + (1 + sex) * f)[:, None],
            SHIFT[site.long()] + h[:, None] * torch.tensor([0.5, -0.25, -0.25]),
        ],
        1,
    )


def matched(gain=1.0):
    attributes, _, before = world()
    return MatchedTargets(SCHEMA, before, attributes, gain), attributes, before


@pytest.mark.parametrize("do", ["age", "sex", "site"])
def test_matched_targets_are_the_true_counterfactual_of_a_linear_gaussian_world(do):
    factual, noise, before = world(500, seed=1)
    changed = factual.clone()
    changed[:, SCHEMA.index(do)] = factual[torch.randperm(500), SCHEMA.index(do)]
    found = matched()[0].wanted(before, factual, changed, affected(SCHEMA, {do, "sex"}, 500))
    expected, where = truth(changed, noise), SCHEMA.slices()
    torch.testing.assert_close(found[:, where[do]], expected[:, where[do]], atol=0.25, rtol=0.05)
    torch.testing.assert_close(found[:, where["sex"]], expected[:, where["sex"]], atol=0.25, rtol=0.05)
    for name in set(SCHEMA.names) - {do, "sex"}:
        assert torch.equal(found[:, where[name]], before[:, where[name]]), (
            "untouched readouts are kept bit for bit"
        )


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_a_null_intervention_asks_for_no_change(gain):
    targets, attributes, before = matched(gain)
    everything = affected(SCHEMA, SCHEMA.names, len(before))
    assert (targets(before, before, attributes, attributes.clone(), everything) == 0).all()


def test_matched_counterfactuals_are_as_ambiguous_as_reality():
    targets, attributes, before = matched()
    changed = attributes.clone()
    changed[:, 1] = attributes[torch.randperm(len(attributes)), 1]
    real = roc_auc_score(attributes[:, 1], before[:, 1])
    found = targets.wanted(before, attributes, changed, affected(SCHEMA, {"sex"}, len(before)))[:, 1]
    assert real == pytest.approx(0.91, abs=0.02), "an ambiguous attribute, or the test says nothing"
    assert roc_auc_score(changed[:, 1], found) == pytest.approx(real, abs=0.015)
    flipped = (attributes[:, 1] == 0) & (
        changed[:, 1] == 1
    )  # the image's own noise: same rank within the class
    assert np.corrcoef(before[flipped, 1], found[flipped])[0, 1] > 0.95


def test_gain_multiplies_the_change():
    once, attributes, before = matched()
    twice, changed = matched(2.0)[0], attributes.clone()
    changed[:, 0] = 55.0
    rows = affected(SCHEMA, {"age"}, len(before))
    a, b = (t.wanted(before, attributes, changed, rows)[:, 0] for t in (once, twice))
    inside = (b > twice.low[0]) & (b < twice.high[0])
    assert inside.float().mean() > 0.9
    torch.testing.assert_close((b - before[:, 0])[inside], 2 * (a - before[:, 0])[inside])


def test_targets_stay_within_what_was_seen():
    targets, _, before = matched()
    extreme = before[:1].clone()
    extreme[0, 1] = 60.0
    do = (torch.tensor([[50.0, 0, 0]]), torch.tensor([[50.0, 1, 0]]), affected(SCHEMA, {"sex"}, 1))
    assert targets.wanted(extreme, *do)[0, 1] == pytest.approx(before[:, 1].max().item(), abs=1e-5)


def test_matched_loss_is_huber_in_units_of_the_spread():
    targets, _, before = matched()
    moved = before.clone()
    moved[:, 1] += targets.unit[1] * torch.where(torch.arange(len(before)) % 2 == 0, 0.5, 3.0)
    nothing = affected(SCHEMA, (), len(before))
    loss = targets(before, moved, torch.zeros(len(before), 3), torch.zeros(len(before), 3), nothing)
    torch.testing.assert_close(loss[:2, 1], torch.tensor([0.125, 2.5]), rtol=1e-4, atol=0)
    assert (loss[:, [0, 2]] == 0).all()


def test_what_cannot_be_fitted_is_refused():
    attributes, _, before = world(300)
    with pytest.raises(ValueError, match="more than 6 labelled images"):
        MatchedTargets(SCHEMA, before[:5], attributes[:5])
    attributes[:, 1] = 0
    with pytest.raises(ValueError, match="Only 0 images have sex = 'Female'"):
        MatchedTargets(SCHEMA, before, attributes)
    before[3, 2] = math.nan
    with pytest.raises(ValueError, match="'site' is not finite"):
        MatchedTargets(SCHEMA, before, attributes)


def test_feasible_model_feels_only_the_auxiliary_loss():
    constraint = FreeEnergyConstraint(bound=2.0)
    energy = torch.tensor(1.5, requires_grad=True)
    auxiliary = torch.tensor(3.0, requires_grad=True)
    constraint.loss(auxiliary, energy).backward()
    assert auxiliary.grad.item() == 1 and energy.grad.item() == 0  # unclamped it would be -5: pushed up


def test_infeasible_model_is_pushed_back_and_the_multiplier_rises():
    constraint = FreeEnergyConstraint(bound=2.0)
    energy = torch.tensor(2.3, requires_grad=True)
    constraint.loss(torch.tensor(0.0), energy).backward()
    assert energy.grad.item() == pytest.approx(3.0, rel=1e-5)
    constraint.update(2.3)
    assert constraint.multiplier == pytest.approx(0.03)
    constraint.update(1.0)
    assert constraint.multiplier == 0.0
