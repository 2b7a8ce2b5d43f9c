"""What a classifier and a segmenter say of a data set: asked for once, kept as `datasets.map` keeps its results."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from filelock import FileLock
from pyarrow import ArrowInvalid
from torch import Tensor, nn

from ...black_box import ImageClassifier, StudentClassifier, check_not_constant, distil
from ...black_box.fingerprints import fingerprint, module_digest

logger = logging.getLogger(__name__)

QUESTION_IMAGES = 64  # at a time


def cached_posterior(classifier: ImageClassifier, batches: Any, cache_dir: str | Path) -> Tensor:
    """The posterior `(N,)`, float32 in [0, 1], of every image of a data set; computed at the first call only.

    Args:
        classifier: on any device.
        batches: a `CXRBatches`; `rows`, its `datasets.Dataset`, says which images these are.
        cache_dir: the answers lie in its folder `posteriors`.

    Raises:
        BlackBoxError: an answer that cannot be (see `ImageClassifier`), or the same answer to all images.
    """

    def ask(pixels: Tensor) -> Tensor:
        return classifier.posterior(pixels.to(classifier.device or pixels.device), QUESTION_IMAGES)

    who = {"classifier": classifier.fingerprint(), "class_name": classifier.class_name}
    answers = _asked_once(batches, ask, who, datasets.Value("float32"), Path(cache_dir) / "posteriors")
    return check_not_constant(answers[:], f"The classifier of {classifier.class_name!r}")


class ExplainerBatches(torch.utils.data.Dataset):
    """A data set with the black box's answers, `"posterior"` `(B,)`, and perhaps `"masks"` `(B, L, H, W)`, bool.

    Args:
        batches: gives batches through `__getitems__`; they may have masks already.
        posterior: `(N,)`, of its images in their order.
        masks: gives those of some images, `(B, L, H, W)`, for a list of indices; None: the batches' own, if any.
        labels: the L names of the masks; by default the batches'.

    Raises:
        ValueError: another number of answers than images.
    """

    def __init__(
        self, batches: Any, posterior: Tensor, masks: Any = None, labels: Sequence[str] | None = None
    ) -> None:
        if posterior.shape != (len(batches),):
            raise ValueError(
                f"{len(batches)} images need as many posteriors, got shape {tuple(posterior.shape)}."
            )
        self.batches, self.posterior, self.masks = batches, posterior.float().cpu(), masks
        self.labels = tuple(getattr(batches, "labels", ()) if labels is None else labels)

    def __len__(self) -> int:
        return len(self.posterior)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The images of these indices as one batch."""
        batch = {**self.batches.__getitems__(indices), "posterior": self.posterior[torch.as_tensor(indices)]}
        return batch if self.masks is None else batch | {"masks": self.masks[list(indices)]}


@torch.no_grad()
def cached_masks(
    segmenter: Any, batches: Any, cache_dir: str | Path, device: torch.device | str = "cpu"
) -> tuple[Any, list[str]]:
    """What a segmenter finds in every image, and its labels; computed at the first call only, a bit per label and pixel.

    Args:
        segmenter: has `segment(pixel_values) -> {label: (B, H, W) bool}`. Its weights, or what it says of the first
            images where it is no module, tell it from others.
        batches: a `CXRBatches`.
        cache_dir: the masks lie in its folder `masks`.
        device: where the segmenter works.

    Returns:
        What takes a list of indices in brackets and gives `(B, L, H, W)`, bool; and the L labels.
    """

    def ask(pixels: Tensor) -> Tensor:
        return torch.stack(list(segmenter.segment(pixels.to(device)).values()), dim=1).bool()

    first = batches.__getitems__(list(range(min(8, len(batches)))))["pixel_values"]
    if isinstance(segmenter, nn.Module):
        segmenter.to(device).eval()
        who = {"segmenter": json.dumps(module_digest(segmenter), sort_keys=True, default=str)}
    else:
        who = {"segmenter": hashlib.sha256(ask(first).cpu().numpy().tobytes()).hexdigest()}
    labels = list(segmenter.segment(first[:1].to(device)))
    feature = datasets.Array3D((len(labels), *first.shape[2:]), "bool")
    return _asked_once(batches, ask, who, feature, Path(cache_dir) / "masks"), labels


