"""One batch of an evaluation: the series of every image, and what is measured on it.

B = Singla et al., "Explaining the black-box smoothly: a counterfactual approach", Medical Image Analysis 84, 2023.

Records by name, one row per image of the batch; S targets, ascending; the *final* explanation is that of the target
farthest across the decision boundary (the highest for a negative decision, the lowest for a positive one):

    source_posterior                  (B,) of the image, by the black box itself
    target, reached                   (B, S) posteriors asked for, and given by the black box
    final                             (B,) index of the final explanation, int64
    change                            (B, S) mean |x' - x|, grey levels of 255
    change_in_devices                 (B,) the same of the final explanation, inside the image's devices; NaN: none
    {measure}/source, {measure}/series    (B,), (B, S) of `MEASURES`, from the segmenter's masks
    masks/{label}/source, /final, /true   (B, ceil(H W / 8)) uint8, packed bits: segmenter on the image, on the final
                                      explanation, and the phantom's own masks
    {measure}/true, {measure}/true_masks  (B,) the phantom's exact value, and the metric on its true masks
    embedding/source, embedding/final     (B, D)
    appearance/source, /final         (B, s, s) means over equal squares, s of at most `APPEARANCE_SIDE`
    examples/query, examples/series   (b, H, W), (b, S, H, W) uint8 of the first images of the data set
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...black_box import ImageClassifier
from ...explaining.explanation import Explainer
from ...images.grey_levels import GREY_LEVELS
from ...metrics.cardiothoracic import cardiothoracic_ratio
from ...metrics.costophrenic import costophrenic_score
from ...metrics.masks import largest_components
from ...metrics.soundness import image_distance
from ..records import as_record, to_grey

APPEARANCE_SIDE = 32
CHUNK = 64  # images that segmenter, classifier and embedding see at a time
EXAMPLE_POOL = 48  # first images of the data set, from which the example sheet is chosen
LABELS = ("lungs", "heart", "devices")
#: Measurement -> its function and the labels it needs.
MEASURES = {
    "cardiothoracic_ratio": (cardiothoracic_ratio, ("heart", "lungs")),
    "costophrenic_score": (costophrenic_score, ("lungs",)),
}
_PARTS = {"heart": 1, "lungs": 2}  # connected parts of an organ: smaller ones are specks


class ExplainerOutputError(ValueError):
    """An explainer returned something that is no series of images."""


class ExplanationCollector:
    """Measures batches.

    Args:
        explainer: see `Explainer`.
        classifier: the black box.
        targets: `(S,)` posteriors, ascending.
        segmenter: anything with `segment(pixel_values) -> {label: bool (N, H, W)}`, or None.
        embedding: images `(N, 1, H, W)` to features `(N, D)`, or None.
        device: where the explainer is.
    """

    def __init__(
        self,
        explainer: Explainer,
        classifier: ImageClassifier,
        targets: Tensor,
        *,
        segmenter: Any = None,
        embedding: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.explainer, self.classifier = explainer, classifier
        self.segmenter, self.embedding = segmenter, embedding
        self.device = torch.device(device)
        self.targets = targets.to(self.device)

    def __call__(self, index: int, first: int, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The records of a batch.

        Args:
            index: the batch's number. first: its first image's number in the data set.
            batch: see `ExplanationImages`.

        Raises:
            ExplainerOutputError: the explainer's images have another shape, or are NaN or outside [-1, 1].
        """
        pixels = batch["pixel_values"].to(self.device)
        count, steps = len(pixels), len(self.targets)
        source = self.classifier.posterior(pixels, CHUNK)
        images, _ = self.explainer.series(pixels, self.classifier, self.targets)
        images = _checked(images, (count, steps, *pixels.shape[1:]), index)
        flat = images.flatten(0, 1)
        final = torch.where(self.classifier.decision(source), 0, steps - 1)
        rows = torch.arange(count, device=self.device) * steps + final
        last = flat[rows]
        records: dict[str, Any] = {
            "source_posterior": source,
            "target": self.targets.expand(count, steps),
            "reached": self.classifier.posterior(flat, CHUNK).reshape(count, steps),
            "final": final,
            "change": image_distance(flat, pixels.repeat_interleave(steps, dim=0)).reshape(count, steps),
        }
        for kind, pictures in (("source", pixels), ("final", last)):
            side = min(APPEARANCE_SIDE, pixels.shape[-1])
            records[f"appearance/{kind}"] = F.adaptive_avg_pool2d(pictures.float(), side)[:, 0]
            if self.embedding is not None:
                with torch.no_grad():
                    chunks = [self.embedding(chunk) for chunk in pictures.split(CHUNK)]
                records[f"embedding/{kind}"] = torch.cat(chunks)
        records |= self._anatomy(pixels, flat, last, rows.cpu(), batch)
        if (shown := min(EXAMPLE_POOL - first, count)) > 0:
            records["examples/query"] = to_grey(pixels[:shown, 0])
            records["examples/series"] = to_grey(images[:shown, :, 0])
        return {name: as_record(value) for name, value in records.items()}

    def _anatomy(self, pixels, flat, last, rows: Tensor, batch: Mapping) -> dict[str, Any]:
        """Masks, and what is measured on them; `last` are the given rows of `flat`."""
        found: dict[str, Any] = {}
        masks: dict[str, dict[str, Tensor]] = {}
        if self.segmenter is not None:
            masks["source"], series = self._segment(pixels), self._segment(flat)
            masks["final"] = {label: mask[rows] for label, mask in series.items()}
            found |= {f"{name}/source": value for name, value in measure(masks["source"]).items()}
            for name, value in measure(series).items():
                found[f"{name}/series"] = value.reshape(len(pixels), -1)
        if "masks" in batch:
            masks["true"] = batch["masks"]
            found |= {f"{name}/true_masks": value for name, value in measure(masks["true"]).items()}
            found["cardiothoracic_ratio/true"] = batch["cardiothoracic_ratio"]
            # the blunter side counts, as in `costophrenic_score`
            found["costophrenic_score/true"] = 1 - batch["costophrenic_angles"].amax(1) / 180
        devices = masks.get("true", masks.get("source", {})).get("devices")
        if devices is not None:
            inside = devices.to(self.device)[:, None]
            total = ((last - pixels).abs() * inside).sum((1, 2, 3)) * GREY_LEVELS
            found["change_in_devices"] = total / inside.sum((1, 2, 3))  # 0 / 0, no device, is NaN
        for kind, labelled in masks.items():
            for label, mask in labelled.items():
                found[f"masks/{label}/{kind}"] = np.packbits(mask.flatten(1).cpu().numpy(), axis=1)
        return found

    def _segment(self, images: Tensor) -> dict[str, Tensor]:
        chunks = [self.segmenter.segment(chunk) for chunk in images.split(CHUNK)]
        labels = (label for label in LABELS if label in chunks[0])
        return {label: torch.cat([chunk[label].cpu() for chunk in chunks]) for label in labels}


def measure(masks: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Every measurement of `MEASURES` for which there are masks, `(N,)` each; NaN where it is not defined.

    Args:
        masks: label -> bool `(N, H, W)`. Only the largest part of the heart and the two largest of the lungs count.
    """
    organs = {label: largest_components(masks[label], n) for label, n in _PARTS.items() if label in masks}
    return {
        name: function(*(organs[label] for label in labels))
        for name, (function, labels) in MEASURES.items()
        if all(label in organs for label in labels)
    }


def _checked(images: Any, shape: tuple[int, ...], index: int) -> Tensor:
    if not isinstance(images, Tensor) or tuple(images.shape) != shape:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ExplainerOutputError(
            f"The explainer must return images of shape {shape} (images, targets, 1, H, W), got {got} in batch {index}."
        )
    low, high = (float(v) for v in images.detach().aminmax())
    if not (low >= -1.001 and high <= 1.001):  # NaN fails too
        raise ExplainerOutputError(
            f"The explainer's images must be finite and in [-1, 1]; batch {index} spans [{low:g}, {high:g}]."
        )
    return images.detach().float().clamp(-1, 1)
