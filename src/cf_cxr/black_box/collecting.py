"""Asks a black box about many images, once, and keeps images and answers in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .checks import check_images, check_not_constant
from .classifier import ImageClassifier
from .errors import BlackBoxError


@dataclass(frozen=True)
class LabelledImages:
    """Images with a black box's answers.

    Args:
        pixel_values: `(N, 1, H, W)` in [-1, 1], float16 (finer than 8 bits): 32 kB per image of 128x128.
        posterior: `(N,)`, float32.
        patients: `(N,)` patient identifiers, or None where any is unknown.
    """

    pixel_values: Tensor
    posterior: Tensor
    patients: list[str] | None

    def __len__(self) -> int:
        return len(self.posterior)

    def split(self, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
        """Indices for training and held out, at random; by patient where patients are known.

        Args:
            held_out: share of the images (of the patients) that are held out, in (0, 1).

        Raises:
            BlackBoxError: where one side would have fewer than two images.
        """
        if not 0 < held_out < 1:
            raise BlackBoxError(f"held_out={held_out} is a share between 0 and 1, both excluded.")
        names = self.patients or [str(i) for i in range(len(self))]
        unique = sorted(set(names))
        order = torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed)).tolist()
        chosen = {unique[i] for i in order[: max(1, round(held_out * len(unique)))]}
        mask = torch.tensor([name in chosen for name in names])
        parts = (~mask).nonzero()[:, 0], mask.nonzero()[:, 0]
        if min(len(p) for p in parts) < 2:
            what = f"{len(unique)} patients" if self.patients else f"{len(self)} images"
            raise BlackBoxError(
                f"{what} are too few to train on some and hold out {held_out:g} of them; give more."
            )
        return parts


def label_images(
    black_box: ImageClassifier,
    images: Iterable,
    batch_size: int = 32,
    processor: Callable | None = None,
    progress: bool | None = None,
) -> LabelledImages:
    """Every image's posterior, each image asked about exactly once.

    Args:
        black_box: the classifier.
        images: an iterable of tensors `(1, H, W)` or batches `(N, 1, H, W)` in [-1, 1], of rows of a data set with
            such `pixel_values` or with an `image` for `processor` (`patient_id` is used if all have it), or of
            anything else that `processor` reads. All of one size. A generator is read once.
        batch_size: images per question.
        processor: `CXRImageProcessor`, for files and pictures.
        progress: show a bar; None: on a terminal only.

    Raises:
        BlackBoxError: no images, sizes that differ, an answer that cannot be, a constant.
    """
    pixels, answers, patients = [], [], []
    bar = tqdm(desc="asking the black box", unit="image", disable=None if progress is None else not progress)
    with bar:
        for batch, names in _batches(images, batch_size, processor):
            answers.append(black_box.posterior(batch, batch_size).cpu())
            pixels.append(batch.half().cpu())
            patients.extend(names)
            bar.update(len(batch))
    if not pixels:
        raise BlackBoxError("There are no images to ask the black box about; give some hundreds or more.")
    posterior = check_not_constant(torch.cat(answers), f"The classifier of {black_box.class_name!r}")
    known = all(name is not None for name in patients)
    return LabelledImages(torch.cat(pixels), posterior, [str(n) for n in patients] if known else None)


def _batches(
    images: Iterable, batch_size: int, processor: Callable | None
) -> Iterator[tuple[Tensor, list[Any]]]:
    """Batches of `batch_size` images (the last may be smaller) and their patients (None if unknown)."""
    waiting, names, shape = [], [], None
    for pixel_values, patients in _items(images, processor):
        for image, patient in zip(pixel_values, patients):
            shape = shape or image.shape
            if image.shape != shape:
                raise BlackBoxError(
                    f"All images must have one size: the first has {tuple(shape)}, another "
                    f"{tuple(image.shape)}; let CXRImageProcessor(size=...) resize them."
                )
            waiting.append(image)
            names.append(patient)
            if len(waiting) == batch_size:
                yield torch.stack(waiting), names
                waiting, names = [], []
    if waiting:
        yield torch.stack(waiting), names


def _items(images: Iterable, processor: Callable | None) -> Iterator[tuple[Tensor, list[Any]]]:
    """Tensors `(n, 1, H, W)` and n patients of whatever the iterable yields."""
    for item in images:
        patient = item.get("patient_id") if isinstance(item, Mapping) else None
        if isinstance(item, Mapping) and "pixel_values" in item:
            item = torch.as_tensor(item["pixel_values"])
        elif not isinstance(item, Tensor):
            if processor is None:
                raise BlackBoxError(
                    f"Cannot read images from {type(item)}: give tensors, rows with pixel_values, or "
                    "processor=CXRImageProcessor(size=...) for files and pictures."
                )
            row = isinstance(item, Mapping) and "image" in item
            item = processor(item["image"] if row else item)["pixel_values"]
        item = check_images(item[None] if item.ndim == 3 else item)
        several = isinstance(patient, (list, tuple)) or (isinstance(patient, Tensor) and patient.ndim)
        patients = [p.item() if isinstance(p, Tensor) else p for p in patient] if several else None
        yield item, patients or [patient] * len(item)
