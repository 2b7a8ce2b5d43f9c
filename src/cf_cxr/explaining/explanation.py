"""The explanation of one decision about one radiograph: a series of images, and what the classifier says of each.

Paper B = Singla et al., "Explaining the black-box smoothly: a counterfactual approach", Medical Image Analysis 84, 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..black_box import ImageClassifier
from ..black_box.classifier import shift_posterior
from ..images.grey_levels import GREY_LEVELS
from ..images.image_processing_cxr import CXRImageProcessor

PRESENT, ABSENT = "present", "absent"


def decision_word(posterior: float, threshold: float) -> str:
    """`"present"` from the threshold on, else `"absent"`."""
    return PRESENT if posterior >= threshold else ABSENT


def probability_text(value: float, threshold: float = 0.5) -> str:
    """Two decimals, or as many as tell the value from the threshold: 0.4996 is not written as 0.50."""
    for digits in range(2, 7):
        text = f"{value:.{digits}f}"
        if value == threshold or float(text) != round(threshold, digits):
            return text
    return text


def first_flip(source_posterior: float, posteriors: Sequence[float], threshold: float) -> int | None:
    """Position of the first posterior on the other side of the boundary than the query's; None if there is none."""
    before = source_posterior >= threshold
    return next((i for i, p in enumerate(posteriors) if (p >= threshold) != before), None)


def explanation_message(
    class_name: str,
    source_posterior: float,
    targets: Sequence[float],
    posteriors: Sequence[float],
    threshold: float = 0.5,
    at_target: bool = False,
) -> str:
    """One or two sentences: which decision, how far the series got, and whether that is an explanation.

    Args:
        class_name: the class whose posterior it is.
        source_posterior: of the query.
        targets, posteriors: asked for and reached, one per image of the series.
        threshold: decision boundary.
        at_target: whether the query needed no change.
    """

    def text(value: float) -> str:
        return probability_text(value, threshold)

    word, last = decision_word(source_posterior, threshold), posteriors[-1]
    journey = f"the posterior of {class_name!r} goes from {text(source_posterior)} to {text(last)}"
    if at_target:
        return (
            f"Already at the target: the classifier says {text(source_posterior)} for {class_name!r} ({word}), and "
            f"{text(targets[-1])} was asked for, so there is nothing to change and no decision flips."
        )
    flip = first_flip(source_posterior, posteriors, threshold)
    close = (
        " Already the first image, the query's reconstruction, is across: the query is close to the boundary, or the "
        "explainer does not know such images."
        if flip == 0
        else ""
    )
    where = "" if flip is None else f"at image {flip + 1} of {len(posteriors)} ({text(posteriors[flip])})"
    if flip is not None and decision_word(last, threshold) != word:
        other = decision_word(last, threshold)
        return f"Valid: {journey}; the decision flips from {word} to {other} {where}.{close}"
    if flip is not None:
        return (
            f"Not valid: the decision flips {where} and comes back; {journey}, where {text(targets[-1])} was asked "
            f"for.{close}"
        )
    if decision_word(targets[-1], threshold) == word:
        return (
            f"Not valid: the target {text(targets[-1])} lies on the query's own side of the boundary {threshold:g} "
            f"({word}), so no flip was asked for; {journey}."
        )
    return (
        f"Not valid: the decision stays {word}; {journey}, where {text(targets[-1])} was asked for, and does not cross "
        f"{threshold:g}."
    )


METHODS = ("progressive", "causal", "latent_shift")

# Where paths end unless a target is given: the centres of paper B's outermost bins, so that all explanations share an
# axis.
LOWEST_TARGET, HIGHEST_TARGET = 0.05, 0.95


@dataclass
class ExplanationSeries:
    """What an explainer makes of one query, before the classifier is asked about it.

    Args:
        images: `(S, 1, H, W)`, float32, in [-1, 1]; the first is the query as the explainer reproduces it, the last
            aims at the target.
        targets: `(S,)`, float32, the posterior that each aims at.
        at_target: the query needs no change; there is one image then.
    """

    images: Tensor
    targets: Tensor
    at_target: bool = False


