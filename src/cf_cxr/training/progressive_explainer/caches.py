"""One tensor per file, found by what it was computed from; complete or absent, never unpickled."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ...black_box import ImageClassifier, check_not_constant
from ...black_box.fingerprints import module_digest
from ...models.progressive_explainer.posterior_bins import PosteriorBins
from ..loop.batches import CXRBatches, pack_masks, unpack_masks

logger = logging.getLogger(__name__)

_TENSOR = "values"


def cache_path(folder: str | Path, identity: Mapping[str, str]) -> Path:
    """The file for an identity: its name is the identity's hash."""
    key = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()
    return Path(folder) / f"{key[:32]}.safetensors"


def read_cached(path: Path, identity: Mapping[str, str]) -> Tensor | None:
    """The tensor of a file, or None where there is none, it is damaged or it says another identity."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            values, found = file.get_tensor(_TENSOR), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        logger.warning("%s cannot be read (%s) and is computed again.", path, error)
        return None
    return values if {name: found.get(name) for name in identity} == dict(identity) else None


def write_cached(path: Path, values: Tensor, identity: Mapping[str, str]) -> None:
    """Write a tensor and its identity; a killed process leaves no half of a file under this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".incomplete-{os.getpid()}-{path.name}")
    save_file({_TENSOR: values.contiguous()}, str(temporary), metadata=dict(identity))
    os.replace(temporary, path)


_POSTERIORS = "posteriors"


def data_fingerprint(batches: Any) -> str:
    """`"sha256:..."` of a data set of images: of the pixels where they are in memory, else of the rows' identity.

    Args:
        batches: a `CXRBatches`.

    Raises:
        ValueError: for rows that do not say who they are and are not in memory.
    """
    digest = hashlib.sha256()
    images = getattr(batches, "images", None)
    if images is not None:
        digest.update(f"{tuple(images.shape)}:{images.dtype};".encode())
        digest.update(images.contiguous().view(torch.uint8).numpy().tobytes())
    else:
        identity = getattr(getattr(batches, "rows", None), "_fingerprint", None)
        if identity is None:
            raise ValueError("The data set has no fingerprint; keep its images in memory (--cache_images).")
        resolution = getattr(batches.collator, "resolution", None)
        digest.update(f"{identity}:{len(batches)}:{resolution}".encode())
    return "sha256:" + digest.hexdigest()


