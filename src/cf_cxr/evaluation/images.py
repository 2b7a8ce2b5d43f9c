"""The images of an evaluation: one split, in batches, of patients that no training saw."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..data import CXRCollator, load_cxr
from ..data.phantom import ChestPhantom, PhantomConfig
from ..data.phantom.dataset import SPLIT_OFFSETS


@dataclass
class EvaluationImages:
    """Images of one split in batches; a kind of evaluation adds what a batch holds.

    Args:
        rows: rows of the data set, as `load_cxr` gives them.
        collator: makes rows into tensors.
        batch_size: images per batch.
        phantom: the simulator, where the images are its.
    """

    rows: Any
    collator: CXRCollator
    batch_size: int
    phantom: ChestPhantom | None = None

    def __post_init__(self) -> None:
        self.patients = [str(patient) for patient in self.rows["patient_id"]]

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.patients) // self.batch_size)

    def span(self, index: int) -> range:
        """Row numbers of a batch."""
        return range(len(self.patients))[index * self.batch_size : (index + 1) * self.batch_size]

    def some_images(self, count: int) -> Tensor:
        """At most `count` images `(n, 1, S, S)` in [-1, 1], from all over the split."""
        chosen = range(0, len(self.patients), max(1, len(self.patients) // count))[:count]
        return self.collator.pixel_values([self.rows[i]["image"] for i in chosen])

    def known(self) -> Mapping[str, np.ndarray]:
        """What else is known about the images or done to them, as far as records depend on it."""
        return {}

    def fingerprint(self) -> str:
        """SHA-256 of which images these are, and of `known`."""
        digest = hashlib.sha256()
        for name in ("image_id", "patient_id"):
            if name in self.rows.column_names:
                digest.update("\n".join(map(str, self.rows[name])).encode())
        for name, values in self.known().items():
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()


def load_splits(args: Any, size: int) -> tuple[Any, Any, ChestPhantom | None]:
    """Rows of the split `args.split`, those of the training split or None, and the phantom, where it is one.

    Args:
        args: `EvaluationArguments`.
        size: of the images, which are square.

    Raises:
        ValueError: there is no such split, or it shares patients with the training split.
    """
    chosen = {"finding": args.finding, "device_rate": args.device_rate}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    settings = {
        "resolution": size,
        "seed": args.data_seed,
        "num_proc": args.num_proc,
        "cache_dir": args.cache_dir,
    }
    if args.dataset == "phantom":
        _refuse_unknown(args, SPLIT_OFFSETS)
        _refuse_patients({f"phantom-{args.data_seed}-0"} if args.split == "train" else set(), args.split)
        config = PhantomConfig(resolution=size, **chosen)
        count = {args.split: args.num_images or args.phantom_images}
        rows = load_cxr("phantom", split=args.split, num_images=count, config=config, **settings)
        return rows, None, ChestPhantom(config)
    splits = load_cxr(args.dataset, data_dir=args.data_dir, **settings, **chosen)
    _refuse_unknown(args, splits)
    rows, train = splits[args.split], splits.get("train")
    _refuse_patients(set(rows["patient_id"]) & set(train["patient_id"]) if train else set(), args.split)
    return rows, train, None


def _refuse_unknown(args: Any, splits: Mapping[str, Any]) -> None:
    if args.split not in splits:
        raise ValueError(f"{args.dataset} has no split {args.split!r}, only {', '.join(splits)}.")


def _refuse_patients(shared: set, split: str) -> None:
    """Patients of the training are not evaluated on."""
    if shared:
        raise ValueError(
            f"Split {split!r} has {len(shared)} patients of the training split, {str(min(shared))!r} among them: numbers "
            "on images that the model may know say nothing. Evaluate on patients that it never saw."
        )
