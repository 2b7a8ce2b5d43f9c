"""Classifiers of several libraries, trained within seconds to find large hearts on small phantoms; their explainers."""

from types import SimpleNamespace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from cf_cxr.black_box.module_adapter import logits_of
from cf_cxr.data import load_cxr
from cf_cxr.data.phantom import ChestPhantom, PhantomConfig
from cf_cxr.training.progressive_explainer import command as explainer_command

SIDE, FINDING = 32, "Cardiomegaly"
LABELS = {0: "No Finding", 1: FINDING}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CELLS = 8
_IMAGES = 1000

#: what `--classifier tests.training.progressive_explainer.phantom_black_boxes:named.NAME` finds
named = SimpleNamespace()


def load_phantoms(cache_dir):
    """The splits that `train_explainer` sees, which finds them in the same cache."""
    return load_cxr("phantom", resolution=SIDE, finding=FINDING, num_images=_IMAGES, cache_dir=str(cache_dir))


def pixels(pictures):
    """PIL images as `(N, 1, H, W)` in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(p, np.float32) for p in pictures]))[:, None] / 127.5 - 1


def fit(network, preprocess, rows, epochs=6, seed=0):
    """Trains a network of two outputs, with both labels drawn equally often; returns it in evaluation mode."""
    images, labels = pixels(rows["image"]), torch.tensor(rows["finding"])
    weights = 1 / torch.bincount(labels)[labels]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
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


def fit_logistic_regression(rows):
    """A function from arrays `(N, 1, H, W)` to posteriors `(N,)` that torch never sees."""

    def means(images):
        return (
            images.reshape(len(images), CELLS, SIDE // CELLS, CELLS, SIDE // CELLS)
            .mean((2, 4))
            .reshape(len(images), -1)
        )

    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit(means(pixels(rows["image"]).numpy()), rows["finding"])
    weights, bias = model.coef_[0], model.intercept_[0]
    return lambda images: 1 / (1 + np.exp(-(means(images) @ weights + bias)))


def train_explainer(folder, cache_dir, classifier, *words):
    """Runs `train_explainer.py`; returns the folder of the explainer."""
    words = [
        "--classifier", classifier, "--dataset", "phantom", "--finding", FINDING, "--resolution", SIDE,
        "--num_images", _IMAGES, "--cache_images", "true", "--cache_dir", cache_dir, "--output_dir", folder,
        "--segmenter", "none", "--widths", 8, 16, 32, "--augmentation", "none", "--mahalanobis_weight", 0.5,
        "--reconstruction_weight", 0.25, "--preservation_warmup_steps", 70, "--classifier_weight", 1,
        "--learning_rate", 0.005, "--max_steps", 140,
        "--ema_decay", 0.98, "--eval_strategy", "no", "--sample_steps", 0, "--save_strategy", "no", "--use_cpu", "true",
        "--report_to", "none", "--disable_tqdm", "true", *words,
    ]  # fmt: skip
    explainer_command.main([str(word) for word in words])
    return folder


def touched(rows):
    """Where do(finding) truly changes each phantom, `(N, H, W)` bool: the evidence that there is."""
    phantom = ChestPhantom(PhantomConfig(resolution=SIDE, finding=FINDING))
    attributes = phantom.attributes_at(rows["seed"][0], rows["index"])
    noise = phantom.noise_at(rows["seed"][0], rows["index"])
    return phantom.render(attributes, noise).touch_mask[:, 0].numpy()


def slopes(explanations):
    """Of each series, the least-squares slope of the posterior reached over the posterior aimed at."""
    return np.array([np.polyfit(e.targets, e.posteriors, 1)[0] for e in explanations])