class Explainer(Protocol):
    """What makes explanations: the pipeline calls `explain`, the evaluation `series`.

    Attributes:
        method: one of `METHODS`.
    """

    method: str

    def series(
        self, pixel_values: Tensor, classifier: ImageClassifier, targets: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Explanations of images `(N, 1, H, W)` in [-1, 1] for target posteriors `(S,)`, the same for all.

        Returns:
            images `(N, S, 1, H, W)`, float32, in [-1, 1], and the posteriors reached `(N, S)`, where they are known.
        """

    def explain(
        self,
        pixel_values: Tensor,
        classifier: ImageClassifier,
        posteriors: Tensor,
        *,
        steps: int = 10,
        target: float | None = None,
        attributes: Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> list[ExplanationSeries]:
        """From each query, step by step, to where the classifier decides otherwise.

        Args:
            pixel_values: `(N, 1, H, W)` in [-1, 1].
            classifier: its decision is explained.
            posteriors: `(N,)` in [0, 1], its answers to the queries.
            steps: images per query, at least 2; fewer where the explainer has no more on the way.
            target: posterior in [0, 1] of the last image; None is far on the other side of the threshold.
            attributes: raw `(N, n)`, NaN for unknown; for an explainer that knows attributes.
            generators: one per query, for what is drawn.

        Returns:
            N series, each as it would be alone; a query that is at the target already has one image.
        """


def straight_path(
    posteriors: Tensor, threshold: float, steps: int, target: float | None = None
) -> tuple[Tensor, Tensor]:
    """Targets `(N, steps)` from each posterior `(N,)` evenly to its end, and whether that is on its own side `(N,)`.

    Args:
        target: the end of all; None is `LOWEST_TARGET` for what is at least the threshold, else `HIGHEST_TARGET`.
    """
    present = posteriors >= threshold
    if target is None:
        ends, stays = torch.where(present, LOWEST_TARGET, HIGHEST_TARGET), torch.zeros_like(present)
    else:
        ends, stays = torch.full_like(posteriors, target), present == (target >= threshold)
    times = torch.linspace(0, 1, steps, device=posteriors.device)
    return torch.lerp(posteriors[:, None], ends.to(posteriors)[:, None], times).clamp(0, 1), stays


def as_series(images: Tensor, targets: Tensor, at_target: Tensor) -> list[ExplanationSeries]:
    """Series of images `(N, S, 1, H, W)` for targets `(N, S)`; of a query at its target `(N,)` the first image only."""
    return [
        ExplanationSeries(x[:1], t[-1:], at_target=True) if there else ExplanationSeries(x, t)
        for x, t, there in zip(images, targets, at_target)
    ]


@dataclass(eq=False)
class Explanation:
    """Why a classifier decides as it does about one image: the image changed, step by step, until it decides otherwise.

    The fields can also be read as `explanation["images"]`.

    Attributes:
        images: S grey PIL images in the order of the change: the first keeps the query's own posterior (its bin in
            a progressive explanation, the image itself in a causal one), the last is at the target across the
            decision boundary.
        targets: `(S,)`, float32: the posterior that each image aims at.
        posteriors: `(S,)`, float32: the posterior that the classifier gives it. Like all posteriors here on the
            classifier's own scale, that of `predictions` of the counterfactual pipeline.
        source_posterior: the classifier's posterior of the query.
        source_image: the query as the classifier and the explainer see it, cropped and resized.
        counterfactual: the first of `images` across the decision boundary, or None.
        counterfactual_index: its place in `images`, or None.
        difference: counterfactual (else the last image) - query, float32 `(H, W)` in [-2, 2]; images span [-1, 1],
            so 2/255 is one grey level; positive means brighter than the query.
        valid: whether the decision about the **last** image is not that about the query, as in paper B's
            counterfactual validity. A series that crosses the boundary and comes back has a counterfactual and is
            not valid.
        message: the above in words; an explanation that fails says so.
        class_name: the class whose posterior is explained.
        method: `"progressive"` (paper B) or `"causal"` (do(finding) in a structural causal model).
        threshold: decision boundary: the class is present from here on.
        operating_point: the classifier's posterior that is 0.5 on the `shifted` scale, where the explainer was trained
            on one; else None.
        name: of the query: its file, its `image_id`, or its position.
        warnings: reasons for doubt: an image unlike those of the training, an explainer of another classifier.
        out_of_distribution: None, or what makes the query unlike the images of the training (see
            `CXRImageProcessor.examine`).
    """

    images: list[Image.Image]
    targets: np.ndarray
    posteriors: np.ndarray
    source_posterior: float
    source_image: Image.Image
    counterfactual: Image.Image | None
    counterfactual_index: int | None
    difference: np.ndarray
    valid: bool
    message: str
    class_name: str
    method: str
    threshold: float = 0.5
    operating_point: float | None = None
    name: str = "the image"
    warnings: tuple[str, ...] = ()
    out_of_distribution: Mapping[str, Any] | None = None

    @property
    def decision(self) -> str:
        """`"present"` or `"absent"`: what the classifier decides about the query."""
        return decision_word(self.source_posterior, self.threshold)

    @property
    def shifted(self) -> dict[str, Any] | None:
        """Posteriors, targets and threshold on the scale whose log odds are shifted so that the operating point is 0.5:
        `{"threshold", "source_posterior", "targets", "posteriors"}`; None without an operating point."""
        if self.operating_point is None:
            return None
        names = ("threshold", "source_posterior", "targets", "posteriors")
        return {name: shift_posterior(getattr(self, name), self.operating_point) for name in names}

    def __len__(self) -> int:
        """Number of images in the series."""
        return len(self.images)

    def keys(self) -> Iterator[str]:
        """Names of the fields."""
        return (field.name for field in fields(self))

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(f"An explanation has no {name!r}; it has {', '.join(self.keys())}.")
        return getattr(self, name)

    def __repr__(self) -> str:
        return f"Explanation({self.name!r}, {self.method}, {len(self)} images: {self.message})"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, in JSON's types.

        Instead of the difference map it has `mean_change` and `largest_change`, its mean and largest magnitude in
        grey levels of 255. `shifted` is that property.
        """
        change = np.abs(self.difference) * GREY_LEVELS
        return {
            "name": self.name,
            "method": self.method,
            "class_name": self.class_name,
            "threshold": self.threshold,
            "operating_point": self.operating_point,
            "source_posterior": _rounded(self.source_posterior),
            "decision": self.decision,
            "targets": _rounded(self.targets),
            "posteriors": _rounded(self.posteriors),
            "shifted": self.shifted and {name: _rounded(value) for name, value in self.shifted.items()},
            "counterfactual_index": self.counterfactual_index,
            "valid": self.valid,
            "message": self.message,
            "mean_change": round(float(change.mean()), 3),
            "largest_change": round(float(change.max()), 3),
            "warnings": list(self.warnings),
            "out_of_distribution": self.out_of_distribution,
        }


