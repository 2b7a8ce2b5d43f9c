"""Which classifier a pipeline explains, and whether its explainer was trained for it."""

from __future__ import annotations

import os
from typing import Any

from ..black_box import BlackBoxError, ImageClassifier, as_image_classifier, from_attribute_classifier
from ..black_box.attribute_adapter import attribute_of_class
from ..black_box.checks import same_name
from ..models.complete_loading import load_complete, load_config
from ..models.deep_scm import DeepSCMConfig, DeepSCMModel
from ..pretrained import default_model_path


class ExplainerMismatchError(ValueError):
    """The explainer was trained for another classifier than the one to explain."""


def explained_classifier(
    model: Any, classifier: Any = None, class_name: str | None = None
) -> ImageClassifier:
    """The classifier to explain, behind the black box's interface.

    A classifier that is loaded here is put on the explainer's device; one that is given stays where it is. Where the
    adapter is made here and it is the classifier of the explainer's training, it gets the threshold, and the spelling
    of the class's name, of that training.

    Args:
        model: the explainer: a `ProgressiveExplainerModel` or a `DeepSCMModel`.
        classifier: anything `as_image_classifier` takes; or a `DeepSCMModel`, or the folder of one, whose own
            classifier is meant. None is the causal model's own classifier, and for a progressive explainer that one of
            the bundled classifiers that it was trained for.
        class_name: the class. Without, that of the explainer, where the classifier has several.

    Raises:
        BlackBoxError: for something that is no classifier, or an unknown class.
        ValueError: no classifier is given, and none of the bundled ones is the explainer's.
    """
    is_causal = isinstance(model, DeepSCMModel)
    if classifier is None and is_causal:
        classifier = model
    elif classifier is None:
        return _bundled_classifier(model, class_name)
    if isinstance(classifier, ImageClassifier):
        return as_image_classifier(classifier, class_name)
    if class_name is None and not is_causal:
        class_name = model.config.class_name
    is_loaded_here = isinstance(classifier, (str, os.PathLike))
    if is_loaded_here:
        if isinstance(load_config(classifier, BlackBoxError), DeepSCMConfig):
            classifier = load_complete(DeepSCMModel, classifier, BlackBoxError)
    if isinstance(classifier, DeepSCMModel):
        classifier = classifier.classifier
    found = as_image_classifier(classifier, class_name)
    if not is_causal:
        found = _adapted(found, model.config)
    return found.to(model.device) if is_loaded_here else found


def check_explains(config: Any, classifier: ImageClassifier, force: bool = False) -> str | None:
    """Whether an explainer was trained for a classifier, or for a student of it.

    Args:
        config: of the explainer: `classifier_fingerprint`, and `black_box_fingerprint` where that classifier is the
            student of another.
        classifier: to explain.
        force: accept another classifier.

    Returns:
        None where it was, else a warning in words.

    Raises:
        ExplainerMismatchError: it was not, unless forced.
    """
    known = _known_fingerprints(config)
    if not known:
        return (
            "The explainer's configuration does not say which classifier it was trained for (classifier_fingerprint); "
            "whether it explains this one is not known."
        )
    given = classifier.fingerprint()
    if given in known:
        return None
    mismatch = (
        f"The explainer was trained for the classifier of {config.class_name!r} with the fingerprint "
        f"{_short(known[0])}, but the classifier of {classifier.class_name!r} ({type(classifier).__name__}) with the "
        f"fingerprint {_short(given)} is to be explained"
    )
    if force:
        return f"{mismatch}, because force=True was given."
    if (twin := _as_trained(classifier, config)) and twin.fingerprint() in known:
        raise ExplainerMismatchError(
            f"{mismatch}: it is the same classifier under another name, threshold or operating point. Make its adapter "
            f"with class_name={twin.class_name!r}, threshold={twin.threshold:g}, "
            f"operating_point={twin.operating_point}, or pass force=True (on the command line --force)."
        )
    raise ExplainerMismatchError(
        f"{mismatch}: its images would show what convinces the former. Give the former, train an explainer for the "
        "latter (training/train_explainer.py), or pass force=True (on the command line --force) to see them all "
        "the same."
    )


def _known_fingerprints(config: Any) -> list[str]:
    """Of the classifier that an explainer was trained for and, where that is a student, of its black box."""
    of_black_box = getattr(
        config, "black_box_fingerprint", None
    )  # written by the training only where there is one
    return [f for f in (config.classifier_fingerprint, of_black_box) if f]


def _as_trained(classifier: ImageClassifier, config: Any) -> ImageClassifier | None:
    """The same classifier under the class name, threshold and operating point that the explainer was trained with."""
    if not config.class_name:
        return None
    twin = classifier.at_operating_point(config.operating_point)
    twin.class_name, twin.threshold = config.class_name, float(config.threshold)
    return twin


def _adapted(classifier: ImageClassifier, config: Any) -> ImageClassifier:
    """The classifier, with the explainer's threshold and spelling if that makes it the one of the training."""
    twin = _as_trained(classifier, config)
    if twin is None or not same_name(twin.class_name, classifier.class_name):
        return classifier
    return twin if twin.fingerprint() in _known_fingerprints(config) else classifier


def _bundled_classifier(model: Any, class_name: str | None) -> ImageClassifier:
    """The bundled classifier with the explainer's fingerprint; of another class where one is named."""
    config = model.config
    if config.classifier_fingerprint and config.class_name and default_model_path().is_dir():
        own = DeepSCMModel.from_pretrained(default_model_path()).classifier.eval().to(model.device)
        try:
            attribute, value = attribute_of_class(own, config.class_name)
            found = from_attribute_classifier(own, attribute, value, config.class_name, config.threshold)
            found = found.at_operating_point(config.operating_point)
        except BlackBoxError:  # a class that the bundled classifier does not have
            found = None
        if found is not None and found.fingerprint() == config.classifier_fingerprint:
            return found if class_name is None else _adapted(as_image_classifier(own, class_name), config)
    which = (
        f"that of {config.class_name!r}" if config.class_name else "one that its configuration does not name"
    )
    raise ValueError(
        "Say which classifier is to be explained: classifier=..., on the command line --classifier. The explainer was "
        f"trained for {which}, {_short(config.classifier_fingerprint) or 'without a fingerprint'}, which is not the one "
        "in this package."
    )


def _short(fingerprint: str | None) -> str:
    """The first 12 digits."""
    return fingerprint[:19] + "..." if fingerprint and len(fingerprint) > 22 else (fingerprint or "")


__all__ = ["ExplainerMismatchError", "check_explains", "explained_classifier"]
