"""Functions that no classifier should be, for `module:function`; as `(N, 1, H, W)` arrays to something."""

import numpy as np

_RANDOM = np.random.default_rng(0)


def _means(images):
    return images.mean((1, 2, 3))


def logits(images):
    return 40 * _means(images) - 8


def nan(images):
    return np.where(_means(images) > -2, np.nan, 0.5)


def one_too_many(images):
    return np.full(len(images) + 1, 0.5)


def two_columns(images):
    return np.full((len(images), 2), 0.5)


def outside(images):
    return np.where(_means(images) > -2, 1.2, 0.5)


def constant(images):
    return np.full(len(images), 0.3)


def chance(images):
    return _RANDOM.random(len(images))


#: Name of a function here, and what must be said about it.
MESSAGES = {
    "logits": "looks like logits: pass activation='sigmoid'",
    "nan": "answers nan to image 0",
    "one_too_many": r"asked about \d+ images and must answer",
    "two_columns": "answers for 2 classes: say which by index",
    "outside": "answers 1.2 to image 0 .* no probability",
    "constant": r"answers 0.3 to all of \d+ images: a constant",
    "chance": "asked again.*evaluation mode",
}