def build_explanation(
    series: ExplanationSeries,
    posteriors: Tensor | Sequence[float],
    query: Tensor,
    source_posterior: float,
    class_name: str,
    *,
    method: str,
    threshold: float = 0.5,
    operating_point: float | None = None,
    name: str = "the image",
    warnings: Sequence[str] = (),
    out_of_distribution: Mapping[str, Any] | None = None,
) -> Explanation:
    """An `Explanation` of a series and the classifier's answers to it.

    With an operating point, posteriors, targets and threshold are given on the shifted scale, as the classifier that was
    moved there answers; the explanation has them on the classifier's own.

    Args:
        series: from `Explainer.explain`.
        posteriors: `(S,)` in [0, 1], the classifier's answers to `series.images`.
        query: `(1, H, W)`, in [-1, 1], on the CPU or not.
        source_posterior: the classifier's answer to it.
        class_name, method, threshold, operating_point, name, warnings, out_of_distribution: see `Explanation`.
    """
    images, query = series.images.detach().float().cpu(), query.detach().float().cpu()
    targets, reached = (
        torch.as_tensor(values).detach().float().cpu().numpy() for values in (series.targets, posteriors)
    )
    source = float(np.float32(source_posterior))
    flip = None if series.at_target else first_flip(source, reached.tolist(), threshold)
    last_flips = first_flip(source, reached[-1:].tolist(), threshold) is not None
    note = ""
    if operating_point is not None:
        shifted = [source, source if series.at_target else float(reached[-1])]
        first, last = (probability_text(value) for value in shifted)
        note = (
            " (These are the classifier's own posteriors. On the scale shifted so that its operating point "
            f"{operating_point:g} is 0.5, {'it is ' + first if first == last else first + ' becomes ' + last}.)"
        )
        source, threshold, targets, reached = (
            shift_posterior(value, 1 - operating_point) for value in (source, threshold, targets, reached)
        )
    *pictures, source_image = CXRImageProcessor().postprocess(torch.cat([images, query[None]]))
    return Explanation(
        images=pictures,
        targets=targets,
        posteriors=reached,
        source_posterior=source,
        source_image=source_image,
        counterfactual=None if flip is None else pictures[flip],
        counterfactual_index=flip,
        difference=(images[-1 if flip is None else flip] - query)[0].numpy(),
        valid=last_flips and not series.at_target,
        message=explanation_message(
            class_name, source, targets.tolist(), reached.tolist(), threshold, series.at_target
        )
        + note,
        class_name=class_name,
        method=method,
        threshold=threshold,
        operating_point=operating_point,
        name=name,
        warnings=tuple(warnings),
        out_of_distribution=out_of_distribution,
    )


def _rounded(values: float | np.ndarray) -> float | list[float]:
    return np.round(np.asarray(values, dtype=float), 6).tolist()


__all__ = ["Explainer", "Explanation", "ExplanationSeries", "build_explanation"]
