"""The causal model as explainer: ends that are worlds, a path between them, and any classifier."""

import numpy as np
import pytest
import torch
from transformers import pipeline

import cf_cxr  # noqa: F401  (registers the task)
from cf_cxr.black_box import BlackBoxError, as_image_classifier, from_callable
from cf_cxr.explaining.causal import CausalExplainer, explained_value
from cf_cxr.pipelines import EXPLANATION_TASK
from tests.pipelines.tiny import GRAPH, SCHEMA, SIDE, grey_image, mean_classifier, tiny_model, tiny_processor

FINDING = ("finding", 1)
MEAN = mean_classifier()
FACTS = {"age": 63, "sex": "Male", "site": "B", "finding": "No Finding"}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def x():
    return tiny_processor()([grey_image(seed) for seed in range(3)])["pixel_values"]


@pytest.fixture(scope="module")
def pipe(model):
    return pipeline(EXPLANATION_TASK, model=model, image_processor=tiny_processor())


def facts(**values):
    return SCHEMA.to_tensor([{**FACTS, **values}] * 3)


def explain(model, x, attributes, posteriors, variable="finding", **options):
    return CausalExplainer(model, variable).explain(
        x, MEAN, torch.tensor(posteriors), attributes=attributes, **options
    )


def test_the_series_starts_at_the_query_and_ends_in_the_counterfactual(model, x):
    series = explain(model, x, facts(), [0.1, 0.2, 0.4], steps=5)
    expected = model.counterfactual(x, facts(), {"finding": "Effusion"}).pixel_values[:, 0]
    for query, end, one in zip(x, expected, series):
        assert one.images.shape == (5, 1, SIDE, SIDE) and not one.at_target
        torch.testing.assert_close(one.images[0], query, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.images[-1], end, atol=1e-5, rtol=0)
        assert (end - query).abs().max() > 0.05
    torch.testing.assert_close(series[0].targets, torch.linspace(0.1, 0.95, 5))


def test_between_the_worlds_parents_are_interpolated_not_images(model, x):
    [series] = explain(model, x[:1], facts()[:1], [0.1], steps=3)
    noise = model.abduct(x[:1], facts()[:1])
    parents = SCHEMA.encode(facts()[:1])
    parents[:, SCHEMA.slices()["finding"]] = 0.5
    with torch.no_grad():
        middle = model.image_mechanism.decode(noise.image, parents)
    torch.testing.assert_close(series.images[1:2], middle, atol=1e-5, rtol=0)
    fade = (series.images[0] + series.images[2]) / 2
    assert (series.images[1] - fade).abs().max() > 1e-4


def test_the_classifiers_decision_is_the_factual_value_whatever_is_given(model, x):
    series = explain(model, x, facts(finding="No Finding"), [0.9, 0.8, 0.6], steps=2)
    noise = model.abduct(x, facts(finding="Effusion"))
    expected = model.counterfactual(None, None, {"finding": "No Finding"}, noise=noise).pixel_values[:, 0]
    for end, one in zip(expected, series):
        torch.testing.assert_close(one.images[-1], end, atol=1e-5, rtol=0)
    assert float(series[0].targets[-1]) == pytest.approx(0.05)


def test_the_class_may_be_the_first_value_of_its_variable(model, x):
    """For the class sex=Male a positive decision means Male, index 0, and its negation Female."""
    assert explained_value(model, "sex=male") == ("sex", 0)
    series = explain(model, x, facts(), [0.9] * 3, "sex=Male", steps=2)
    expected = model.counterfactual(x, facts(sex="Male"), {"sex": "Female"}).pixel_values[:, 0]
    torch.testing.assert_close(torch.stack([s.images[-1] for s in series]), expected, atol=1e-5, rtol=0)


