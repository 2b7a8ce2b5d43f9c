"""Trains a student of a black box on its soft posteriors, and measures how faithful it is."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm.auto import tqdm, trange

from ..attributes import Attribute, AttributeSchema
from ..models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from .attribute_adapter import AttributeImageClassifier
from .checks import BlackBoxError, check_images, check_not_constant
from .classifier import ImageClassifier
from .student import ATTRIBUTE, RECORD, FidelityLimits, FidelityReport, StudentClassifier, measure_fidelity


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
    waiting = []
    for image, patient in _items(images, processor):
        if waiting and image.shape != waiting[0][0].shape:
            raise BlackBoxError(
                f"All images must have one size: the first has {tuple(waiting[0][0].shape)}, another "
                f"{tuple(image.shape)}; let CXRImageProcessor(size=...) resize them."
            )
        waiting.append((image, patient))
        if len(waiting) > batch_size:  # the last one stays, to compare sizes with
            yield torch.stack([i for i, _ in waiting[:-1]]), [p for _, p in waiting[:-1]]
            del waiting[:-1]
    if waiting:
        yield torch.stack([i for i, _ in waiting]), [p for _, p in waiting]


def _items(images: Iterable, processor: Callable | None) -> Iterator[tuple[Tensor, Any]]:
    """Every image `(1, H, W)` of whatever the iterable yields, and its patient."""
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
        patient = patient.tolist() if isinstance(patient, Tensor) else patient
        yield from zip(item, patient if isinstance(patient, (list, tuple)) else [patient] * len(item))


class StudentFidelityError(BlackBoxError):
    """A student that does not repeat its black box well enough; `student` and `report` can be inspected."""

    def __init__(self, message: str, student: StudentClassifier) -> None:
        super().__init__(message)
        self.student, self.report = student, student.fidelity


def distil(
    black_box: ImageClassifier,
    images: Iterable,
    config: AttributeClassifierConfig | None = None,
    *,
    limits: FidelityLimits | None = None,
    force: bool = False,
    held_out: float = 0.2,
    epochs: int = 20,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
    processor: Callable | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> StudentClassifier:
    """A differentiable student of a classifier.

    The black box is asked about every image once. A share of the images (of the patients, where rows have a
    `patient_id`) is held out; on the rest the student minimises the cross-entropy with the black box's posterior
    (AdamW, one-cycle learning rate); the last weights are kept, so that the held-out images take no part in any
    choice. Images are not augmented, because the answer to an augmented image is not known: add augmented ones
    to `images`, and images such as the explainer will make (blends of radiographs), if the student shall hold there.

    Args:
        black_box: any `ImageClassifier`.
        images: at least some hundreds, of both decisions; see `label_images`.
        config: backbone and size of the student; its attributes are replaced. By default the `"bit-small"`
            preset (1.3 M parameters) for the images' size, with features pooled over 2 x 2 cells, and with brightness
            left in: a black box may look at it.
        limits: that the student must reach; see `FidelityLimits`.
        force: return a student that does not reach them, with a warning.
        held_out: share that is held out, in (0, 1).
        epochs: passes over the training images.
        batch_size: of training and of questions to the black box.
        learning_rate: the highest of the cycle.
        weight_decay: of AdamW.
        seed: of the split, the initialisation and the order; the global generators are left alone.
        processor: reads the images where they are no tensors.
        device: to train on; a GPU if there is one.
        progress: show bars; None: on a terminal only.

    Returns:
        The student, with its `fidelity`, on `device`.

    Raises:
        BlackBoxError: too few images, images or answers that cannot be, a constant black box.
        StudentFidelityError: a student below the limits (and no `force`).
    """
    if not isinstance(black_box, ImageClassifier):
        raise BlackBoxError(
            f"distil reads an ImageClassifier, got {type(black_box)}; see as_image_classifier."
        )
    if epochs < 1 or batch_size < 1:
        raise BlackBoxError(f"epochs={epochs} and batch_size={batch_size} must be at least 1.")
    limits = limits or FidelityLimits()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data = label_images(black_box, images, batch_size, processor, progress)
    height, width = data.pixel_values.shape[-2:]
    if height != width:
        raise BlackBoxError(
            f"A student reads square images, got {height}x{width}; CXRImageProcessor makes them square."
        )
    schema = AttributeSchema([Attribute(ATTRIBUTE, "binary", ("no", "yes"))])
    if config is None:
        options = {"standardize": False, "pool_grid": 2}
        config = AttributeClassifierConfig.from_preset("bit-small", schema, width, **options)
    else:
        config = copy.deepcopy(config)
        config.attributes, config.temperature, config.image_size = schema.to_list(), {}, width
    train, test = data.split(held_out, seed)
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))), torch.enable_grad():
        torch.manual_seed(seed)
        model = AttributeClassifierModel(config).to(device)
        _fit(model, data, train, epochs, batch_size, learning_rate, weight_decay, seed, progress)
    student = AttributeImageClassifier(model, ATTRIBUTE, threshold=black_box.threshold)
    chunks = data.pixel_values[test].split(batch_size)  # in half precision
    answers = torch.cat([student.posterior(chunk.float(), batch_size).cpu() for chunk in chunks])
    report = FidelityReport(
        **measure_fidelity(answers, data.posterior[test], black_box.threshold),
        n_train=len(train),
        n_held_out=len(test),
        black_box_fingerprint=black_box.fingerprint(),
        by_patient=data.patients is not None,
        seed=seed,
    )
    record = {
        "class_name": black_box.class_name,
        "threshold": black_box.threshold,
        "fidelity": report.to_dict(),
    }
    setattr(model.config, RECORD, record)
    student = StudentClassifier(model)
    if failures := limits.failures(report):
        message = (
            f"The student of {student.class_name!r} does not repeat its black box: {'; '.join(failures)} on "
            f"{len(test)} held-out images. Give more images, or ones of both decisions, more epochs, or a larger backbone; "
            "force=True takes it as it is."
        )
        if not force:
            raise StudentFidelityError(message, student)
        warnings.warn(message, stacklevel=2)
    return student


def _fit(
    model: AttributeClassifierModel,
    data: LabelledImages,
    rows: Tensor,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    progress: bool | None,
) -> None:
    """Minimises the cross-entropy with soft targets, in place."""
    model.train()
    device, steps = model.device, -(-len(rows) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * steps)
    generator = torch.Generator().manual_seed(seed)
    bar = trange(epochs, desc="training the student", disable=None if progress is None else not progress)
    for _ in bar:
        order = rows[torch.randperm(len(rows), generator=generator)]
        for chosen in order.tensor_split(steps):  # equal batches: none of a single image
            pixels = data.pixel_values[chosen].to(device, torch.float32)
            loss = model(pixels, labels=data.posterior[chosen, None].to(device)).loss
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        bar.set_postfix(loss=float(loss.detach()))
    model.eval()
