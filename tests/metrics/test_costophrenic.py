"""Costophrenic score: drawn triangles of known angle, and the phantom's true angles."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from cf_cxr.metrics.costophrenic import costophrenic_angles, costophrenic_score
from cf_cxr.metrics.paired_tests import change_by_decision
from tests.metrics.phantom_reference import explained, rendered

SIZE = 200


def lungs(left_angle, right_angle):
    """Two lungs with straight walls whose lower borders meet the wall at the given angles."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    lateral = np.abs(columns - SIZE / 2)  # 10 at the mediastinum, 80 at the wall
    angle = np.radians(np.where(columns < SIZE / 2, left_angle, right_angle))
    bottom = 120 - (80 - lateral) / np.tan(angle)
    return ((lateral > 10) & (lateral < 80) & (rows > 20) & (rows < bottom))[None]


@pytest.mark.parametrize("angles", [(45, 45), (35, 90), (60, 120), (90, 100)])
def test_known_angles(angles):
    found = costophrenic_angles(lungs(*angles))
    np.testing.assert_allclose(found, [angles], atol=2.5)
    np.testing.assert_allclose(costophrenic_angles(lungs(*angles), zone=0.5), [angles], atol=1.0)
    assert costophrenic_score(lungs(*angles)) == pytest.approx(1 - found.max() / 180)
    np.testing.assert_allclose(costophrenic_score(lungs(*angles), per_side=True), 1 - found / 180)


def test_the_place_in_the_picture_does_not_matter():
    masks = rendered("Effusion", 64)[0].lung_mask.numpy()[:, 0]
    shifted = np.pad(masks, ((0, 0), (3, 9), (25, 0)))
    np.testing.assert_allclose(
        costophrenic_angles(shifted, zone=0.4), costophrenic_angles(masks, zone=0.4), atol=1e-9
    )


def test_specks_and_a_thin_wall_do_not_move_the_wall():
    mask = lungs(45, 60)
    expected = costophrenic_angles(mask)
    mask[0, 40:44, 185] = True  # a speck lateral to the right wall
    mask[0, 60:64, 180:183] = True  # a bulge of the wall
    np.testing.assert_allclose(costophrenic_angles(mask, midline=100), expected, atol=1.5)


def test_a_missing_lung_is_missing():
    mask = lungs(45, 60)
    mask[:, :, : SIZE // 2] = False
    assert np.isnan(costophrenic_angles(mask)).all()  # the centre of one lung is no midline
    right = costophrenic_angles(mask, midline=100)
    assert np.isnan(right[0, 0]) and right[0, 1] == pytest.approx(60, abs=2.5)
    assert np.isnan(costophrenic_score(mask, midline=[100])).all()
    assert np.isnan(costophrenic_angles(mask & False)).all()
    assert np.isnan(costophrenic_angles(mask & False, midline=100)).all()


@pytest.mark.parametrize(
    "resolution, degrees, pearson, rank, auc", [(64, 15, 0.75, 0.6, 0.88), (128, 10, 0.9, 0.8, 0.95)]
)
def test_against_the_phantoms_true_angles(resolution, degrees, pearson, rank, auc):
    factual = rendered("Effusion", resolution)[0]
    true = factual.costophrenic_angles.numpy().ravel()
    found = costophrenic_angles(factual.lung_mask).ravel()
    assert not np.isnan(found).any() and np.abs(found - true).mean() < degrees
    assert np.corrcoef(found, true)[0, 1] > pearson and spearmanr(found, true)[0] > rank
    score = costophrenic_score(factual.lung_mask, per_side=True).ravel()
    assert roc_auc_score(true < 70, score) > auc


@pytest.mark.parametrize("resolution, loss", [(64, 0.12), (128, 0.05)])
def test_the_score_separates_effusion_from_none(resolution, loss):
    """Nearly as well as the true angle does; the rest are effusions too small to be seen."""
    factual, *_, present = rendered("Effusion", resolution)
    best = roc_auc_score(present, factual.costophrenic_angles.numpy().max(1))
    found = roc_auc_score(~present, costophrenic_score(factual.lung_mask))
    assert best > 0.85 and found > best - loss


@pytest.mark.parametrize("resolution", [64, 128])
def test_true_counterfactuals_of_effusion_are_seen(resolution):
    out = change_by_decision(
        *explained("Effusion", resolution, lambda images: costophrenic_score(images.lung_mask)),
        rises_with_posterior=False,
    )
    assert out["negative"].direction == "falls" and out["positive"].direction == "rises"
    for group in out.values():
        assert group.undefined == 0 and max(group.t_p, group.wilcoxon_p) < 1e-3


def test_cardiomegaly_leaves_the_score_alone():
    factual, sick, *_ = rendered("Cardiomegaly", 128)
    change = costophrenic_score(sick.lung_mask) - costophrenic_score(factual.lung_mask)
    assert np.abs(change).max() < 0.02