def test_target_chooses_the_world(model, x):
    series = explain(model, x, facts(), [0.1, 0.9, 0.6], steps=3, target=0.8)
    assert [s.at_target for s in series] == [False, True, True]
    assert [len(s.images) for s in series] == [3, 1, 1]
    torch.testing.assert_close(series[0].targets, torch.tensor([0.1, 0.45, 0.8]))
    torch.testing.assert_close(series[1].images[0], x[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("finding", FINDING),
        ("Effusion", FINDING),
        ("finding=effusion", FINDING),
        ("no finding", ("finding", 0)),
    ],
)
def test_names_of_the_explained_variable(model, name, expected):
    assert explained_value(model, name) == expected


@pytest.mark.parametrize("name", ["Cardiomegaly", "site=A", "age"])
def test_a_class_that_the_causal_model_does_not_know(model, name):
    with pytest.raises(ValueError, match="no binary variable.*sex=Male.*finding=Effusion.*variable="):
        explained_value(model, name)


def test_the_pipeline_explains_the_models_own_classifier(pipe, model, x):
    out = pipe(grey_image(0), attributes=FACTS, class_name="finding", steps=4)
    own = as_image_classifier(model.classifier, "finding")
    assert out.method == "causal" and out.class_name == "finding=Effusion" and len(out) == 4
    assert out.source_posterior == pytest.approx(float(own.posterior(x[:1])), abs=1e-6)
    assert out.posteriors[0] == pytest.approx(out.source_posterior, abs=1e-4)
    [series] = explain(model, x[:1], facts()[:1], own.posterior(x[:1]).tolist(), steps=4)
    np.testing.assert_allclose(out.posteriors, own.posterior(series.images), atol=1e-5)
    before = out.source_posterior >= 0.5
    assert out.valid == ((out.posteriors[-1] >= 0.5) != before)
    with pytest.raises(BlackBoxError, match="class_name"):
        pipe(grey_image(0))


def test_any_classifier_can_be_asked_with_the_same_result_type(pipe):
    def brightness(images):
        return 1 / (1 + np.exp(-20 * (images.mean((1, 2, 3)) - 0.02)))

    classifier = from_callable(brightness, "too bright", probe_size=SIDE)
    with pytest.raises(ValueError, match="no binary variable for the class 'too bright'"):
        pipe(grey_image(0), classifier=classifier)
    out = pipe(grey_image(0), classifier=classifier, variable="finding=Effusion", steps=3)
    assert out.class_name == "too bright" and out.method == "causal" and len(out.images) == 3
    pixels = np.stack([np.asarray(i) for i in out.images])[:, None] / 127.5 - 1
    np.testing.assert_allclose(out.posteriors, brightness(pixels), atol=0.05)


def test_dependent_variables_follow_and_batches_and_seeds_do_not_matter():
    """With site below the finding, the noise of site is drawn: by the image's own generator."""
    graph = {**GRAPH, "finding": [], "site": ["finding"]}
    pipe = pipeline(EXPLANATION_TASK, model=tiny_model(graph), image_processor=tiny_processor())
    images = [grey_image(seed) for seed in range(5)]
    settings = {"class_name": "finding", "steps": 3, "attributes": {**FACTS, "site": "B"}}
    alone = pipe(images, seed=1, **settings)
    for many in (
        pipe(images, batch_size=5, seed=1, **settings),
        pipe(images, batch_size=2, seed=1, **settings),
    ):
        for a, b in zip(alone, many):
            np.testing.assert_allclose(a.difference, b.difference, atol=1e-5)
            np.testing.assert_allclose(a.posteriors, b.posteriors, atol=1e-5)
    others = [pipe(images, seed=seed, **settings) for seed in range(2, 6)]
    assert any(
        np.abs(a.difference - b.difference).max() > 1e-3 for other in others for a, b in zip(alone, other)
    )


def test_rows_bring_their_attributes_and_impossible_ones_are_refused(pipe):
    first, second = pipe(
        [{"image": grey_image(0), "age": 20}, {"image": grey_image(0), "age": 90}],
        attributes={"sex": "Male", "site": "A"},
        class_name="finding",
        steps=2,
    )
    assert np.abs(first.difference - second.difference).max() > 1e-4
    with pytest.raises(cf_cxr.AttributeValueError, match="age=300"):
        pipe(grey_image(0), attributes={"age": 300}, class_name="finding")
