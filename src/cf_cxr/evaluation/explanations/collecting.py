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

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...black_box import ImageClassifier
from ...explaining.explanation import Explainer
from ...metrics.cardiothoracic import cardiothoracic_ratio
from ...metrics.costophrenic import costophrenic_score
from ...metrics.masks import largest_components
from ...metrics.soundness import image_distance

APPEARANCE_SIDE = 32
EXAMPLE_POOL = 48  # first images of the data set, from which the example sheet is chosen
LABELS = ("lungs", "heart", "devices")
#: Measurement -> labels it needs.
MEASURES = {"cardiothoracic_ratio": ("heart", "lungs"), "costophrenic_score": ("lungs",)}
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
        pool: images from which examples are chosen.
        batch_size: images that segmenter, classifier and embedding see at a time.
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
        pool: int = EXAMPLE_POOL,
        batch_size: int = 64,
    ) -> None:
        self.explainer, self.classifier = explainer, classifier
        self.segmenter, self.embedding = segmenter, embedding
        self.device, self.pool, self.batch_size = torch.device(device), pool, batch_size
        self.targets = targets.to(self.device)

    def __call__(self, index: int, first: int, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The records of a batch.

        Args:
            index: the batch's number. first: its first image's number in the data set.
            batch: see `ExplanationData`.

        Raises:
            ExplainerOutputError: the explainer's images have another shape, or are NaN or outside [-1, 1].
        """
        pixels = batch["pixel_values"].to(self.device)
        count, steps = len(pixels), len(self.targets)
        source = self.classifier.posterior(pixels, self.batch_size)
        images, _ = self.explainer.series(pixels, self.classifier, self.targets)
        images = _checked(images, (count, steps, *pixels.shape[1:]), index)
        flat = images.flatten(0, 1)
        reached = self.classifier.posterior(flat, self.batch_size).reshape(count, steps)
        final = torch.where(self.classifier.decision(source), 0, steps - 1)
        rows = torch.arange(count, device=self.device)
        last = images[rows, final]
        records: dict[str, Any] = {
            "source_posterior": source,
            "target": self.targets.expand(count, steps),
            "reached": reached,
            "final": final,
            "change": image_distance(flat, pixels.repeat_interleave(steps, dim=0)).reshape(count, steps),
        }
        records["appearance/source"], records["appearance/final"] = _coarse(pixels), _coarse(last)
        records |= self._anatomy(pixels, flat, last, final.cpu(), batch)
        if self.embedding is not None:
            records["embedding/source"] = self._embed(pixels)
            records["embedding/final"] = self._embed(last)
        shown = min(max(self.pool - first, 0), count)
        if shown:
            records["examples/query"] = _grey(pixels[:shown, 0])
            records["examples/series"] = _grey(images[:shown, :, 0])
        return {name: _numpy(value) for name, value in records.items()}

    @torch.no_grad()
    def _embed(self, images: Tensor) -> Tensor:
        return torch.cat([self.embedding(chunk) for chunk in images.split(self.batch_size)])

    def _anatomy(self, pixels, flat, last, final: Tensor, batch: Mapping) -> dict[str, Any]:
        """Masks, and what is measured on them."""
        count, steps = len(pixels), len(self.targets)
        found: dict[str, Any] = {}
        masks: dict[str, dict[str, Tensor]] = {}
        if self.segmenter is not None:
            masks["source"], series = self._segment(pixels), self._segment(flat)
            rows = torch.arange(count) * steps + final
            masks["final"] = {label: mask[rows] for label, mask in series.items()}
            for name, value in measure(masks["source"]).items():
                found[f"{name}/source"] = value
            for name, value in measure(series).items():
                found[f"{name}/series"] = value.reshape(count, steps)
        if "masks" in batch:
            masks["true"] = batch["masks"]
            for name, value in measure(masks["true"]).items():
                found[f"{name}/true_masks"] = value
            found["cardiothoracic_ratio/true"] = batch["cardiothoracic_ratio"]
            # the blunter side counts, as in `costophrenic_score`
            found["costophrenic_score/true"] = 1 - batch["costophrenic_angles"].amax(1) / 180
        devices = masks.get("true", masks.get("source", {})).get("devices")
        if devices is not None:
            inside = devices.to(self.device)[:, None]
            total = ((last - pixels).abs() * inside).sum((1, 2, 3)) * 127.5
            found["change_in_devices"] = total / inside.sum((1, 2, 3))  # 0 / 0, no device, is NaN
        for kind, labelled in masks.items():
            for label, mask in labelled.items():
                found[f"masks/{label}/{kind}"] = np.packbits(mask.cpu().numpy().reshape(count, -1), axis=1)
        return found

    def _segment(self, images: Tensor) -> dict[str, Tensor]:
        chunks = [self.segmenter.segment(chunk) for chunk in images.split(self.batch_size)]
        return {
            label: torch.cat([chunk[label].cpu() for chunk in chunks])
            for label in LABELS
            if label in chunks[0]
        }


def measure(masks: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Every measurement of `MEASURES` for which there are masks, `(N,)` each; NaN where it is not defined.

    Args:
        masks: label -> bool `(N, H, W)`. Only the largest part of the heart and the two largest of the lungs count.
    """
    used: Sequence[str] = [label for label in _PARTS if label in masks]
    organs = {label: largest_components(masks[label], _PARTS[label]) for label in used}
    functions = {"cardiothoracic_ratio": cardiothoracic_ratio, "costophrenic_score": costophrenic_score}
    return {
        name: functions[name](*(organs[label] for label in labels))
        for name, labels in MEASURES.items()
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


def _coarse(images: Tensor) -> Tensor:
    """Means over equal squares, `(N, s, s)`."""
    return F.adaptive_avg_pool2d(images.float(), min(APPEARANCE_SIDE, images.shape[-1]))[:, 0]


def _grey(images: Tensor) -> Tensor:
    """Images in [-1, 1] as 8-bit grey levels."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _numpy(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value if value.dtype == np.uint8 else value.astype(np.float32)
    value = value.detach().cpu()
    return value.numpy() if value.dtype in (torch.uint8, torch.int64) else value.float().numpy()


__all__ = ["EXAMPLE_POOL", "LABELS", "MEASURES", "ExplainerOutputError", "ExplanationCollector", "measure"]
