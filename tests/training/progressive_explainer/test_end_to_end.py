"""From a classifier to explanations of it, with nothing made up but the radiographs.

For every kind: a classifier learns the phantom's finding; `train_explainer.py` trains its explainer and saves it; the
pipeline loads that and explains decisions about phantoms that neither of them has seen.
"""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, pipeline
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from cf_cxr.black_box import (
    FidelityLimits,
    StudentClassifier,
    from_callable,
    from_module,
    load_image_classifier,
)
from cf_cxr.models.progressive_explainer import ProgressiveExplainerModel
from cf_cxr.pipelines import EXPLANATION_TASK, ExplainerMismatchError
from tests.optional_libraries import import_optional
from tests.training.progressive_explainer import phantom_black_boxes as black_boxes
from tests.training.progressive_explainer.phantom_black_boxes import (
    FINDING,
    LABELS,
    MEAN,
    STD,
    fit,
    pixels,
    slopes,
    touched,
    train_explainer,
)

NAMED = f"{black_boxes.__name__}:named"
PER_DECISION = 15


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def phantoms(cache):
    return black_boxes.load_phantoms(cache)


def check_explanations(folder, classifier, phantoms, given=None):
    """Explains 15 held-out phantoms of either decision; returns the explanations.

    Args:
        classifier: that is explained.
        given: to the pipeline in its place: its folder.
    """
    test = phantoms["test"]
    yes = classifier.posterior(pixels(test["image"])) >= 0.5
    rows = test.select(torch.cat([torch.nonzero(yes == d)[:PER_DECISION, 0] for d in (False, True)]).tolist())
    explain = pipeline(EXPLANATION_TASK, model=str(folder), device="cpu")
    assert explain.model.config.class_name == FINDING
    explanations = explain(list(rows["image"]), classifier=given or classifier, batch_size=10)
    assert [e.decision for e in explanations] == ["absent"] * PER_DECISION + ["present"] * PER_DECISION
    check_decisions_flip(explanations)
    with pytest.raises(AssertionError):  # the same explainer before its training
        untrained = ProgressiveExplainerModel(explain.model.config)
        idle = pipeline(EXPLANATION_TASK, model=untrained, image_processor=explain.image_processor)
        check_decisions_flip(idle(list(rows["image"]), classifier=classifier, batch_size=10))
    check_changes_lie_at_the_evidence(explanations, rows)
    return explanations


def check_decisions_flip(explanations):
    valid = np.array([e.valid for e in explanations])
    for half in (valid[:PER_DECISION], valid[PER_DECISION:]):
        assert half.mean() >= 0.7
    assert valid.mean() >= 0.8
    assert slopes(explanations).mean() >= 0.5


def check_changes_lie_at_the_evidence(explanations, rows):
    """The change is larger where the finding shows, and has there the finding's sign."""
    change = np.stack([e.difference for e in explanations]) * 127.5
    change[PER_DECISION:] *= -1  # as if the finding was added to all
    where = touched(rows)
    assert np.abs(change)[where].mean() >= 1.5 * np.abs(change)[~where].mean()
    assert np.abs(change)[~where].mean() <= 10


def check_another_is_refused(folder, other, phantoms):
    explain = pipeline(EXPLANATION_TASK, model=str(folder), device="cpu")
    with pytest.raises(ExplainerMismatchError, match=FINDING):
        explain(phantoms["test"][0]["image"], classifier=other)


def slightly_other(classifier):
    """The same network with one weight changed."""
    other = copy.deepcopy(classifier)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    return other


def check_network(folder, classifier, phantoms, given=None):
    check_explanations(folder, classifier, phantoms, given)
    config = json.loads((folder / "config.json").read_text())
    assert config["classifier_fingerprint"] == classifier.fingerprint()
    check_another_is_refused(folder, slightly_other(classifier), phantoms)


