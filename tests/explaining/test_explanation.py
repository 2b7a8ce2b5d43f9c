"""The result type: what follows from a series and its posteriors, and which bins lead to a target."""

import json

import numpy as np
import pytest
import torch

from cf_cxr import PosteriorBins
from cf_cxr.explaining.explanation import ExplanationSeries, build_explanation, probability_text
from cf_cxr.explaining.progressive import ProgressiveExplainer, target_path
from tests.pipelines.tiny import SIDE, known_explainer, mean_classifier, random_explainer

QUERY = torch.zeros(1, 8, 8)


def made(posteriors, source=0.12, targets=None, threshold=0.5, at_target=False, **options):
    """An explanation whose image i is brighter than the query by 0.1 * (i + 1)."""
    count = len(posteriors)
    images = torch.stack([QUERY + 0.1 * (i + 1) for i in range(count)])
    targets = torch.linspace(0.15, 0.95, count) if targets is None else torch.tensor(targets)
    series = ExplanationSeries(images, targets, at_target)
    return build_explanation(
        series, posteriors, QUERY, source, "effusion", method="progressive", threshold=threshold, **options
    )


def test_a_series_that_crosses_the_boundary():
    e = made([0.1, 0.3, 0.6, 0.9], name="a.png", warnings=["odd"])
    assert e.valid and e.counterfactual_index == 2 and e.counterfactual is e.images[2]
    assert e.decision == "absent" and len(e) == 4
    np.testing.assert_allclose(e.difference, np.full((8, 8), 0.3), atol=1e-6)
    assert e.difference.dtype == np.float32
    assert np.asarray(e.counterfactual)[0, 0] == round((0.3 + 1) * 127.5)
    assert np.asarray(e.source_image)[0, 0] == 128 and e.source_image.size == (8, 8)
    for text in ("Valid", "'effusion'", "0.12 to 0.90", "absent to present", "image 3 of 4 (0.60)"):
        assert text in e.message
    assert e["posteriors"] is e.posteriors and "Valid" in repr(e)
    with pytest.raises(KeyError, match="no 'image'"):
        e["image"]


@pytest.mark.parametrize(
    ("posteriors", "source", "index", "valid", "words"),
    [
        ([0.1, 0.2, 0.3], 0.12, None, False, ["Not valid", "stays absent", "0.12 to 0.30", "0.95 was asked"]),
        ([0.9, 0.8, 0.7], 0.95, None, False, ["Not valid", "0.95 to 0.70"]),
        ([0.9, 0.4, 0.2], 0.95, 1, True, ["Valid", "present to absent", "image 2 of 3 (0.40)"]),
        ([0.1, 0.7, 0.3], 0.12, 1, False, ["Not valid", "image 2 of 3 (0.70) and comes back", "to 0.30"]),
        ([0.6, 0.7, 0.9], 0.48, 0, True, ["Valid", "image 1 of 3", "Already the first image"]),
        ([0.1, 0.2, 0.4996], 0.12, None, False, ["0.12 to 0.4996", "does not cross 0.5"]),
        ([0.1, 0.2, 0.5], 0.12, 2, True, ["Valid", "to 0.50"]),
    ],
)
def test_validity_index_and_message(posteriors, source, index, valid, words):
    e = made(posteriors, source)
    assert e.counterfactual_index == index and e.valid is valid
    assert (e.counterfactual is None) == (index is None)
    shown = len(posteriors) - 1 if index is None else index
    np.testing.assert_allclose(e.difference, 0.1 * (shown + 1), atol=1e-6)
    assert all(word in e.message for word in words), e.message


def test_the_classifiers_threshold_decides():
    assert not made([0.3, 0.6], threshold=0.7).valid
    low = made([0.3, 0.6], threshold=0.25)
    assert low.valid and low.counterfactual_index == 0
    assert made([0.3, 0.6], source=0.3, threshold=0.25).decision == "present"


def test_a_target_on_the_querys_side_and_a_query_at_the_target():
    more = made([0.6, 0.9], source=0.6, targets=[0.65, 0.95])
    assert not more.valid and "own side of the boundary 0.5 (present)" in more.message
    there = made([0.97], source=0.98, targets=[0.95], at_target=True)
    assert not there.valid and there.counterfactual is None
    assert "Already at the target" in there.message and "0.98" in there.message and "0.95" in there.message
    flipped = made(
        [0.2], source=0.98, targets=[0.95], at_target=True
    )  # a bad reconstruction is no explanation
    assert not flipped.valid and flipped.counterfactual_index is None


