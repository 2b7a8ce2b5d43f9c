"""The explanation pipeline on explainers and classifiers with known answers."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, pipeline

import cf_cxr
from cf_cxr import Explanation
from cf_cxr.black_box import (
    BlackBoxError,
    RadiographPreprocessing,
    as_image_classifier,
    from_callable,
    from_module,
    from_transformers,
)
from cf_cxr.explaining.explained_classifier import check_explains, explained_classifier
from cf_cxr.pipelines import EXPLANATION_TASK, ExplainerMismatchError, ExplanationPipeline, ModelFileError
from cf_cxr.pretrained import default_explainer_path
from tests.black_box.helpers import attribute_model
from tests.optional_libraries import import_optional
from tests.pipelines.tiny import (
    CLASS,
    SIDE,
    SLOPE,
    MeanLogit,
    flat_with_texture,
    known_explainer,
    mean_classifier,
    random_explainer,
    tiny_model,
    tiny_processor,
)

UNKNOWN = "ignore:The explainer's configuration does not say:UserWarning"
ALL_BINS = (np.arange(10) + 0.5) / 10


def make(model=None, **options):
    return pipeline(
        EXPLANATION_TASK, model=model or known_explainer(), image_processor=tiny_processor(), **options
    )


@pytest.fixture(scope="module")
def pipe():
    return make(classifier=mean_classifier())


def sigmoid(logit):
    return 1 / (1 + np.exp(-logit))


def mean_of(image):
    return (np.asarray(image) / 127.5 - 1).mean()


def test_a_negative_query_in_closed_form(pipe):
    image = flat_with_texture(-0.2)
    e = pipe(image)
    assert isinstance(e, Explanation) and e.method == "progressive" and e.class_name == CLASS
    mean = mean_of(image)
    source = sigmoid(SLOPE * mean)
    own = int(source * 10)
    assert e.source_posterior == pytest.approx(source, abs=1e-5) and e.decision == "absent"
    np.testing.assert_allclose(e.targets, ALL_BINS[own:], atol=1e-6)
    # image k is x / 2 + level_k, so its logit is half the query's plus the centre's
    centre = np.log(e.targets / (1 - e.targets))
    expected = sigmoid(SLOPE * mean / 2 + centre)
    np.testing.assert_allclose(e.posteriors, expected, atol=1e-5)
    index = int(np.argmax(expected >= 0.5))
    assert expected[index - 1] < 0.5 <= expected[index]
    assert e.counterfactual_index == index and e.counterfactual is e.images[index] and e.valid
    x = np.asarray(image) / 127.5 - 1
    np.testing.assert_allclose(e.difference, centre[index] / SLOPE - x / 2, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(e.source_image), np.asarray(image))
    np.testing.assert_allclose(
        np.asarray(e.images[0]) / 127.5 - 1, x / 2 + centre[0] / SLOPE, atol=0.51 / 127.5
    )
    assert e.warnings == () and f"image {index + 1} of {len(e)}" in e.message


def test_a_positive_query_goes_the_other_way(pipe):
    e = pipe(flat_with_texture(0.25))
    own = int(e.source_posterior * 10)
    assert e.decision == "present"
    np.testing.assert_allclose(e.targets, ALL_BINS[: own + 1][::-1], atol=1e-6)
    assert (np.diff(e.posteriors) < 0).all() and e.valid and "present to absent" in e.message
    assert e.difference.mean() < 0


def test_an_explainer_that_fails_says_so():
    e = make(known_explainer(levels=np.linspace(-0.01, 0.01, 10)))(
        flat_with_texture(-0.2), classifier=mean_classifier()
    )
    assert not e.valid and e.counterfactual is None and e.counterfactual_index is None
    assert e.message.startswith("Not valid: the decision stays absent")
    assert f"{e.posteriors[-1]:.2f}" in e.message and "0.95 was asked for" in e.message
    x = np.asarray(flat_with_texture(-0.2)) / 127.5 - 1
    np.testing.assert_allclose(e.difference, 0.01 - x / 2, atol=1e-5)  # the last image


def test_steps_target_and_threshold(pipe):
    image = flat_with_texture(-0.2)
    short = pipe(image, steps=3)
    assert (
        len(short) == 3
        and short.targets[0] == pytest.approx(0.15)
        and short.targets[-1] == pytest.approx(0.95)
    )
    # an edge belongs to the bin above it, 1 to the last
    for target, centre in ((0.5, 0.55), (np.float32(0.3), 0.35), (1, 0.95), (0, 0.05)):
        assert pipe(image, target=target).targets[-1] == pytest.approx(centre)
    strict = mean_classifier(threshold=0.8)
    e = make(known_explainer(classifier=strict), classifier=strict)(flat_with_texture(0.1))
    assert e.decision == "absent" and e.source_posterior > 0.5 and e.threshold == 0.8
    assert e.posteriors[e.counterfactual_index] >= 0.8 > e.posteriors[e.counterfactual_index - 1]


def test_a_query_already_at_its_target(pipe):
    e = pipe(flat_with_texture(0.5), target=0.93)  # f(x) = 0.98, the same bin
    assert len(e) == 1 and not e.valid and e.counterfactual is None
    assert "Already at the target" in e.message and "0.98" in e.message and "no decision flips" in e.message
    # towards the other decision the same query has the whole way to go
    assert len(pipe(flat_with_texture(0.5))) == 10
    more = pipe(flat_with_texture(0.1), target=0.95)
    assert not more.valid and "own side of the boundary" in more.message


# ---------------------------------------------------------------- classifiers that cannot be explained


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: 40 * x.mean((1, 2, 3)), "logits: pass activation='sigmoid'"),
        (lambda x: np.full(len(x), np.nan), "answers nan to image 0"),
        (
            lambda x: x.mean((1, 2, 3))[:-1] if len(x) > 1 else np.zeros((0,)),
            r"asked about 1 images and must answer with .* the shape \(0,\)",
        ),
        (lambda x: np.full((len(x), 3), 0.3), "3.*index"),
        (lambda x: np.where(x.mean((1, 2, 3)) > -0.1, 7.0, 0.4), "which is no probability"),
        (lambda x: np.full(len(x), 0.3), "answers 0.3 to all of .* images: a constant has no explanation"),
        (lambda x: "present", "no array of numbers"),
    ],
    ids=["logits", "NaN", "shape", "columns", "outside", "constant", "text"],
)
@pytest.mark.filterwarnings(UNKNOWN)
def test_bad_answers_are_refused_in_words(fn, message):
    pipe = make(known_explainer(classifier_fingerprint=None))
    classifier = from_callable(fn, CLASS, identity="bad", probe_size=SIDE)
    with pytest.raises(BlackBoxError, match=message):
        pipe(flat_with_texture(-0.2), classifier=classifier)
    with pytest.raises(BlackBoxError):  # the classifier's fault is not the image's
        pipe([flat_with_texture(-0.2)], classifier=classifier, on_error="report")


@pytest.mark.filterwarnings(UNKNOWN)
def test_a_constant_is_found_where_nothing_needs_to_change():
    constant = from_callable(lambda x: np.full(len(x), 0.93), CLASS, identity="c", probe_size=SIDE)
    at_target = make(known_explainer(classifier_fingerprint=None))
    unchanged = make(random_explainer(residual_output=True))  # not trained: returns the query
    for pipe, options in ((at_target, {"target": 0.95}), (unchanged, {})):
        with pytest.raises(BlackBoxError, match="answers 0.93 to all of .* a constant"):
            pipe(flat_with_texture(-0.2), classifier=constant, **options)


@pytest.mark.filterwarnings(UNKNOWN)
def test_chance_is_refused():
    random = np.random.default_rng(0)
    chance = from_callable(lambda x: random.random(len(x)), CLASS, identity="r", probe_size=SIDE)
    with pytest.raises(BlackBoxError, match="asked again with other images beside it.*no explanation"):
        make(known_explainer(classifier_fingerprint=None))(flat_with_texture(-0.2), classifier=chance)


@pytest.mark.filterwarnings(UNKNOWN)
@pytest.mark.parametrize(
    "form",
    [
        lambda p: p[:, None],
        lambda p: p.astype(np.float16),
        lambda p: torch.from_numpy(p).bfloat16(),
        lambda p: np.where(p > 0.9, np.float32(1.0000001), p),
    ],
    ids=["a column", "float16", "bfloat16", "above 1 by rounding"],
)
def test_answers_of_every_form_are_read(form):
    classifier = from_callable(
        lambda x: form(sigmoid(SLOPE * x.mean((1, 2, 3)))), CLASS, identity="f", probe_size=SIDE
    )
    e = make(known_explainer(classifier_fingerprint=None))(flat_with_texture(-0.2), classifier=classifier)
    expected = sigmoid(SLOPE * mean_of(e.source_image))
    assert e.valid and e.source_posterior == pytest.approx(expected, abs=0.01)


def test_an_error_of_the_classifier_itself_is_not_hidden_or_reported_as_the_images():
    def offline(pixels):
        raise ConnectionError("service is down")

    pipe = make(random_explainer(classifier_fingerprint=None))
    with pytest.raises(ConnectionError, match="service is down"), pytest.warns(UserWarning):
        pipe(
            flat_with_texture(0.1), classifier=from_callable(offline, CLASS, identity="o"), on_error="report"
        )


@pytest.mark.filterwarnings(UNKNOWN, "ignore:The explainer was trained for:UserWarning")
def test_a_classifier_that_is_certain_is_not_a_constant():
    step = from_callable(
        lambda x: (x.mean((1, 2, 3)) > 0.35).astype(float), CLASS, identity="s", probe_size=SIDE
    )
    e = make(known_explainer(levels=np.linspace(-0.1, 0.1, 10)))(
        flat_with_texture(-0.2), classifier=step, force=True
    )
    assert not e.valid and set(e.posteriors) == {0.0}


def test_an_unknown_class_is_refused_with_those_that_there_are(pipe):
    with pytest.raises(BlackBoxError, match="'edema'.*finding=effusion"):
        pipe(flat_with_texture(0.1), classifier=attribute_model(), class_name="edema")
    with pytest.raises(BlackBoxError, match="'effusion', not of 'edema'"):
        pipe(flat_with_texture(0.1), classifier=mean_classifier(), class_name="edema")
    with pytest.raises(BlackBoxError, match="cannot be asked about images"):
        pipe(flat_with_texture(0.1), classifier=3)


def test_an_unknown_class_of_the_default_classifier_is_refused_too():
    """As `cf-cxr explain x.png --class-name Nope` asks."""
    bundled = as_image_classifier(
        cf_cxr.DeepSCMModel.from_pretrained(cf_cxr.pretrained.default_model_path()).classifier, "finding"
    )
    pipe, image = make(known_explainer(classifier=bundled)), flat_with_texture(0.1)
    with pytest.raises(BlackBoxError, match="Unknown class 'Nope'.*'finding=Effusion'.*'sex=Female'"):
        pipe(image, class_name="Nope")
    with pytest.raises(ExplainerMismatchError, match="of 'finding=No Finding'"):
        pipe(image, class_name="No Finding")
    for name in ("effusion", "finding", "finding=Effusion"):
        assert explained_classifier(pipe.model, None, name).fingerprint() == bundled.fingerprint()


# ---------------------------------------------------------------- explainer and classifier belong together


def test_an_explainer_of_another_classifier_is_refused_unless_forced(pipe):
    other = mean_classifier(class_name="cardiomegaly", offset=0.1)
    with pytest.raises(ExplainerMismatchError) as refusal:
        pipe(flat_with_texture(-0.2), classifier=other)
    for name in (CLASS, "cardiomegaly", "sha256:" + other.fingerprint()[7:19], "force=True"):
        assert name in str(refusal.value)
    assert mean_classifier().fingerprint()[:19] in str(refusal.value)
    with pytest.warns(UserWarning, match="force=True was given"):
        e = pipe(flat_with_texture(-0.2), classifier=other, force=True)
    assert e.class_name == "cardiomegaly" and "trained for the classifier of 'effusion'" in e.warnings[0]
    changed = mean_classifier()
    with torch.no_grad():
        changed.module.slope.add_(1e-3)
    with pytest.raises(ExplainerMismatchError):
        pipe(flat_with_texture(-0.2), classifier=changed)
    assert pipe(flat_with_texture(-0.2), classifier=mean_classifier()).warnings == ()


def test_name_and_threshold_of_the_training_are_taken_for_what_is_adapted_here():
    trained = from_module(MeanLogit(), class_name=CLASS, threshold=0.3)
    pipe = make(known_explainer(classifier=trained))
    for name in (None, "Effusion"):
        e = pipe(flat_with_texture(-0.2), classifier=MeanLogit(), class_name=name)
        assert e.threshold == 0.3 and e.class_name == CLASS and e.warnings == ()
    # an adapter of the user's own is left as it is, but told apart from another network
    for options in ({"threshold": 0.5}, {"threshold": 0.3, "class_name": "Effusion"}):
        own = from_module(MeanLogit(), **{"class_name": CLASS, **options})
        with pytest.raises(
            ExplainerMismatchError, match="same classifier.*class_name='effusion', threshold=0.3"
        ):
            pipe(flat_with_texture(-0.2), classifier=own)
    with pytest.raises(ExplainerMismatchError, match="what convinces the former"):
        pipe(flat_with_texture(-0.2), classifier=MeanLogit(offset=1.0))
    with pytest.raises(ExplainerMismatchError, match="of 'oedema'"):  # another name is another claim
        pipe(flat_with_texture(-0.2), classifier=MeanLogit(), class_name="oedema")


def test_the_operating_point_of_the_training_is_taken_too():
    plain = from_module(MeanLogit(), class_name=CLASS)
    moved = plain.at_operating_point(0.2)
    model = known_explainer(classifier=moved)
    model.config.operating_point = 0.2
    pipe = make(model)
    e = pipe(flat_with_texture(-0.2), classifier=MeanLogit())
    assert e.warnings == () and e.operating_point == 0.2 == e.to_dict()["operating_point"]
    # all is on the classifier's own scale; the shifted one, that of the bins, stands beside it and is named
    before, *reached = plain.posterior(tiny_processor()([e.source_image, *e.images])["pixel_values"]).tolist()
    assert e.source_posterior == pytest.approx(before, abs=1e-4) and e.threshold == pytest.approx(0.2)
    np.testing.assert_allclose(e.posteriors, reached, atol=0.02)
    shifted = 0.8 * before / (0.8 * before + 0.2 * (1 - before))
    assert e.shifted["source_posterior"] == pytest.approx(shifted, abs=1e-4)
    assert e.shifted["threshold"] == pytest.approx(0.5)
    np.testing.assert_allclose(e.shifted["targets"][-1], 0.95, atol=1e-6)
    assert e.targets[-1] == pytest.approx(0.95 * 0.2 / (0.95 * 0.2 + 0.05 * 0.8))
    assert f"from {before:.2f} to {e.posteriors[-1]:.2f}" in e.message
    assert (
        f"its operating point 0.2 is 0.5, {shifted:.2f} becomes {e.shifted['posteriors'][-1]:.2f}"
        in e.message
    )
    assert e.to_dict()["shifted"]["source_posterior"] == pytest.approx(shifted, abs=1e-4)
    assert pipe(flat_with_texture(-0.2), classifier=MeanLogit(), target=0.2).targets[-1] == pytest.approx(
        0.55 * 0.2 / (0.55 * 0.2 + 0.45 * 0.8)  # the bin above the boundary
    )
    assert pipe(flat_with_texture(-0.2), classifier=moved).source_posterior == e.source_posterior
    with pytest.raises(ExplainerMismatchError, match="same classifier.*operating_point=0.2"):
        pipe(flat_with_texture(-0.2), classifier=plain)


def test_a_class_may_be_written_in_another_case(pipe):
    assert pipe(flat_with_texture(0.1), class_name="EFFUSION").class_name == CLASS


def test_the_black_box_of_a_student_may_be_asked():
    black_box = from_callable(lambda x: sigmoid(SLOPE * x.mean((1, 2, 3))), CLASS, identity="service v1")
    config = known_explainer().config
    with pytest.raises(ExplainerMismatchError):
        check_explains(config, black_box)
    config.black_box_fingerprint = black_box.fingerprint()
    assert check_explains(config, black_box) is None and check_explains(config, mean_classifier()) is None


def test_without_a_classifier_only_a_bundled_one_is_found():
    with pytest.raises(
        ValueError, match="classifier=.*trained for that of 'effusion'.*not the one in this package"
    ):
        make()(flat_with_texture(0.1))
    folder = cf_cxr.pretrained.default_model_path()
    bundled = as_image_classifier(cf_cxr.DeepSCMModel.from_pretrained(folder).classifier, "finding")
    explainer = known_explainer(classifier=bundled)
    assert explained_classifier(explainer).fingerprint() == bundled.fingerprint()
    assert explained_classifier(explainer, str(folder)).fingerprint() == bundled.fingerprint()


def test_a_classifier_is_loaded_once_for_many_calls(tmp_path, monkeypatch):
    attribute_model().save_pretrained(tmp_path)
    loads = []

    def load(*arguments):
        loads.append(arguments[1:])
        return explained_classifier(*arguments)

    monkeypatch.setattr("cf_cxr.pipelines.explanation.explained_classifier", load)
    pipe, image = make(classifier=str(tmp_path), force=True), flat_with_texture(0.1)
    with pytest.warns(UserWarning, match="force=True"):
        first, again = (pipe(image, class_name="finding") for _ in range(2))
        other = pipe(image, class_name="site=A")
    assert loads == [(str(tmp_path), "finding"), (str(tmp_path), "site=A")]
    assert first.source_posterior == again.source_posterior != other.source_posterior


def test_a_causal_models_classifier_is_meant_by_the_model():
    classifier = explained_classifier(known_explainer(), tiny_model(), "finding")
    assert classifier.class_name == "finding=Effusion"


def test_the_missing_bundled_explainer_is_explained():
    if default_explainer_path().is_dir():
        e = pipeline(EXPLANATION_TASK)(cf_cxr.example_images()[0].path)
        assert isinstance(e, Explanation) and e.warnings == ()
    else:
        with pytest.raises(ModelFileError, match="bundled model is missing at .*explainer-nih-128.*model="):
            pipeline(EXPLANATION_TASK)


def test_an_old_record_in_the_configuration_is_ignored():
    pipe = make(known_explainer(training_distribution={"mean": [9.0], "std": [0.0], "limit": 1}))
    assert pipe(flat_with_texture(0.1), classifier=mean_classifier()).warnings == ()


# ---------------------------------------------------------------- arguments and parts


def test_wrong_parts_are_refused():
    with pytest.raises(ValueError, match="trained on images of 16 x 16.*makes 32 x 32.*size=16"):
        ExplanationPipeline(known_explainer(), image_processor=cf_cxr.CXRImageProcessor(size=32))
    diverged = make(known_explainer(levels=np.full(10, np.nan)), classifier=mean_classifier())
    with pytest.raises(ValueError, match="explainer makes images with NaN.*diverged"):
        diverged(flat_with_texture(0.1))


# ---------------------------------------------------------------- classifiers of other libraries, end to end


def check_mechanics(classifier):
    """A random explainer of a classifier: what comes out is consistent with asking that classifier directly."""
    pipe = make(
        random_explainer(classifier_fingerprint=classifier.fingerprint(), class_name=classifier.class_name)
    )
    e = pipe(flat_with_texture(0.1), classifier=classifier)
    x = tiny_processor()([e.source_image])["pixel_values"]
    assert e.source_posterior == pytest.approx(float(classifier.posterior(x)), abs=1e-5)
    assert e.warnings == () and e.class_name == classifier.class_name and 1 <= len(e) <= 10
    shown = torch.tensor(np.stack(e.images))[:, None] / 127.5 - 1  # rounded to grey levels
    np.testing.assert_allclose(e.posteriors, classifier.posterior(shown), atol=0.02)
    assert e.valid == ((e.posteriors[-1] >= 0.5) != (e.source_posterior >= 0.5))


def test_a_classifier_of_torchvision():
    models = import_optional("torchvision.models")
    torch.manual_seed(0)
    network = models.resnet18(weights=None, num_classes=3)
    check_mechanics(
        from_module(network, {"size": (32, 32)}, index=1, activation="softmax", class_name="effusion")
    )


def test_a_classifier_of_timm():
    timm = import_optional("timm")
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=2, in_chans=1)
    settings = {**network.pretrained_cfg, "input_size": (1, 32, 32)}
    check_mechanics(as_image_classifier(network, "effusion", preprocess=settings, index=0))


def test_a_classifier_of_transformers():
    torch.manual_seed(0)
    labels = {0: "No Finding", 1: "Pleural Effusion"}
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=labels
    )
    model = ResNetForImageClassification(config).eval()
    check_mechanics(from_transformers(model, "pleural effusion", RadiographPreprocessing((32, 32))))


def test_a_function_without_gradients():
    def service(images: np.ndarray) -> list[float]:
        return [float(sigmoid(6 * (image[:, :8].mean() - image[:, 8:].std()))) for image in images[:, 0]]

    check_mechanics(from_callable(service, "effusion", probe_size=SIDE))


def test_a_bare_module_and_a_bare_function_are_adapted():
    class Network(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3))[:, None]

    with pytest.warns(UserWarning, match="does not say which classifier"):
        e = make(random_explainer(class_name="effusion"))(flat_with_texture(0.1), classifier=Network())
    assert e.class_name == "effusion"
    with pytest.warns(UserWarning, match="does not say which classifier"):
        e = make(random_explainer())(
            flat_with_texture(0.1), classifier=lambda x: sigmoid(x.mean((1, 2, 3))), class_name="brightness"
        )
    assert e.class_name == "brightness"
