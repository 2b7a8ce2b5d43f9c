"""Foreign-object preservation: flags and masks by hand, and the phantom's devices."""

import numpy as np
import pytest
import torch

from cf_cxr.metrics.preservation import foreign_object_preservation, object_overlap
from tests.metrics.phantom_reference import rendered

FEW = {"n_resamples": 50}


def mask(*columns, width=10):
    """One row of pixels set in the given columns."""
    out = np.zeros((1, width), bool)
    out[0, list(columns)] = True
    return out


def test_flags_by_hand():
    out = foreign_object_preservation([1, 1, 1, 0, 0], [1, 0, 1, 0, 1], **FEW)
    assert out["preservation"][0] == pytest.approx(2 / 3) and out["added"][0] == pytest.approx(1 / 2)
    assert out["with_object"] == 3 and out["without_object"] == 2 and "overlap" not in out


def test_overlap_is_relative_to_the_object_of_the_image():
    before = np.stack([mask(0, 1, 2, 3), mask(0, 1, 2, 3), mask(0, 1), mask()])
    after = np.stack([mask(0, 1, 7, 8, 9), mask(0), mask(*range(10)), mask(4)])
    np.testing.assert_array_equal(object_overlap(before, after), [0.5, 0.25, 1, np.nan])
    out = foreign_object_preservation(before, after, **FEW)
    assert out["preservation"][0] == pytest.approx(2 / 3)  # half the area is enough, a quarter is not
    assert out["overlap"][0] == pytest.approx((0.5 + 0.25 + 1) / 3)
    assert out["added"][0] == 1 and out["with_object"] == 3
    strict = foreign_object_preservation(before, after, minimum_overlap=0.6, **FEW)
    assert strict["preservation"][0] == pytest.approx(1 / 3)
    fewer = foreign_object_preservation(before, after, minimum_area=3, **FEW)
    assert fewer["with_object"] == 2 and fewer["preservation"][0] == 0.5


def test_no_object_anywhere_is_missing():
    empty = np.zeros((3, 4, 4), bool)
    out = foreign_object_preservation(empty, empty, **FEW)
    assert np.isnan(out["preservation"]).all() and np.isnan(out["overlap"]).all() and out["added"][0] == 0
    out = foreign_object_preservation([0, 0], [0, 1], **FEW)
    assert np.isnan(out["preservation"]).all() and out["added"][0] == 0.5
    assert np.isnan(foreign_object_preservation([1, 1], [0, 1], **FEW)["added"]).all()


def test_the_phantom_keeps_its_devices_under_true_counterfactuals():
    factual, sick, _, _ = rendered("Effusion", 64)
    out = foreign_object_preservation(factual.device_mask, sick.device_mask, **FEW)
    assert out["preservation"] == (1, 1, 1) and out["overlap"][0] == 1 and out["added"][0] == 0
    assert out["with_object"] > 30 and out["without_object"] > 5


def test_devices_that_vanish_outside_the_lungs_are_seen():
    """What the released weighting does: objects are kept inside the lungs only."""
    factual = rendered("Effusion", 64)[0]
    inside = factual.device_mask & factual.lung_mask
    out = foreign_object_preservation(factual.device_mask, inside, minimum_overlap=0.8, **FEW)
    assert out["preservation"][0] < 0.5 and out["overlap"][0] < 0.8


def test_tensors_with_channel_and_patients():
    before = torch.ones(4, 1, 2, 2)
    after = before * torch.tensor([1.0, 1, 0, 0])[:, None, None, None]
    out = foreign_object_preservation(before, after, patients=list("aabb"), n_resamples=300)
    assert out["preservation"] == (0.5, 0.0, 1.0)
