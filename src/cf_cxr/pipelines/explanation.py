"""`pipeline("chest-xray-explanation")`: a radiograph and a classifier in, the reason for its decision out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from transformers import Pipeline

from ..attributes import AttributeSchema
from ..black_box.checks import check_repeated
from ..black_box.classifier import shift_posterior
from ..explaining.causal import CausalExplainer
from ..explaining.explained_classifier import check_explains, explained_classifier
from ..explaining.explanation import Explainer, Explanation, ExplanationSeries, build_explanation
from ..explaining.progressive import ProgressiveExplainer
from ..model_cards.card import PushesOwnCard
from .counterfactual import item_generator
from .inputs import check_attributes, item_tensors, pipeline_inputs, warn_if_unusual, whole_number
from .per_item import LOADING_OPTIONS, compute_per_item, finish_item, set_common_options

MAX_STEPS = 1000
_OPTIONS = (
    "classifier",
    "class_name",
    "steps",
    "target",
    "force",
    "variable",
    "attributes",
    "seed",
    "on_error",
    "invert",
)
_CAUSAL_OPTIONS = ("variable", "attributes")


class ExplanationPipeline(PushesOwnCard, Pipeline):
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

    _load_processor = False
    _load_image_processor = True
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model, *args, **kwargs):
        self.is_causal = all(hasattr(model, part) for part in ("attribute_scm", "image_mechanism", "schema"))
        if not self.is_causal and not all(hasattr(model, part) for part in ("encode", "decode", "bins")):
            raise TypeError(
                f"{type(model).__name__} cannot explain a classifier. Give a ProgressiveExplainerModel or a "
                "DeepSCMModel, or the name of one."
            )
        self.schema: AttributeSchema | None = model.schema if self.is_causal else None
        super().__init__(model, *args, **kwargs)
        if self.image_processor is None:
            raise TypeError(
                "An explanation pipeline needs the image processor of its model: pass "
                "image_processor=CXRImageProcessor.from_pretrained(...)."
            )
        side, size = getattr(model.config, "image_size", None), tuple(self.image_processor.size.values())
        if not self.is_causal and size != (side, side):
            raise ValueError(
                f"The explainer was trained on images of {side} x {side} pixels (image_size in config.json), but its "
                f"image processor makes {size[0]} x {size[1]} (size in preprocessor_config.json). Give "
                f"image_processor=CXRImageProcessor(size={side}), or copy the model folder again."
            )
        self.model.eval()

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
        if images is None:
            raise ValueError("Give an image, or several: pipe('chest.png', classifier=...).")
        if attributes is not None:
            self._refuse_causal_options({"attributes": attributes})
            attributes = check_attributes(self.schema, attributes)
        _, forward, _ = self._sanitize_parameters(**kwargs)  # all is checked before the first image is read
        forward = {**self._forward_params, **forward}
        classifier = self._classifier(forward.get("classifier"), forward.get("class_name"))
        notes = []
        if self.is_causal:
            self._explainer(forward.get("variable")).explained_value(classifier)
        elif note := check_explains(self.model.config, classifier, forward.get("force", False)):
            warnings.warn(note, UserWarning, stacklevel=2)
            notes.append(note)
        kwargs |= {
            "classifier": classifier,
            "notes": notes,
            "num_workers": num_workers,
            "batch_size": batch_size,
        }
        inputs, as_list = pipeline_inputs(images, self.schema.names if self.schema else (), attributes)
        outputs = super().__call__(inputs, **kwargs)
        return list(outputs) if as_list else outputs

    def _classifier(self, given: Any, class_name: str | None):
        """The classifier behind its interface; that of the last call where the same is given, so that none is loaded
        twice."""
        known = getattr(self, "_last_classifier", None)
        same = known and class_name == known[1]
        if same and (given is known[0] or (isinstance(given, (str, PathLike)) and given == known[0])):
            return known[2]
        classifier = explained_classifier(self.model, given, class_name)
        self._last_classifier = given, class_name, classifier
        return classifier

    def _explainer(self, variable: str | None) -> Explainer:
        return CausalExplainer(self.model, variable) if self.is_causal else ProgressiveExplainer(self.model)

    def _refuse_causal_options(self, options: Mapping) -> None:
        if not self.is_causal and (
            given := [name for name in _CAUSAL_OPTIONS if options.get(name) is not None]
        ):
            raise TypeError(
                f"{given[0]} is for a causal model; a {type(self.model).__name__} knows images and posteriors only."
            )

    def _sanitize_parameters(self, **kwargs):
        if unknown := set(kwargs) - {*_OPTIONS, "notes"} - LOADING_OPTIONS:
            raise TypeError(
                f"The explanation pipeline has no argument {', '.join(sorted(unknown))}; "
                f"it takes {', '.join(_OPTIONS)}."
            )
        given = {name: value for name, value in kwargs.items() if value is not None}
        preprocess, forward, postprocess = {}, {}, {}
        self._refuse_causal_options(given)
        if "attributes" in given:
            if not isinstance(given["attributes"], Mapping):
                raise TypeError(f"Default attributes are one dictionary, got {given['attributes']!r}.")
            preprocess["attributes"] = check_attributes(self.schema, given["attributes"])
        if "steps" in given:
            forward["steps"] = whole_number("steps", given["steps"], minimum=2, maximum=MAX_STEPS)
        if "seed" in given:
            forward["seed"] = whole_number("seed", given["seed"], minimum=0)
        if "target" in given:
            forward["target"] = _probability("target", given["target"])
        set_common_options(given, self.image_processor, preprocess, forward, postprocess)
        for name in ("classifier", "class_name", "force", "variable", "notes"):
            if name in given:
                forward[name] = given[name]
        return preprocess, forward, postprocess

    def preprocess(
        self,
        item: Any,
        attributes: Mapping | None = None,
        on_error: str = "raise",
        invert: bool | str = False,
    ) -> dict[str, Any]:
        """One input to tensors; see `item_tensors`."""
        return item_tensors(item, self.image_processor, self.schema, attributes, on_error, invert)

    def _forward(
        self,
        inputs: dict[str, Any],
        classifier,
        steps: int = 10,
        target: float | None = None,
        seed: int = 0,
        notes: Sequence[str] = (),
        on_error: str = "raise",
        variable: str | None = None,
        force: bool = False,
        class_name: str | None = None,
    ) -> dict[str, list[dict]]:
        """Asks the classifier about the images of a batch that could be read, explains, and asks about the series."""
        if target is not None and classifier.operating_point is not None:
            target = shift_posterior(target, classifier.operating_point)

        def compute(pixel_values: Tensor, attributes: Tensor, indices: Sequence[int]) -> list[dict]:
            before = classifier.posterior(pixel_values)
            series = self._explainer(variable).explain(
                pixel_values,
                classifier,
                before,
                steps=steps,
                target=target,
                attributes=attributes,
                generators=[item_generator(seed, index) for index in indices],
            )
            asked = [*(s.images for s in series), pixel_values.float()]
            *reached, again = classifier.posterior(torch.cat(asked)).split([len(images) for images in asked])
            check_repeated(before, again, f"The classifier of {classifier.class_name!r}")
            for row in range(len(indices)):
                classifier.refuse_constant(
                    torch.cat([reached[row], before[row, None]]), pixel_values.shape[-1]
                )
            return [
                {
                    "query": pixel_values[row],
                    "images": series[row].images,
                    "targets": series[row].targets,
                    "at_target": series[row].at_target,
                    "posteriors": reached[row],
                    "source_posterior": float(before[row]),
                    "classifier": {
                        "class_name": classifier.class_name,
                        "threshold": classifier.threshold,
                        "operating_point": classifier.operating_point,
                    },
                    "notes": list(notes),
                }
                for row in range(len(indices))
            ]

        return {"results": compute_per_item(inputs, compute, on_error)}

    def postprocess(self, outputs: dict[str, Any], on_error: str = "raise") -> Explanation | dict[str, str]:
        """Tensors of one image to its `Explanation`."""
        return finish_item(outputs, self._explanation, on_error)

    def _explanation(self, result: Mapping[str, Any]) -> Explanation:
        item, notes = result["item"], result["notes"]
        if doubt := warn_if_unusual(item):
            notes = [*notes, doubt[0].upper() + doubt[1:]]
        return build_explanation(
            ExplanationSeries(result["images"], result["targets"], result["at_target"]),
            result["posteriors"],
            result["query"],
            result["source_posterior"],
            method=self.method,
            name=item.name,
            warnings=notes,
            out_of_distribution=item.unusual,
            **result["classifier"],
        )


def _probability(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a posterior, a number from 0 to 1, got {value!r}.")
    return float(value)


__all__ = ["ExplanationPipeline"]
