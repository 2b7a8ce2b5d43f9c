"""Evaluation of explanations: known answers of hand-made explainers."""

import numpy as np
import pytest
import torch

from cf_cxr.evaluation.explanations.collecting import ExplainerOutputError
from tests.evaluation.tiny_explanations import (
    DEVICE,
    LUNG,
    NARROW,
    THORAX,
    WIDE,
    ByTarget,
    eraser,
    ideal,
    records_of,
    results_of,
    set_patch,
)

GROUPS = ("all", "negative", "positive")


@pytest.fixture(scope="module")
def best():
    return results_of(ByTarget(ideal))


def test_an_ideal_explainer(best):
    assert best["images"] == {"all": 40, "negative": 20, "positive": 20}
    for group in GROUPS:
        curve = best["exaggeration"][group]
        assert curve["slope"] == pytest.approx([1, 1, 1], abs=1e-4)
        assert curve["mae"] == pytest.approx([0, 0, 0], abs=1e-4)
        assert best["validity"][group] == [1, 1, 1]
    assert best["exaggeration"]["source 0.9-1"]["images"] == 2
    assert best["patient_identity"]["reidentification"] == [1, 1, 1]
    assert best["patient_identity"]["distance"][0] == pytest.approx(0, abs=1e-6)
    assert best["patient_identity"]["n_distractors"] == 39
    assert best["patient_identity"]["feature_extractor"] == "pattern"
    found = best["foreign_objects"]
    for kind in ("true", "detected", "ruler"):
        assert found[kind]["preservation"] == [1, 1, 1] and found[kind]["overlap"] == [1, 1, 1]
        assert found[kind]["with_object"] == 20 and found[kind]["added"] == [0, 0, 0]
    assert found["change_inside"] == [0, 0, 0] and found["minimum_area_pixels"] == 2


def test_the_heart_follows_the_target(best):
    change = (WIDE - NARROW) / THORAX
    negative, positive = (best["anatomy"]["cardiothoracic_ratio"][g] for g in ("negative", "positive"))
    assert negative["change"] == pytest.approx([change] * 3, abs=1e-5) and negative["direction"] == "rises"
    assert positive["change"] == pytest.approx([-change] * 3, abs=1e-5) and positive["direction"] == "falls"
    assert negative["pairs"] == 20 and negative["wilcoxon_p"] < 1e-4 and positive["wilcoxon_p"] < 1e-4
    assert negative["series"] == pytest.approx([NARROW / THORAX] * 5 + [WIDE / THORAX] * 5, abs=1e-5)
    still = best["anatomy"]["costophrenic_score"]["negative"]
    assert still["change"][0] == 0 and still["direction"] == "none" and still["wilcoxon_p"] is None


def test_the_ruler_is_exact_where_the_segmenter_is(best):
    assert best["ruler"]["dice"] == {k: [1, 1, 1] for k in ("lungs", "heart", "devices")}
    for who in ("segmenter", "true_masks"):
        found = best["ruler"]["cardiothoracic_ratio"][who]
        assert found["images"] == 40 and found["correlation"] == pytest.approx(1)
        assert found["bias"] + found["mae"] == pytest.approx([0] * 6, abs=1e-6)
    # a drawn lung has a level border: 90 degrees, score 0.5
    assert best["ruler"]["costophrenic_score"]["true_masks"]["mae"][0] == pytest.approx(0, abs=1e-6)


def test_an_explainer_that_does_nothing():
    found = results_of(ByTarget(lambda images, target: images))
    for group in GROUPS:
        assert found["exaggeration"][group]["slope"] == pytest.approx([0, 0, 0], abs=1e-6)
        assert found["validity"][group] == [0, 0, 0] and found["change"][group] == [0, 0, 0]
    assert found["exaggeration"]["negative"]["mae"][0] == pytest.approx(
        np.abs(0.275 - (np.arange(10) + 0.5) / 10).mean(), abs=1e-4
    )
    assert found["foreign_objects"]["true"]["preservation"] == [1, 1, 1]
    assert found["anatomy"]["cardiothoracic_ratio"]["negative"]["direction"] == "none"
    # explanations are the real images, with the decisions they had
    for group in ("negative", "positive"):
        assert found["frechet"][group]["distance"] == pytest.approx(0, abs=1e-4)
        assert found["frechet"][group]["explanations"] == 20
    assert found["frechet"]["between_decisions"] > 0.1


def test_an_eraser_of_devices():
    found = results_of(ByTarget(eraser))
    assert found["validity"]["all"] == [1, 1, 1]  # the classifier does not mind
    objects = found["foreign_objects"]
    for kind in ("true", "detected"):
        assert objects[kind]["preservation"] == [0, 0, 0] and objects[kind]["overlap"] == [0, 0, 0]
    assert objects["ruler"]["preservation"] == [1, 1, 1]
    assert objects["change_inside"][0] == pytest.approx((DEVICE - LUNG) * 127.5, rel=1e-4)


def test_an_explainer_that_goes_half_the_way_and_shows_other_patients():
    found = results_of(ByTarget(lambda images, target: set_patch(images.roll(1, 0), 0.25 + 0.5 * target)))
    for group in GROUPS:
        assert found["exaggeration"][group]["slope"][0] == pytest.approx(0.5, abs=1e-4)
        assert found["exaggeration"][group]["mae"][0] == pytest.approx(0.125, abs=1e-4)
    assert found["validity"]["all"] == [1, 1, 1]
    assert found["patient_identity"]["reidentification"] == [0, 0, 0]


def test_the_final_explanation_is_that_across_the_boundary():
    records = records_of(ByTarget(ideal))
    negative = records["source_posterior"] < 0.5
    assert (records["final"][negative] == 9).all() and (records["final"][~negative] == 0).all()
    np.testing.assert_allclose(records["target"][0], (np.arange(10) + 0.5) / 10, atol=1e-6)
    assert (
        records["examples/series"].shape == (40, 10, 32, 32) and records["examples/query"].dtype == np.uint8
    )


def test_without_segmenter_and_embedding_the_rest_is_measured():
    found = results_of(ByTarget(ideal), segmenter=None, embedding=None)
    assert found["anatomy"] == {} and found["patient_identity"] is None and found["frechet"] is None
    assert found["foreign_objects"]["detected"] is None and found["foreign_objects"]["true"] is None
    assert found["validity"]["all"] == [1, 1, 1]


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda images, target: images[:, :, 1:], "must return images of shape"),
        (lambda images, target: images * torch.nan, "finite and in"),
        (lambda images, target: images + 1, "finite and in"),
    ],
)
def test_explainers_that_return_no_images(function, message):
    with pytest.raises(ExplainerOutputError, match=message):
        records_of(ByTarget(function))
