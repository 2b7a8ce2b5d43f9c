"""Trains a student of a black box on its soft posteriors, and measures how faithful it is."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm.auto import trange

from ..attributes import Attribute, AttributeSchema
from ..models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from .attribute_adapter import AttributeImageClassifier
from .classifier import ImageClassifier
from .collecting import LabelledImages, label_images
from .errors import BlackBoxError
from .fidelity import FidelityLimits, FidelityReport, measure_fidelity, posteriors_on
from .student import ATTRIBUTE, RECORD, StudentClassifier


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
    side = _side(data)
    train, test = data.split(held_out, seed)
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))), torch.enable_grad():
        torch.manual_seed(seed)
        model = AttributeClassifierModel(_student_config(config, side)).to(device)
        _fit(model, data, train, epochs, batch_size, learning_rate, weight_decay, seed, progress)
    measures = _measure(model, black_box, data, test, batch_size)
    report = FidelityReport(
        **measures,
        n_train=len(train),
        n_held_out=len(test),
        black_box_fingerprint=black_box.fingerprint(),
        by_patient=data.patients is not None,
        seed=seed,
    )
    setattr(model.config, RECORD, _record(black_box, report))
    return _accept(StudentClassifier(model), limits, force)


def _side(data: LabelledImages) -> int:
    height, width = data.pixel_values.shape[-2:]
    if height != width:
        raise BlackBoxError(
            f"A student reads square images, got {height}x{width}; CXRImageProcessor makes them square."
        )
    return width


def _student_config(config: AttributeClassifierConfig | None, side: int) -> AttributeClassifierConfig:
    schema = AttributeSchema([Attribute(ATTRIBUTE, "binary", ("no", "yes"))])
    if config is None:
        return AttributeClassifierConfig.from_preset(
            "bit-small", schema, side, standardize=False, pool_grid=2
        )
    config = copy.deepcopy(config)
    config.attributes, config.temperature = schema.to_list(), {}
    config.image_size = side
    return config


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


def _measure(
    model: AttributeClassifierModel,
    black_box: ImageClassifier,
    data: LabelledImages,
    rows: Tensor,
    batch_size: int,
) -> dict[str, float | None]:
    student = AttributeImageClassifier(model, ATTRIBUTE, threshold=black_box.threshold)
    answers = posteriors_on(student, data.pixel_values[rows], batch_size)
    return measure_fidelity(answers, data.posterior[rows], black_box.threshold)


def _record(black_box: ImageClassifier, report: FidelityReport) -> dict:
    return {
        "class_name": black_box.class_name,
        "threshold": black_box.threshold,
        "fidelity": report.to_dict(),
    }


def _accept(student: StudentClassifier, limits: FidelityLimits, force: bool) -> StudentClassifier:
    failures = limits.failures(student.fidelity)
    if not failures:
        return student
    message = (
        f"The student of {student.class_name!r} does not repeat its black box: {'; '.join(failures)} on "
        f"{student.fidelity.n_held_out} held-out images. Give more images, or ones of both decisions, more epochs, "
        "or a larger backbone; force=True takes it as it is."
    )
    if not force:
        raise StudentFidelityError(message, student)
    warnings.warn(message, stacklevel=3)
    return student


__all__ = ["StudentFidelityError", "distil"]