def cached_posterior(
    classifier: ImageClassifier,
    batches: CXRBatches,
    cache_dir: str | Path,
    *,
    fingerprint: str | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> Tensor:
    """The posterior `(N,)`, float32 in [0, 1], of every image of a data set; computed at the first call only.

    The file is complete or absent: a killed process leaves no half of one. A damaged file is asked for again.

    Args:
        classifier: on any device.
        batches: gives `{"pixel_values": ...}` through `__getitems__`.
        cache_dir: the answers lie in its folder `posteriors`.
        fingerprint: of the data; by default `data_fingerprint(batches)`.
        batch_size: images per question.
        progress: show a bar.

    Raises:
        BlackBoxError: an answer that cannot be (see `ImageClassifier`), or the same answer to all images.
    """
    identity = {
        "classifier": classifier.fingerprint(),
        "class_name": classifier.class_name,
        "data": fingerprint or data_fingerprint(batches),
        "images": str(len(batches)),
    }
    path = cache_path(Path(cache_dir) / _POSTERIORS, identity)
    posterior = read_cached(path, identity)
    if posterior is None or posterior.shape != (len(batches),):
        posterior = _ask(classifier, batches, batch_size, progress)
        write_cached(path, posterior, identity)
    return check_not_constant(posterior, f"The classifier of {classifier.class_name!r}")


class ExplainerBatches(Dataset):
    """The batches of a data set with the black box's answers, `"posterior"` `(B,)`.

    Args:
        batches: gives batches through `__getitems__`.
        posterior: `(N,)`, of its images in their order.

    Raises:
        ValueError: another number of answers than images.
    """

    def __init__(self, batches: Any, posterior: Tensor) -> None:
        if posterior.shape != (len(batches),):
            raise ValueError(
                f"{len(batches)} images need as many posteriors, got shape {tuple(posterior.shape)}."
            )
        self.batches, self.posterior = batches, posterior.float().cpu()

    def __len__(self) -> int:
        return len(self.posterior)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """The images of these indices as one batch."""
        return {**self.batches.__getitems__(indices), "posterior": self.posterior[torch.as_tensor(indices)]}


def bin_counts(posterior: Tensor, bins: PosteriorBins) -> list[int]:
    """Images per bin."""
    return torch.bincount(bins.index(posterior).cpu(), minlength=bins.num_bins).tolist()


def describe_empty_bins(counts: list[int], threshold: float) -> list[str]:
    """Warnings about a distribution of posteriors, in words; none for a good one.

    An empty bin stays a target, which other images are explained towards, but no image starts there, and images of
    neighbouring bins are not relabelled to fill it. Hence the self reconstruction and the discriminator's real images
    never see that bin, and explanations for it rest on its neighbours and the classifier's gradient alone.

    Args:
        counts: images per bin. threshold: the classifier's decision boundary.
    """
    width = 1 / len(counts)
    empty = [k for k, count in enumerate(counts) if count == 0]
    warnings = []
    if empty:
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


def _ask(classifier: ImageClassifier, batches: Any, batch_size: int, progress: bool) -> Tensor:
    answers = []
    starts = range(0, len(batches), batch_size)
    for start in tqdm(starts, desc="Asking the black box", disable=not progress, leave=False):
        indices = list(range(start, min(start + batch_size, len(batches))))
        pixels = batches.__getitems__(indices)["pixel_values"]
        if classifier.device is not None:
            pixels = pixels.to(classifier.device)
        answers.append(classifier.posterior(pixels, batch_size).cpu())
    return torch.cat(answers)


_MASKS = "masks"


class SegmentedBatches(Dataset):
    """The batches of a data set with the masks that a segmenter found, `"masks"` `(B, L, H, W)` bool.

    Args:
        batches: gives batches through `__getitems__`.
        codes: `(N, H, W)` uint8, label l in bit l. labels: their names.
    """

    def __init__(self, batches: Any, codes: Tensor, labels: Sequence[str]) -> None:
        self.batches, self.codes, self.labels = batches, codes, tuple(labels)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The images of these indices as one batch."""
        codes = self.codes[torch.as_tensor(list(indices))]
        return {**self.batches.__getitems__(indices), "masks": unpack_masks(codes, len(self.labels))}


def segmented_batches(
    segmenter: nn.Module,
    batches: Any,
    cache_dir: str | Path,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    progress: bool = True,
) -> SegmentedBatches:
    """A data set with what a segmenter finds in it; every image is segmented at the first call only.

    Memory: a byte per pixel.

    Args:
        segmenter: has `segment(pixel_values) -> {label: (B, H, W) bool}`; its weights are part of the file's name.
        batches: a `CXRBatches`.
        cache_dir: the masks lie in its folder `masks`.
    """
    segmenter.to(device).eval()
    identity = {
        "segmenter": json.dumps(module_digest(segmenter), sort_keys=True, default=str),
        "data": data_fingerprint(batches),
        "images": str(len(batches)),
    }
    first = batches.__getitems__([0])["pixel_values"].to(device)
    labels = list(segmenter.segment(first))
    path = cache_path(Path(cache_dir) / _MASKS, identity)
    codes = read_cached(path, identity)
    if codes is None or len(codes) != len(batches):
        chunks = []
        starts = range(0, len(batches), batch_size)
        for start in tqdm(starts, desc="Segmenting", disable=not progress, leave=False):
            indices = list(range(start, min(start + batch_size, len(batches))))
            found = segmenter.segment(batches.__getitems__(indices)["pixel_values"].to(device))
            chunks.append(pack_masks(torch.stack(list(found.values()), dim=1)).cpu())
        codes = torch.cat(chunks)
        write_cached(path, codes, identity)
    return SegmentedBatches(batches, codes, labels)


__all__ = [
    "ExplainerBatches",
    "SegmentedBatches",
    "bin_counts",
    "cache_path",
    "cached_posterior",
    "data_fingerprint",
    "describe_empty_bins",
    "read_cached",
    "segmented_batches",
    "write_cached",
]
