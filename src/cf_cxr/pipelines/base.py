"""What the pipelines share: options checked once before any image is read, and a film that fails alone."""

from __future__ import annotations

import io
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import Pipeline

from ..attributes import AttributeSchema
from ..black_box.fingerprints import probe_images
from ..images.errors import CXRImageError
from ..images.image_processing_cxr import check_invert
from ..model_cards.card import PushesOwnCard
from .inputs import (
    PipelineItem,
    add_header_attributes,
    as_item,
    check_attributes,
    pipeline_inputs,
    warn_if_unusual,
)

_ON_ERROR = ("raise", "report")
_LOADING_OPTIONS = {"local_files_only"}  # that transformers.pipeline hands on to the pipeline class


class CXRPipeline(PushesOwnCard, Pipeline):
    """Radiographs in, one result each out. A subclass says which options there are and what is made of a batch.

    Args:
        model: put in evaluation mode.
        image_processor: the `CXRImageProcessor` that makes the model's pixel values.
        kwargs: as for every pipeline (`device`, `batch_size`, `num_workers`), and defaults of the arguments of
            `__call__`.

    Raises:
        TypeError: there is no image processor.
    """

    _load_processor = False
    _load_image_processor = True
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    kind: ClassVar[str]  # "counterfactual" or "explanation", in messages
    example: ClassVar[str]  # of an argument besides the image
    schema: AttributeSchema | None  # of the attributes that can be given

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        if self.image_processor is None:
            raise TypeError(
                f"The {self.kind} pipeline needs the image processor of its model: pass "
                "image_processor=CXRImageProcessor.from_pretrained(...)."
            )
        self.model.eval()

    # ------------------------------------------------------------------------------------- what a subclass fills in

    @abstractmethod
    def option_names(self) -> Sequence[str]:
        """Names of the arguments of `__call__` besides the images."""

    @abstractmethod
    def check_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """What `compute` gets of the options that only the subclass knows."""

    @abstractmethod
    def complete_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """All options of a call, those of the constructor included, ready for `compute`."""

    @abstractmethod
    def compute(
        self, pixel_values: Tensor, attributes: Tensor, indices: Sequence[int], **options
    ) -> list[dict]:
        """A dictionary per film of `(B, 1, S, S)`; attributes are raw `(B, n)` with NaN for unknown, indices are
        positions in the call."""

    @abstractmethod
    def finish(self, result: Mapping[str, Any], item: PipelineItem, doubt: str | None) -> Any:
        """The answer about one film; `doubt` is what is unusual about it."""

    # ------------------------------------------------------------------------------------- what transformers calls

    def run(self, images: Any, attributes: Any, kwargs: dict, **loader: Any) -> Any:
        """`__call__` of all pipelines; `loader` are `num_workers` and `batch_size`."""
        if images is None:
            raise ValueError(f"Give an image, or several: pipe('chest.png', {self.example}).")
        if attributes is not None:
            attributes = self._check_attributes(attributes)
        preprocess, forward, _ = self._sanitize_parameters(**kwargs)
        options = self.complete_options(self._forward_params.get("options", {}) | forward["options"])
        inputs, as_list = pipeline_inputs(images, self.schema.names if self.schema else (), attributes)
        outputs = Pipeline.__call__(self, inputs, checked=(preprocess, {"options": options}, {}), **loader)
        return list(outputs) if as_list else outputs

    def _sanitize_parameters(self, checked: tuple[dict, dict, dict] | None = None, **kwargs: Any):
        """Options by stage; `checked` are those of a call, which have been here before."""
        if checked is not None:
            return checked
        names = self.option_names()
        if unknown := set(kwargs) - set(names) - _LOADING_OPTIONS:
            raise TypeError(
                f"The {self.kind} pipeline has no argument {', '.join(sorted(unknown))}; it takes {', '.join(names)}."
            )
        given = {name: value for name, value in kwargs.items() if name in names and value is not None}
        preprocess = {name: given.pop(name) for name in ("attributes", "on_error", "invert") if name in given}
        if "attributes" in preprocess:
            self._check_attributes(preprocess["attributes"])
            if not isinstance(preprocess["attributes"], Mapping):
                raise TypeError(f"Default attributes are one dictionary, got {preprocess['attributes']!r}.")
        if preprocess.get("on_error", "raise") not in _ON_ERROR:
            raise ValueError(f"on_error={preprocess['on_error']!r}; choose one of {', '.join(_ON_ERROR)}.")
        if "invert" in preprocess:
            check_invert(preprocess["invert"], self.image_processor)
        if "seed" in given:
            given["seed"] = whole_number("seed", given["seed"], minimum=0)
        return preprocess, {"options": self.check_options(given)}, {}

    def _check_attributes(self, attributes: Any) -> Any:
        if self.schema is None:
            raise TypeError(
                f"attributes is for a causal model; a {type(self.model).__name__} knows images and posteriors only."
            )
        return check_attributes(self.schema, attributes)

    def preprocess(
        self,
        item: Any,
        attributes: Mapping | None = None,
        on_error: str = "raise",
        invert: bool | str = False,
    ) -> dict[str, Any]:
        """One input to tensors: `pixel_values` (1, 1, S, S), `attributes` (1, n) raw with NaN for unknown (n is 0
        without a schema), and the `item` itself, which carries the error where one is reported."""
        schema = self.schema
        if not isinstance(item, PipelineItem):
            item = as_item(item, schema.names if schema else ())
        item, image = replace(item, image=None, report=on_error == "report"), item.image
        try:
            if item.error is not None:
                raise item.error
            known = {**(attributes or {}), **(item.attributes or {})}
            raw = schema.to_tensor([known], allow_missing=True) if schema else torch.zeros(1, 0)
            if hasattr(image, "read") and not isinstance(image, io.TextIOBase):
                image = image.read()  # once: pixels and header are read of it
            pixel_values, item.unusual = self.image_processor.examine(image, invert)
            if schema:
                item.from_file = add_header_attributes(raw, image, schema, item.name)
        except Exception as error:
            if isinstance(error, CXRImageError) and item.name not in str(error):
                error = type(error)(f"{item.name}: {error}")
            if not item.report:
                raise error
            item.error, item.unusual = error, None
            pixel_values = torch.zeros(1, 1, *self.image_processor.size.values())
            raw = torch.zeros(1, schema.n if schema else 0)
        return {"pixel_values": pixel_values, "attributes": raw, "item": item}

    def _forward(self, inputs: dict[str, Any], options: dict[str, Any]) -> dict[str, list[dict]]:
        """What `compute` makes of the films of a batch that could be read.

        Where errors are reported, the films of a batch that fails are computed one by one, and one that fails by itself
        keeps its error in its item. What fails for a test film too is no film's fault and is raised.
        """
        items = inputs["item"] if isinstance(inputs["item"], list) else [inputs["item"]]
        pixel_values, attributes = inputs["pixel_values"], inputs["attributes"]
        results: list[dict] = [{"item": item} for item in items]

        def run(rows: list[int]) -> None:
            indices = [items[row].index for row in rows]
            try:
                answers = self.compute(pixel_values[rows], attributes[rows], indices, **options)
            except Exception as error:
                if not items[rows[0]].report:
                    raise
                if len(rows) > 1:
                    for row in rows:
                        run([row])
                    return
                side = pixel_values.shape[-1]
                probe = probe_images(max(side, 12))[:1, :, :side, :side].to(pixel_values)
                self.compute(probe, torch.full_like(attributes[:1], torch.nan), [0], **options)
                items[rows[0]].error = error
            else:
                for row, answer in zip(rows, answers, strict=True):
                    results[row] |= answer

        if rows := [row for row, item in enumerate(items) if item.error is None]:
            run(rows)
        return {"results": results}

    def postprocess(self, outputs: Mapping[str, Any]) -> Any:
        """What `finish` gives, or `{"error", "file"}` of a film that failed at any stage, this one included."""
        result = outputs["results"]
        result = result[0] if isinstance(result, list) else result
        item: PipelineItem = result["item"]
        if (failure := item.error) is None:
            try:
                return self.finish(result, item, warn_if_unusual(item))
            except Exception as error:
                if not item.report:
                    raise
                failure = error
        return {"error": f"{failure}" or type(failure).__name__, "file": item.name}


def item_generator(seed: int, index: int) -> torch.Generator:
    """The source of all draws for image `index` of a call, on the CPU; depends on nothing else."""
    [state] = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))


def whole_number(name: str, value: Any, minimum: int, maximum: float = math.inf) -> int:
    """`value` as an int.

    Raises:
        ValueError: naming the argument, for anything but a whole number from `minimum` to `maximum`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}.")
    if value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {value!r}.")
    return int(value)


__all__ = ["CXRPipeline", "item_generator", "whole_number"]