def test_a_network_with_a_preprocessing_of_its_own(tmp_path, cache, phantoms, monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 5, stride=4, padding=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 2)),
    )
    options = {
        "preprocess": {"size": 72, "crop": [64, 64], "mean": MEAN, "std": STD},
        "index": 1,
        "activation": "softmax",
    }
    classifier = from_module(network, class_name=FINDING, **options)
    fit(network, classifier.preprocess, phantoms["train"])
    monkeypatch.setattr(black_boxes.named, "network", network, raising=False)
    folder = train_explainer(
        tmp_path,
        cache,
        f"{NAMED}.network",
        *("--class_name", FINDING, "--classifier_options", json.dumps(options)),
    )
    check_network(folder, classifier, phantoms)


def test_a_classifier_of_torchvision(tmp_path, cache, phantoms, monkeypatch):
    models = import_optional("torchvision.models")
    torch.manual_seed(0)
    network = models.DenseNet(growth_rate=8, block_config=(2, 2, 2), num_init_features=16, num_classes=2)
    preset = models.DenseNet121_Weights.DEFAULT.transforms(resize_size=72, crop_size=64)
    classifier = from_module(network, preset, 1, "softmax", FINDING)
    fit(network, classifier.preprocess, phantoms["train"])
    monkeypatch.setattr(black_boxes.named, "torchvision", lambda: classifier, raising=False)
    folder = train_explainer(tmp_path, cache, f"{NAMED}.torchvision")
    check_network(folder, classifier, phantoms)


@pytest.mark.slow
def test_a_classifier_of_timm(tmp_path, cache, phantoms, monkeypatch):
    timm = import_optional("timm")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", pretrained=False, num_classes=2)
    settings = {**network.pretrained_cfg, "input_size": (3, 64, 64)}
    classifier = from_module(network, settings, 1, "softmax", FINDING)
    fit(network, classifier.preprocess, phantoms["train"])
    monkeypatch.setattr(black_boxes.named, "timm", classifier, raising=False)
    folder = train_explainer(tmp_path, cache, f"{NAMED}.timm")
    check_network(folder, classifier, phantoms)


def test_a_classifier_of_transformers(tmp_path, cache, phantoms):
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64],
        depths=[1, 1, 1],
        layer_type="basic",
        id2label=LABELS,
    )
    network = ResNetForImageClassification(config)
    processor = ViTImageProcessorPil(size={"height": 64, "width": 64}, image_mean=MEAN, image_std=STD)
    processor.save_pretrained(tmp_path / "classifier")
    network.save_pretrained(tmp_path / "classifier")  # once more below, trained
    preprocess = load_image_classifier(tmp_path / "classifier", FINDING).preprocess
    fit(network, preprocess, phantoms["train"]).save_pretrained(tmp_path / "classifier")
    name = str(tmp_path / "classifier")
    folder = train_explainer(tmp_path / "explainer", cache, name, "--class_name", FINDING.lower())
    check_network(folder, load_image_classifier(name, FINDING), phantoms, given=name)


@pytest.mark.slow  # test_command.py has a smaller one
def test_a_function_without_gradients(tmp_path, cache, phantoms, monkeypatch):
    service = black_boxes.fit_logistic_regression(phantoms["train"])
    monkeypatch.setattr(black_boxes.named, "service", service, raising=False)
    options = {"identity": "logistic regression of large hearts, version 1"}
    folder = train_explainer(
        tmp_path,
        cache,
        f"{NAMED}.service",
        *("--class_name", FINDING, "--classifier_options", json.dumps(options)),
    )
    student = StudentClassifier.from_pretrained(folder / "student")
    assert FidelityLimits().failures(student.fidelity) == []
    black_box = from_callable(service, FINDING, **options)
    config = json.loads((folder / "config.json").read_text())
    assert config["classifier_fingerprint"] == student.fingerprint()
    assert config["black_box_fingerprint"] == black_box.fingerprint()
    # what the pipeline says is what the function itself answers to the pictures
    explanations = check_explanations(folder, black_box, phantoms)
    last = service(pixels([e.images[-1] for e in explanations]).numpy())
    before = service(pixels([e.source_image for e in explanations]).numpy())
    assert ((last >= 0.5) != (before >= 0.5)).mean() >= 0.8
    check_another_is_refused(folder, from_callable(service, FINDING, identity="version 2"), phantoms)
