"""From a classifier to explanations of it, with nothing made up but the radiographs.

For every kind: a classifier learns the phantom's finding; `train_explainer.py` trains its explainer and saves it; the
pipeline loads that and explains decisions about phantoms that neither of them has seen.
"""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification, pipeline
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from cf_cxr.black_box import (
    FidelityLimits,
    StudentClassifier,
    from_callable,
    from_module,
    load_image_classifier,
)
from cf_cxr.black_box.module_adapter import logits_of
from cf_cxr.data import load_cxr
from cf_cxr.data.phantom import ChestPhantom, PhantomConfig
from cf_cxr.models.progressive_explainer import ProgressiveExplainerModel
from cf_cxr.pipelines import EXPLANATION_TASK, ExplainerMismatchError
from cf_cxr.training.progressive_explainer import command as explainer_command
from tests.optional_libraries import import_optional

SIDE, FINDING = 32, "Cardiomegaly"
LABELS = {0: "No Finding", 1: FINDING}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CELLS, IMAGES, PER_DECISION = 8, 1000, 15

#: what `--classifier tests.training.progressive_explainer.test_end_to_end:named.NAME` finds
named = SimpleNamespace()


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
    """The splits that `train_explainer` sees, which finds them in the same cache."""
    return load_cxr("phantom", resolution=SIDE, finding=FINDING, num_images=IMAGES, cache_dir=str(cache))


