"""How good the explanations of a black box are: what is loaded, measured, summarised and drawn."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ...black_box.adapters import load_black_box
from ...explaining.explanation import METHODS
from ...model_cards.explanation_results import results_markdown
from ...models.progressive_explainer.posterior_bins import PosteriorBins
from ...training.loop.arguments import _choice, _option
from ...training.progressive_explainer.command import load_segmenter
from .. import run
from ..judges import object_fingerprint
from .collecting import ExplanationCollector
from .data import ExplanationImages, load_explanation_images
from .instruments import load_embedder, load_explainer
from .summary import NUM_BINS, Summary

_CHECKED_IMAGES = 16


@dataclass
class ExplanationEvaluationArguments(run.EvaluationArguments):
    """What is evaluated: which explainer, of which classifier, on which images, with which instruments."""

    _argument_group_name = "Evaluation of explanations"
    phantom_images: ClassVar[int] = 500

    explainer: str = _option(
        "outputs/explainer",
        "Progressive explainer or DeepSCM: folder or Hub name; or package.module:name of anything with "
        "series(pixel_values, classifier, targets).",
    )
    method: str = _choice(
        "auto",
        ("auto", *METHODS),
        "How the explainer is used: as it was trained (auto: progressive, or causal for a DeepSCM: do(finding) "
        "swept), or latent_shift: its encoder and decoder only, moved along the classifier's gradient.",
    )
    classifier: str = _option(
        "outputs/classifier",
        "The black box, as for train_explainer.py: folder or Hub name, or package.module:name.",
    )
    class_name: str | None = _option(None, "Class whose posterior is explained.")
    classifier_options: str | None = _option(None, "Further arguments of the classifier's adapter as JSON.")
    student: str | None = _option(
        None,
        "latent_shift of a black box without gradients: folder of its student, which gives the gradient.",
    )
    variable: str | None = _option(
        None,
        "causal: the variable or value of the causal model that the class is; default: the class's name.",
    )
    segmenter: str | None = _option(
        "outputs/segmenter",
        "Finds lungs, heart and devices: folder or Hub name, package.module:name, or none.",
    )
    judge: str | None = _option(
        None,
        "Attribute classifier whose embedding measures identity and Fréchet distances: folder or Hub name. "
        "Default: the explainer's own encoder, which is trained to agree with itself; that is said in the results.",
    )
    force: bool = _option(
        False,
        "Evaluate an explainer that was trained for another classifier, or on another division of the data.",
    )
    resolution: int | None = _option(
        None,
        "Side of the images in pixels, for an explainer of your own code that does not say its image_size.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_integers(1, "resolution")
        for name in ("segmenter", "judge", "student"):
            if (getattr(self, name) or "").lower() in ("", "none"):
                setattr(self, name, None)


class ExplanationEvaluation(run.Evaluation):
    """See `Evaluation`.

    Raises:
        ExplainerMismatchError: the explainer was trained for another classifier.
        BlackBoxError: the classifier's answers are no posteriors, all the same, or others each time.
    """

    arguments = ExplanationEvaluationArguments
    description = "Evaluate explanations of a black-box classifier."
    images: ExplanationImages

    def __init__(self, args: ExplanationEvaluationArguments, accelerator) -> None:
        super().__init__(args, accelerator)
        black_box = load_black_box(args.classifier, args.class_name, args.classifier_options)
        self.classifier = run.aligned(black_box.to(self.device))
        self.explainer, self.size, self.described = load_explainer(args, self.classifier, self.device)
        self.segmenter = load_segmenter(args.segmenter)
        if isinstance(self.segmenter, torch.nn.Module):
            run.aligned(self.segmenter.eval().to(self.device))
        self.embedder = load_embedder(args, self.explainer, self.classifier, self.size, self.device)

    def load_images(self) -> ExplanationImages:
        """See `Evaluation`; a classifier that cannot be explained is refused before hours are spent on it."""
        images = load_explanation_images(self.args, self.size)
        some = images.some_images(_CHECKED_IMAGES).to(self.device)
        posterior = self.classifier.posterior(some)
        self.classifier.check_repeatable(some, posterior)
        self.classifier.refuse_constant(posterior, some.shape[-1])
        return images

    def identity(self) -> dict[str, Any]:
        return {
            "kind": "explanations",
            "explainer": self.described["fingerprint"],
            "method": self.described["method"],
            "student": self.described.get("student"),
            "variable": self.args.variable,
            "classifier": self.classifier.fingerprint(),
            "segmenter": None if self.segmenter is None else object_fingerprint(self.segmenter),
            "embedding": None if self.embedder is None else self.embedder.fingerprint,
        }

    def collector(self) -> ExplanationCollector:
        return ExplanationCollector(
            self.explainer,
            self.classifier,
            PosteriorBins(NUM_BINS).centres,
            segmenter=self.segmenter,
            embedding=None if self.embedder is None else self.embedder.function,
            device=self.device,
        )

    def summarise(self, records: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], run.Samples]:
        """See `Evaluation`; no samples are kept."""
        summary = Summary(
            records,
            self.images.patients,
            threshold=self.classifier.threshold,
            size=(self.size, self.size),
            feature_extractor=None if self.embedder is None else self.embedder.words,
            seed=self.args.seed,
            n_resamples=self.args.n_resamples,
        )
        return summary.results(), {}

    def describe(self) -> dict[str, Any]:
        args, who = self.args, self.identity()
        warnings = [self.described["warning"], self.embedder and self.embedder.warning]
        return {
            "explainer": {k: v for k, v in self.described.items() if k != "warning"},
            "classifier": {
                "path": args.classifier,
                "class_name": self.classifier.class_name,
                "threshold": self.classifier.threshold,
                "fingerprint": who["classifier"],
            },
            "segmenter": {"path": args.segmenter, "fingerprint": who["segmenter"]},
            "judge": {"path": args.judge, "fingerprint": who["embedding"]},
            "num_bins": NUM_BINS,
            "warnings": [warning for warning in warnings if warning],
        }

    def markdown(self, results: Mapping[str, Any]) -> str:
        return results_markdown(results)

    def plot(self, folder: Path, records: Mapping[str, np.ndarray], results: Mapping[str, Any]) -> None:
        from ..plots import write_explanation_plots

        write_explanation_plots(folder, records, results)


main = functools.partial(run.run, ExplanationEvaluation)
