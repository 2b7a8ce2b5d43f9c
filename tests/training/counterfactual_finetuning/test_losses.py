import math

import pytest
import torch

from cf_cxr import Attribute, AttributeSchema, CausalGraph
from cf_cxr.training.counterfactual_finetuning.losses import (
    FreeEnergyConstraint,
    attribute_target_loss,
    counterfactual_targets,
)

SCHEMA = AttributeSchema(
    [
        Attribute("age", "continuous", minimum=0, maximum=100),
        Attribute("sex", "binary", categories=("Male", "Female")),
        Attribute("site", "categorical", categories=("A", "B", "C")),
        Attribute("finding", "binary", categories=("none", "effusion")),
    ]
)
GRAPH = CausalGraph({"age": [], "sex": [], "site": [], "finding": ["age"]})
FACTUAL = torch.tensor([[50.0, 0, 2, 0], [20, 1, 0, 1]])
POSTERIOR = {
    "sex": torch.tensor([0.3, 0.8]),
    "site": torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]),
    "finding": torch.tensor([0.25, 0.9]),
}


def targets(kind, do, counterfactual):
    return counterfactual_targets(kind, FACTUAL, counterfactual, [do], POSTERIOR, SCHEMA, GRAPH)


def test_soft_targets_keep_the_posterior_of_untouched_attributes():
    counterfactual = torch.tensor([[50.0, 1, 2, 0], [20, 0, 0, 1]])
    t = targets("soft", "sex", counterfactual)
    assert t["sex"].tolist() == [1, 0]
    assert torch.equal(t["site"], POSTERIOR["site"]) and torch.equal(t["finding"], POSTERIOR["finding"])
    torch.testing.assert_close(t["age"], torch.tensor([0.0, -0.6]))


def test_soft_targets_give_descendants_their_counterfactual_value():
    counterfactual = torch.tensor([[90.0, 0, 2, 1], [5, 1, 0, 0]])
    t = targets("soft", "age", counterfactual)
    torch.testing.assert_close(t["age"], torch.tensor([0.8, -0.9]))
    assert t["finding"].tolist() == [1, 0]
    assert torch.equal(t["sex"], POSTERIOR["sex"]) and torch.equal(t["site"], POSTERIOR["site"])


def test_hard_targets_are_labels_throughout():
    counterfactual = torch.tensor([[50.0, 1, 2, 0], [20, 0, 0, 1]])
    t = targets("hard", "sex", counterfactual)
    assert t["sex"].tolist() == [1, 0] and t["finding"].tolist() == [0, 1]
    assert t["site"].tolist() == [[0, 0, 1], [1, 0, 0]]


def test_targets_carry_no_gradient():
    posterior = {k: v.clone().requires_grad_() for k, v in POSTERIOR.items()}
    t = counterfactual_targets("soft", FACTUAL, FACTUAL, ["age"], posterior, SCHEMA, GRAPH)
    assert not any(v.requires_grad for v in t.values())
    with pytest.raises(ValueError, match="posterior"):
        counterfactual_targets("soft", FACTUAL, FACTUAL, ["age"], None, SCHEMA, GRAPH)
    with pytest.raises(ValueError, match="medium"):
        targets("medium", "age", FACTUAL)


def test_target_losses_by_hand():
    logits = {
        "age": torch.tensor([[0.5, 0.0], [-0.6, 0.0]]),
        "sex": torch.tensor([0.0, 2.0]),
        "site": torch.zeros(2, 3),
        "finding": torch.tensor([-1.0, 1.0]),
    }
    t = targets("soft", "sex", torch.tensor([[50.0, 1, 2, 0], [20, 0, 0, 1]]))
    losses = attribute_target_loss(logits, t, SCHEMA)
    assert losses["age"].item() == pytest.approx(0.25 / 2)
    assert losses["sex"].item() == pytest.approx((math.log(2) + math.log(1 + math.exp(2))) / 2)
    assert losses["site"].item() == pytest.approx(math.log(3), rel=1e-6)
    p = 1 / (1 + math.exp(1))
    first = -(0.25 * math.log(p) + 0.75 * math.log(1 - p))
    second = -(0.9 * math.log(1 - p) + 0.1 * math.log(p))
    assert losses["finding"].item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_soft_loss_has_its_minimum_at_the_posterior_and_a_hard_one_has_none():
    posterior = torch.tensor([0.7])
    at = torch.logit(posterior).requires_grad_()
    for target, sign in ((posterior, 0), (torch.ones(1), -1)):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(at, target)
        (gradient,) = torch.autograd.grad(loss, at)
        assert gradient.item() == pytest.approx(0, abs=1e-6) if sign == 0 else gradient.item() < -0.1


def test_feasible_model_feels_only_the_auxiliary_loss():
    constraint = FreeEnergyConstraint(bound=2.0, damping=10.0)
    energy = torch.tensor(1.5, requires_grad=True)
    auxiliary = torch.tensor(3.0, requires_grad=True)
    constraint.loss(auxiliary, energy).backward()
    assert auxiliary.grad.item() == 1 and energy.grad.item() == 0  # unclamped it would be -5: pushed up


def test_infeasible_model_is_pushed_back_and_the_multiplier_rises():
    constraint = FreeEnergyConstraint(bound=2.0, learning_rate=0.1, damping=10.0)
    energy = torch.tensor(2.3, requires_grad=True)
    constraint.loss(torch.tensor(0.0), energy).backward()
    assert energy.grad.item() == pytest.approx(3.0, rel=1e-5)
    constraint.update(2.3)
    assert constraint.multiplier == pytest.approx(0.03)
    constraint.update(1.0)
    assert constraint.multiplier == 0.0
    other = FreeEnergyConstraint(bound=0.0)
    constraint.multiplier = 0.7
    other.load_state_dict(constraint.state_dict())
    assert (other.multiplier, other.bound) == (0.7, 2.0)
