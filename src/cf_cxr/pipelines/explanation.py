"""`pipeline("chest-xray-explanation")`: a radiograph and a classifier in, the reason for its decision out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from ..attributes import AttributeSchema
from ..black_box import ImageClassifier
from ..black_box.checks import check_repeated
from ..black_box.classifier import shift_posterior
from ..explaining.causal import CausalExplainer
from ..explaining.explained_classifier import check_explains, explained_classifier
from ..explaining.explanation import Explainer, Explanation, build_explanation
from ..explaining.progressive import ProgressiveExplainer
from .base import CXRPipeline, item_generator, whole_number
from .inputs import PipelineItem

MAX_STEPS = 1000
_OPTIONS = (
    "classifier", "class_name", "steps", "target", "force", "variable", "attributes", "seed", "on_error", "invert",
)  # fmt: skip


class ExplanationPipeline(CXRPipeline):
    """Why does this classifier decide as it does? The radiograph, changed smoothly until the decision flips.

    A `ProgressiveExplainerModel` (Singla et al., Medical Image Analysis 84, 2023) was trained for one classifier and
    decodes the image for one target posterior after the other. A `DeepSCMModel` moves the finding itself, do(finding),
    and can be asked about any classifier of a finding that it knows. Build it with `transformers.pipeline` after
    `import cf_cxr`:

        import cf_cxr
        from transformers import pipeline

        pipe = pipeline("chest-xray-explanation")
        why = pipe("chest.png")
        print(why.message)
        why.counterfactual.save("decided_otherwise.png")

    Args:
        model: a `ProgressiveExplainerModel` or a `DeepSCMModel`. It is put in evaluation mode.
        image_processor: the `CXRImageProcessor` that makes the model's pixel values.
        kwargs: as for every pipeline (`device`, `batch_size`, `num_workers`), and defaults of the arguments of
            `__call__`.

    Raises:
        TypeError: the model explains nothing, or there is no image processor.
        ValueError: the image processor makes images of another size than the explainer was trained on.
    """

    kind, example = "explanation", "classifier=..."

    def __init__(self, model, *args, **kwargs):
        self.is_causal = all(hasattr(model, part) for part in ("attribute_scm", "image_mechanism", "schema"))
        if not self.is_causal and not all(hasattr(model, part) for part in ("encode", "decode", "bins")):
            raise TypeError(
                f"{type(model).__name__} cannot explain a classifier. Give a ProgressiveExplainerModel or a "
                "DeepSCMModel, or the name of one."
            )
        self.schema: AttributeSchema | None = model.schema if self.is_causal else None
        super().__init__(model, *args, **kwargs)
        side, size = getattr(model.config, "image_size", None), tuple(self.image_processor.size.values())
        if not self.is_causal and size != (side, side):
            raise ValueError(
                f"The explainer was trained on images of {side} x {side} pixels (image_size in config.json), but its "
                f"image processor makes {size[0]} x {size[1]} (size in preprocessor_config.json). Give "
                f"image_processor=CXRImageProcessor(size={side}), or copy the model folder again."
            )

    @property
    def method(self) -> str:
        """`"progressive"` or `"causal"`, as in `Explanation.method`."""
        return "causal" if self.is_causal else "progressive"

    def __call__(self, images=None, *, attributes=None, num_workers=None, batch_size=None, **kwargs):
        """Explains a classifier's decisions.

        Args:
            images: one image (anything `CXRImageProcessor` reads: PNG, JPEG, DICOM, an address, a PIL image, an
                array), a list of images, an array `(B, ...)` of at least four dimensions, a generator, a torch
                `Dataset`, a `datasets` column or a whole `datasets.Dataset` with a column `image`.
            classifier: what is explained: anything `cf_cxr.black_box.as_image_classifier` takes. Where it needs
                more than a class (`preprocess`, `index`, ...), give it such an adapter. Default: the classifier that
                the bundled explainer was trained for; for a causal model, its own.
            class_name: the class whose decision is explained, where the classifier has several.
            steps: number of images of the series, 2 to 1000. A progressive explainer has no more of them than
                there are bins on the way.
            target: posterior in [0, 1], on the classifier's own scale, that the last image aims at. Default: the
                outermost bin across the decision boundary.
            force: show what an explainer that was trained for another classifier does; otherwise that is refused.
            variable: of a causal model only: its variable, or `"variable=value"`, that the classifier's class is;
                where the names do not agree.
            attributes: of a causal model only: what is known about the patient and the acquisition, as for the
                counterfactual pipeline. The explained variable is always taken from the classifier's decision.
            seed: of a causal model only: source of the noise of variables that depend on the finding; default 0.
            invert: True exchanges black and white of every image; `"auto"` does so where one looks inverted.
            on_error: `"raise"` stops at an image that cannot be used; `"report"` gives
                `{"error": message, "file": name}` in its place, at whatever stage it fails, and the rest goes on.
                A classifier or an explainer that fails on a test image too is never an image's fault: that stops.
            num_workers, batch_size: as for every pipeline. They do not change the answer.

        Returns:
            An `Explanation` for one image; a list of them for a list or an array; an iterator of them, computed on
            demand, for a generator, a `Dataset` or a column.

        Raises:
            ExplainerMismatchError: the explainer was trained for another classifier, and `force` is not given.
            BlackBoxError: no classifier, an unknown class, or answers that are no probabilities: logits, NaN, a
                wrong shape, a constant, or another answer each time.
            ValueError: an impossible `steps`, `target` or `seed`, or no classifier where one is needed.
            UnknownAttributeError, AttributeValueError: attributes that the causal model does not know.
            TypeError: an unknown argument, or one that this kind of model does not have.

        Warns:
            OutOfDistributionWarning: for an image unlike those of the training, where the image processor records
                those (`usual_films`). Also kept in `Explanation.warnings` and `Explanation.out_of_distribution`.
        """
        return self.run(images, attributes, kwargs, num_workers=num_workers, batch_size=batch_size)

    def option_names(self) -> Sequence[str]:
        """See `__call__`."""
        return _OPTIONS

    def check_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """With `steps` and `target` in their ranges."""
        if "variable" in given and not self.is_causal:
            raise TypeError(
                f"variable is for a causal model; a {type(self.model).__name__} knows images and posteriors only."
            )
        if "steps" in given:
            given["steps"] = whole_number("steps", given["steps"], minimum=2, maximum=MAX_STEPS)
        if "target" in given:
            target = given["target"]
            if isinstance(target, bool) or not isinstance(target, Real) or not 0 <= target <= 1:
                raise ValueError(f"target must be a posterior, a number from 0 to 1, got {target!r}.")
            given["target"] = float(target)
        return given

    def complete_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """With the classifier behind its interface, what explains it, and reasons for doubt."""
        classifier = self._classifier(options.pop("classifier", None), options.pop("class_name", None))
        variable, force = options.pop("variable", None), options.pop("force", False)
        explainer, note = ProgressiveExplainer(self.model), None
        if self.is_causal:
            explainer = CausalExplainer(self.model, variable)
            explainer.explained_value(classifier)
        elif note := check_explains(self.model.config, classifier, force):
            warnings.warn(note, UserWarning, stacklevel=4)
        if options.get("target") is not None and classifier.operating_point is not None:
            options["target"] = shift_posterior(options["target"], classifier.operating_point)
        return {**options, "classifier": classifier, "explainer": explainer, "notes": [note] if note else []}

    def _classifier(self, given: Any, class_name: str | None) -> ImageClassifier:
        """The classifier behind its interface; that of the last call where the same is given, so that none is loaded
        twice."""
        known = getattr(self, "_last_classifier", None)
        same = known and class_name == known[1]
        if same and (given is known[0] or (isinstance(given, (str, PathLike)) and given == known[0])):
            return known[2]
        classifier = explained_classifier(self.model, given, class_name)
        self._last_classifier = given, class_name, classifier
        return classifier

    def compute(
        self,
        pixel_values: Tensor,
        attributes: Tensor,
        indices: Sequence[int],
        *,
        classifier: ImageClassifier,
        explainer: Explainer,
        notes: Sequence[str],
        steps: int = 10,
        target: float | None = None,
        seed: int = 0,
    ) -> list[dict]:
        """Asks the classifier about the images, explains, and asks about the series."""
        before = classifier.posterior(pixel_values)
        generators = [item_generator(seed, index) for index in indices]
        series = explainer.explain(
            pixel_values, classifier, before,
            steps=steps, target=target, attributes=attributes, generators=generators,
        )  # fmt: skip
        asked = [*(s.images for s in series), pixel_values.float()]
        *reached, again = classifier.posterior(torch.cat(asked)).split([len(images) for images in asked])
        check_repeated(before, again, f"The classifier of {classifier.class_name!r}")
        for said, first in zip(reached, before.split(1)):
            classifier.refuse_constant(torch.cat([said, first]), pixel_values.shape[-1])
        described = {
            name: getattr(classifier, name) for name in ("class_name", "threshold", "operating_point")
        }
        return [
            {
                "query": pixel_values[row],
                "series": series[row],
                "posteriors": reached[row],
                "source_posterior": float(before[row]),
                "classifier": described,
                "notes": notes,
            }
            for row in range(len(indices))
        ]

    def finish(self, result: Mapping[str, Any], item: PipelineItem, doubt: str | None) -> Explanation:
        """The `Explanation` of one image."""
        return build_explanation(
            result["series"],
            result["posteriors"],
            result["query"],
            result["source_posterior"],
            method=self.method,
            name=item.name,
            warnings=[*result["notes"], *([doubt[0].upper() + doubt[1:]] if doubt else [])],
            out_of_distribution=item.unusual,
            **result["classifier"],
        )


__all__ = ["ExplanationPipeline"]