def cached_student(
    black_box: ImageClassifier, batches: Any, cache_dir: str | Path, *, force: bool, seed: int, device: Any
) -> StudentClassifier:
    """A student of a classifier without gradients, trained at the first call only; in the folder `students`.

    Args:
        batches: a `CXRBatches`; a fifth of the images measure the student's fidelity.
        force: take one that does not repeat its black box well.

    Raises:
        StudentFidelityError: for such a student, without `force`.
    """

    def images() -> Iterator[Tensor]:
        for start in range(0, len(batches), QUESTION_IMAGES):
            indices = list(range(start, min(start + QUESTION_IMAGES, len(batches))))
            yield batches.__getitems__(indices)["pixel_values"]

    name = _name({"black_box": black_box.fingerprint(), "force": force, "seed": seed}, batches)
    folder = Path(cache_dir) / "students" / name
    with _locked(folder):
        if not folder.is_dir():
            logger.warning(
                "The classifier of %r has no gradient: an explainer is trained against a student of it.",
                black_box.class_name,
            )
            student = distil(black_box, images(), force=force, seed=seed, device=device)
            logger.warning("Student of the black box: %s", student.fidelity)
            aside = folder.with_name(f".incomplete-{name}")
            student.save_pretrained(aside)
            os.replace(aside, folder)
    return StudentClassifier.from_pretrained(folder)


def _name(who: dict[str, Any], batches: Any) -> str:
    """Of a file for what `who` says of these images."""
    shape = list(batches.__getitems__([0])["pixel_values"].shape[1:])
    description = {**who, "data": batches.rows._fingerprint, "images": [len(batches), *shape]}
    return fingerprint(description).removeprefix("sha256:")[:32]


def _locked(path: Path) -> FileLock:
    """Of several processes the first one works, and the others find what it left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


def _asked_once(
    batches: Any, ask: Callable[[Tensor], Tensor], who: dict[str, str], feature: Any, folder: Path
) -> Any:
    """A column of answers to all images, kept in a file."""
    name = _name(who, batches)
    path = folder / f"{name}.arrow"

    def answer() -> datasets.Dataset:
        return datasets.Dataset.from_dict({"answer": list(range(len(batches)))}).map(
            lambda indices: {"answer": ask(batches.__getitems__(indices)["pixel_values"]).cpu().numpy()},
            batched=True,
            batch_size=QUESTION_IMAGES,
            input_columns="answer",
            features=datasets.Features({"answer": feature}),
            cache_file_name=str(path),
            new_fingerprint=name,
            desc=f"Asking for {folder.name}",
        )

    with _locked(path):
        try:
            answers = answer()
        except (ArrowInvalid, OSError) as error:
            if not path.exists():
                raise
            logger.warning("%s cannot be read (%s) and is computed again.", path, error)
            path.unlink()
            answers = answer()
    dtype = torch.float32 if feature.dtype == "float32" else torch.bool
    return answers.with_format("torch", columns=["answer"], dtype=dtype)["answer"]


def describe_empty_bins(counts: list[int], threshold: float) -> list[str]:
    """Warnings about a distribution of posteriors, in words; none for a good one.

    An empty bin stays a target, which other images are explained towards, but no image starts there, and images of
    neighbouring bins are not relabelled to fill it. Hence the self reconstruction and the discriminator's real images
    never see that bin, and explanations for it rest on its neighbours and the classifier's gradient alone.

    Args:
        counts: images per bin. threshold: the classifier's decision boundary.
    """
    width = 1 / len(counts)
    warnings = []
    if empty := [k for k, count in enumerate(counts) if count == 0]:
        names = ", ".join(f"{k} ({k * width:g} to {(k + 1) * width:g})" for k in empty)
        warnings.append(
            f"No training image has a posterior in bin {names}. Nothing is relabelled: these bins have no source "
            "images, but remain targets. More images of rare answers, or a calibrated classifier, fill them."
        )
    low = sum(c for k, c in enumerate(counts) if (k + 1) * width <= threshold + 1e-9)
    high = sum(c for k, c in enumerate(counts) if k * width >= threshold - 1e-9)
    for side, count in (("negative", low), ("positive", high)):
        if count == 0:
            warnings.append(
                f"No training image lies clearly on the {side} side of the decision boundary {threshold:g}: what the "
                "classifier takes for that decision can only be guessed from its gradient."
            )
    return warnings
