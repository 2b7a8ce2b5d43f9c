"""A film that fails takes no other film of its batch with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..black_box.fingerprints import probe_images
from ..images.image_processing_cxr import CXRImageProcessor, check_invert
from .inputs import PipelineItem

ON_ERROR = ("raise", "report")
#: transformers.pipeline hands its own loading options on to the pipeline class.
LOADING_OPTIONS = {"local_files_only"}
#: `(pixel_values, attributes, indices) -> [dict, ...]`, one dictionary per film.
Compute = Callable[[Tensor, Tensor, Sequence[int]], list[dict[str, Any]]]


def compute_per_item(inputs: dict[str, Any], compute: Compute, on_error: str = "raise") -> list[dict]:
    """What `compute` makes of the films of a batch that could be read.

    With `on_error="report"` the films of a batch that fails are computed one by one, and one that fails by itself
    keeps its error in its item. What fails for a test film too is no film's fault and is raised.

    Args:
        inputs: from `item_tensors`, collated.
        compute: gets the rows that could be read, and their positions in the call.
        on_error: `"raise"` or `"report"`.

    Returns:
        Per film `{"item": PipelineItem}` and what `compute` gave.
    """
    items = inputs["item"] if isinstance(inputs["item"], list) else [inputs["item"]]
    pixel_values, attributes = inputs["pixel_values"], inputs["attributes"]
    results: list[dict] = [{"item": item} for item in items]

    def run(rows: list[int]) -> None:
        try:
            answers = compute(pixel_values[rows], attributes[rows], [items[row].index for row in rows])
        except Exception as error:
            if on_error == "raise":
                raise
            if len(rows) > 1:
                for row in rows:
                    run([row])
                return
            side = pixel_values.shape[-1]
            probe = probe_images(max(side, 12))[:1, :, :side, :side].to(pixel_values)
            compute(probe, torch.full_like(attributes[:1], torch.nan), [0])
            results[rows[0]]["item"] = replace(items[rows[0]], error=error)
        else:
            for row, answer in zip(rows, answers, strict=True):
                results[row] |= answer

    if rows := [row for row, item in enumerate(items) if item.error is None]:
        run(rows)
    return results


def finish_item(outputs: Mapping[str, Any], make: Callable[[dict[str, Any]], Any], on_error: str) -> Any:
    """What `make` gives of a film's result from `compute_per_item`, or `{"error", "file"}` in the place of a film
    that failed at any stage, this one included."""
    result = outputs["results"]
    result = result[0] if isinstance(result, list) else result
    item: PipelineItem = result["item"]
    if (failure := item.error) is None:
        try:
            return make(result)
        except Exception as error:
            if on_error == "raise":
                raise
            failure = error
    return {"error": f"{failure}" or type(failure).__name__, "file": item.name}


def set_common_options(
    given: Mapping[str, Any], processor: CXRImageProcessor, preprocess: dict, forward: dict, postprocess: dict
) -> None:
    """Checks `on_error` and `invert` and hands them to the stages that take them.

    Raises:
        ValueError: `on_error` is neither "raise" nor "report", or as `check_invert`.
    """
    if "on_error" in given:
        if given["on_error"] not in ON_ERROR:
            raise ValueError(f"on_error={given['on_error']!r}; choose one of {', '.join(ON_ERROR)}.")
        for stage in (preprocess, forward, postprocess):
            stage["on_error"] = given["on_error"]
    if "invert" in given:
        check_invert(given["invert"], processor)
        preprocess["invert"] = given["invert"]