def test_to_dict_is_json_and_says_everything_but_pictures():
    record = json.loads(json.dumps(made([0.1, 0.6], warnings=["odd"]).to_dict()))
    assert record["posteriors"] == [0.1, 0.6] and record["targets"] == [0.15, 0.95]
    assert record["valid"] is True and record["counterfactual_index"] == 1 and record["warnings"] == ["odd"]
    assert record["mean_change"] == record["largest_change"] == pytest.approx(0.2 * 127.5, abs=0.01)
    assert record["class_name"] == "effusion" and record["method"] == "progressive"
    assert record["shifted"] is None and made([0.1, 0.6]).shifted is None


def test_an_operating_point_leaves_the_decisions_as_they_are():
    """0.5 of the shifted scale is 0.1 of the classifier's own, and 0.69 is 0.20."""
    e = made([0.6, 0.5, 0.4], source=0.69, operating_point=0.1, targets=[0.65, 0.35, 0.05])
    assert e.source_posterior == pytest.approx(0.198, abs=1e-3) and e.threshold == pytest.approx(0.1)
    assert e.decision == "present" and e.valid and e.counterfactual_index == 2
    assert "0.20 to 0.07" in e.message and "operating point 0.1 is 0.5, 0.69 becomes 0.40" in e.message
    record = json.loads(json.dumps(e.to_dict()))
    assert record["shifted"] == {
        "threshold": 0.5, "source_posterior": 0.69, "targets": [0.65, 0.35, 0.05], "posteriors": [0.6, 0.5, 0.4],
    }  # fmt: skip
    there = made([0.6], source=0.69, operating_point=0.1, targets=[0.65], at_target=True)
    assert "says 0.20" in there.message and "is 0.5, it is 0.69" in there.message


def test_numbers_are_told_from_the_threshold():
    assert probability_text(0.4996, 0.5) == "0.4996" and probability_text(0.5, 0.5) == "0.50"
    assert probability_text(0.5049, 0.5) == "0.505" and probability_text(0.123, 0.5) == "0.12"


@pytest.mark.parametrize(
    ("posterior", "options", "path"),
    [
        (0.12, {}, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (0.95, {}, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        (0.12, {"steps": 5}, [1, 3, 5, 7, 9]),
        (0.0, {"steps": 2}, [0, 9]),
        (0.5, {}, [5, 4, 3, 2, 1, 0]),
        (0.5, {"threshold": 0.6}, [5, 6, 7, 8, 9]),
        (0.12, {"target": 0.55}, [1, 2, 3, 4, 5]),
        (0.62, {"target": 0.95}, [6, 7, 8, 9]),
        (0.97, {"target": 0.91}, [9]),
        (0.92, {"threshold": 0.97}, [9]),
    ],
)
def test_the_path_goes_from_the_own_bin_across_the_boundary(posterior, options, path):
    assert target_path(PosteriorBins(), posterior, **options).tolist() == path


def test_every_series_is_the_models_own():
    explainer, p = ProgressiveExplainer(random_explainer()), torch.tensor([0.02, 0.97, 0.5, 0.45, 0.31])
    x = torch.rand(5, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for i, series in enumerate(explainer.explain(x, mean_classifier(), p, steps=4)):
        bins = target_path(PosteriorBins(), float(p[i]), steps=4)
        with torch.no_grad():
            expected = explainer.model.series(x[i : i + 1], bins)[0]
        torch.testing.assert_close(series.images, expected)
        torch.testing.assert_close(series.targets, (bins + 0.5) / 10)


def test_more_images_than_are_decoded_at_a_time():
    model = known_explainer()
    x = torch.rand(7, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) - 0.5
    series = ProgressiveExplainer(model).explain(x, mean_classifier(), torch.full((7,), 0.05))  # 70 images
    for query, one in zip(x, series):
        torch.testing.assert_close(one.images, query / 2 + model.levels.view(-1, 1, 1, 1))