def pixels(pictures):
    """PIL images as `(N, 1, H, W)` in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(p, np.float32) for p in pictures]))[:, None] / 127.5 - 1


def fit(network, preprocess, rows, epochs=6):
    """Trains a network of two outputs, with both labels drawn equally often; returns it in evaluation mode."""
    images, labels = pixels(rows["image"]), torch.tensor(rows["finding"])
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    weights = 1 / torch.bincount(labels)[labels]
    order = torch.multinomial(weights, epochs * len(labels), True, generator=generator).split(32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=len(order))
    network.train()
    for chosen in order:
        noisy = images[chosen] + 0.2 * torch.randn(images[chosen].shape, generator=generator)
        logits = logits_of(network(preprocess(noisy)))
        loss = F.cross_entropy(logits, labels[chosen], label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


# ------------------------------------------------------------ the classifiers: what is explained, and as command words


def of_modules(network, rows, *settings):
    """A network as `from_module` adapts it, trained."""
    classifier = from_module(network, *settings, class_name=FINDING)
    fit(network, classifier.preprocess, rows)
    named.classifier = classifier
    return classifier, ["--classifier", f"{__name__}:named.classifier"]


def own_network(rows, folder):
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 5, stride=4, padding=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 2)),
    )
    preprocess = {"size": 72, "crop": [64, 64], "mean": MEAN, "std": STD}
    classifier, _ = of_modules(network, rows, preprocess, 1, "softmax")
    named.network = network
    options = json.dumps({"preprocess": preprocess, "index": 1, "activation": "softmax"})
    words = ["--classifier", f"{__name__}:named.network", "--class_name", FINDING]
    return classifier, [*words, "--classifier_options", options]


def of_torchvision(rows, folder):
    models = import_optional("torchvision.models")
    network = models.DenseNet(growth_rate=8, block_config=(2, 2, 2), num_init_features=16, num_classes=2)
    preset = models.DenseNet121_Weights.DEFAULT.transforms(resize_size=72, crop_size=64)
    return of_modules(network, rows, preset, 1, "softmax")


def of_timm(rows, folder):
    network = import_optional("timm").create_model("test_resnet", pretrained=False, num_classes=2)
    return of_modules(network, rows, {**network.pretrained_cfg, "input_size": (3, 64, 64)}, 1, "softmax")


def of_transformers(rows, folder):
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [1, 1, 1]}
    network = ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic", id2label=LABELS))
    size = {"height": 64, "width": 64}
    ViTImageProcessorPil(size=size, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    network.save_pretrained(folder)  # once more below, trained
    preprocess = load_image_classifier(folder, FINDING).preprocess
    fit(network, preprocess, rows).save_pretrained(folder)
    return str(folder), ["--classifier", folder, "--class_name", FINDING.lower()]


def means(images):
    cells = images.reshape(len(images), CELLS, SIDE // CELLS, CELLS, SIDE // CELLS)
    return cells.mean((2, 4)).reshape(len(images), -1)


def of_scikit_learn(rows, folder):
    """A function from arrays `(N, 1, H, W)` to posteriors `(N,)` that torch never sees."""
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit(means(pixels(rows["image"]).numpy()), rows["finding"])
    weights, bias = model.coef_[0], model.intercept_[0]
    named.service = lambda images: 1 / (1 + np.exp(-(means(images) @ weights + bias)))
    options = {"identity": "logistic regression of large hearts, version 1"}
    words = ["--classifier", f"{__name__}:named.service", "--class_name", FINDING]
    classifier = from_callable(named.service, FINDING, **options)
    return classifier, [*words, "--classifier_options", json.dumps(options)]


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in (of_timm, of_scikit_learn, of_transformers)]


@pytest.mark.parametrize("kind", [own_network, of_torchvision, *SLOW])
def test_from_a_classifier_to_explanations_of_it(tmp_path, cache, phantoms, kind):
    torch.manual_seed(0)
    given, words = kind(phantoms["train"], tmp_path / "classifier")
    classifier = load_image_classifier(given, FINDING) if isinstance(given, str) else given
    folder = train_explainer(tmp_path / "explainer", cache, *words)
    explanations = check_explanations(folder, classifier, phantoms, given)
    config = json.loads((folder / "config.json").read_text())
    if classifier.differentiable:
        assert config["classifier_fingerprint"] == classifier.fingerprint()
        other = copy.deepcopy(classifier)
        with torch.no_grad():
            next(other.parameters()).view(-1)[0] += 1e-3
    else:
        student = StudentClassifier.from_pretrained(folder / "student")
        assert FidelityLimits().failures(student.fidelity) == []
        assert config["classifier_fingerprint"] == student.fingerprint()
        assert config["black_box_fingerprint"] == classifier.fingerprint()
        # what the pipeline says is what the function itself answers to the pictures
        last = named.service(pixels([e.images[-1] for e in explanations]).numpy())
        before = named.service(pixels([e.source_image for e in explanations]).numpy())
        assert ((last >= 0.5) != (before >= 0.5)).mean() >= 0.8
        other = from_callable(named.service, FINDING, identity="version 2")
    explain = pipeline(EXPLANATION_TASK, model=str(folder), device="cpu")
    with pytest.raises(ExplainerMismatchError, match=FINDING):
        explain(phantoms["test"][0]["image"], classifier=other)


def train_explainer(folder, cache, *words):
    """Runs `train_explainer.py`; returns the folder of the explainer."""
    words = [
        *words, "--dataset", "phantom", "--finding", FINDING, "--resolution", SIDE, "--num_images", IMAGES,
        "--cache_images", "true", "--cache_dir", cache, "--output_dir", folder, "--segmenter", "none",
        "--widths", 8, 16, 32, "--augmentation", "none", "--mahalanobis_weight", 0.5, "--reconstruction_weight", 0.25,
        "--preservation_warmup_steps", 70, "--classifier_weight", 1, "--learning_rate", 0.005, "--max_steps", 140,
        "--ema_decay", 0.98, "--eval_strategy", "no", "--sample_steps", 0, "--save_strategy", "no", "--use_cpu", "true",
        "--report_to", "none", "--disable_tqdm", "true",
    ]  # fmt: skip
    explainer_command.main([str(word) for word in words])
    return folder


def check_explanations(folder, classifier, phantoms, given):
    """Explains 15 held-out phantoms of either decision; returns the explanations.

    Args:
        classifier: that is explained.
        given: to the pipeline in its place: itself, or its folder.
    """
    test = phantoms["test"]
    yes = classifier.posterior(pixels(test["image"])) >= 0.5
    rows = test.select(torch.cat([torch.nonzero(yes == d)[:PER_DECISION, 0] for d in (False, True)]).tolist())
    explain = pipeline(EXPLANATION_TASK, model=str(folder), device="cpu")
    assert explain.model.config.class_name == FINDING
    explanations = explain(list(rows["image"]), classifier=given, batch_size=10)
    assert [e.decision for e in explanations] == ["absent"] * PER_DECISION + ["present"] * PER_DECISION
    check_decisions_flip(explanations)
    with pytest.raises(AssertionError):  # the same explainer before its training
        untrained = ProgressiveExplainerModel(explain.model.config)
        idle = pipeline(EXPLANATION_TASK, model=untrained, image_processor=explain.image_processor)
        check_decisions_flip(idle(list(rows["image"]), classifier=classifier, batch_size=10))
    # the change is larger where the finding shows, and has there the finding's sign
    change = np.stack([e.difference for e in explanations]) * 127.5
    change[PER_DECISION:] *= -1  # as if the finding was added to all
    where = touched(rows)
    assert np.abs(change)[where].mean() >= 1.5 * np.abs(change)[~where].mean()
    assert np.abs(change)[~where].mean() <= 10
    return explanations


def check_decisions_flip(explanations):
    valid = np.array([e.valid for e in explanations])
    for half in (valid[:PER_DECISION], valid[PER_DECISION:]):
        assert half.mean() >= 0.7
    assert valid.mean() >= 0.8
    # of each series, the slope of the posterior reached over the posterior aimed at
    assert np.mean([np.polyfit(e.targets, e.posteriors, 1)[0] for e in explanations]) >= 0.5


def touched(rows):
    """Where do(finding) truly changes each phantom, `(N, H, W)` bool: the evidence that there is."""
    phantom = ChestPhantom(PhantomConfig(resolution=SIDE, finding=FINDING))
    attributes = phantom.attributes_at(rows["seed"][0], rows["index"])
    noise = phantom.noise_at(rows["seed"][0], rows["index"])
    return phantom.render(attributes, noise).touch_mask[:, 0].numpy()
