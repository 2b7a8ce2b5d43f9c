import math

import pytest
import torch

from cf_cxr.black_box import BlackBoxError, as_image_classifier, from_module


class Half(torch.nn.Module):
    """The posterior that the mean of the image stands for."""

    def forward(self, x):
        return (x.mean((1, 2, 3))[:, None] + 1) / 2


def rare():
    return from_module(Half(), {"channels": 1, "value_range": (-1, 1)}, activation=None, class_name="rare")


def flat(*posteriors):
    return torch.stack([torch.full((1, 8, 8), 2 * p - 1) for p in posteriors])


def logit(p):
    return math.log(p / (1 - p))


def test_the_log_odds_are_shifted_so_that_the_operating_point_becomes_one_half():
    moved = rare().at_operating_point(0.1)
    got = moved.posterior(flat(0.0, 0.02, 0.1, 0.5, 1.0)).tolist()
    assert got[2] == pytest.approx(0.5, abs=1e-6) and got[0] == 0 and got[-1] == pytest.approx(1)
    for before, after in ((0.02, got[1]), (0.5, got[3])):
        assert logit(after) - logit(before) == pytest.approx(math.log(9), abs=1e-4)


def test_a_moved_classifier_is_another_one_and_the_original_stays():
    original = rare()
    moved = as_image_classifier(Half(), "rare", activation=None, operating_point=0.1)
    assert moved.operating_point == 0.1 and original.operating_point is None
    again = original.at_operating_point(0.1)
    assert again.fingerprint() != original.fingerprint()
    assert again.at_operating_point(None).fingerprint() == original.fingerprint()
    torch.testing.assert_close(original.posterior(flat(0.2)), torch.tensor([0.2]))


def test_the_gradient_passes_through_the_shift():
    x = flat(0.3).requires_grad_()
    rare().at_operating_point(0.1)(x).sum().backward()
    o, f = 0.1, 0.3
    slope = o * (1 - o) / (f * (1 - o) + (1 - f) * o) ** 2  # of f' with respect to f, by the quotient rule
    assert x.grad.sum().item() == pytest.approx(slope / 2, rel=1e-4)


@pytest.mark.parametrize("point", [0, 1, -0.2, float("nan"), "0.3"])
def test_an_impossible_operating_point_is_refused(point):
    with pytest.raises(BlackBoxError, match="operating_point=.*between 0 and 1"):
        rare().at_operating_point(point)
