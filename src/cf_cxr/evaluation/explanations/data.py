"""The images that are explained: one split, with the masks and measurements that a phantom knows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import CXRCollator, cxr_schema, load_cxr
from ...data.phantom import PhantomConfig
from ...images.image_processing_cxr import CXRImageProcessor
from ...training.loop.batches import MASK_COLUMNS
from ..counterfactuals.data import phantom_rows, refuse_training_patients
from .arguments import ExplanationEvaluationArguments

PHANTOM_IMAGES = 500


@dataclass
class ExplanationData:
    """Images of one split in batches; labels are not needed.

    Args:
        rows: rows of the data set, as `load_cxr` gives them.
        collator: makes their images into tensors.
        patients: N patient identifiers.
        batch_size: images per batch.
    """

    rows: Any
    collator: CXRCollator
    patients: list[str]
    batch_size: int

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.patients) // self.batch_size)

    def span(self, index: int) -> range:
        """Row numbers of a batch."""
        return range(index * self.batch_size, min((index + 1) * self.batch_size, len(self.patients)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Batch: `pixel_values` (B, 1, S, S) in [-1, 1].

        From a phantom also `masks`, label -> bool (B, S, S); `cardiothoracic_ratio` (B,); `costophrenic_angles`
        (B, 2), degrees.
        """
        rows = [self.rows[i] for i in self.span(index)]
        batch: dict[str, Any] = {"pixel_values": self.collator.pixel_values([row["image"] for row in rows])}
        if "lung_mask" in self.rows.column_names:
            batch["masks"] = {
                label: torch.from_numpy(np.stack([np.asarray(row[column]) for row in rows]) > 127)
                for label, column in MASK_COLUMNS.items()
            }
            for name in ("cardiothoracic_ratio", "costophrenic_angles"):
                batch[name] = Tensor([row[name] for row in rows])
        return batch

    def some_images(self, count: int) -> Tensor:
        """At most `count` images `(n, 1, S, S)`, from all over the split."""
        chosen = range(0, len(self.patients), max(1, len(self.patients) // count))[:count]
        return self.collator.pixel_values([self.rows[i]["image"] for i in chosen])

    def fingerprint(self) -> str:
        """SHA-256 of which images these are."""
        digest = hashlib.sha256()
        for name in ("image_id", "patient_id"):
            if name in self.rows.column_names:
                digest.update("\n".join(map(str, self.rows[name])).encode())
        return digest.hexdigest()


def load_explanation_data(args: ExplanationEvaluationArguments, size: int) -> ExplanationData:
    """The images to explain, `size` pixels square.

    Raises:
        ValueError: there is no such split, or it shares patients with the training split.
    """
    rows = _phantom_rows(args, size) if args.dataset == "phantom" else _source_rows(args, size)
    if args.max_images is not None:
        rows = rows.select(range(min(args.max_images, len(rows))))
    schema, _ = cxr_schema(args.dataset, finding=args.finding, data_dir=args.data_dir)
    return ExplanationData(
        rows=rows,
        collator=CXRCollator(schema, CXRImageProcessor(size=size)),
        patients=[str(patient) for patient in rows["patient_id"]],
        batch_size=args.batch_size,
    )


def _source_rows(args: ExplanationEvaluationArguments, size: int) -> Any:
    splits = load_cxr(
        args.dataset,
        data_dir=args.data_dir,
        resolution=size,
        seed=args.data_seed,
        num_proc=args.num_proc,
        cache_dir=args.cache_dir,
        **({} if args.finding is None else {"finding": args.finding}),
    )
    if args.split not in splits:
        raise ValueError(f"{args.dataset} has no split {args.split!r}, only {', '.join(splits)}.")
    if "train" in splits:
        shared = set(splits[args.split]["patient_id"]) & set(splits["train"]["patient_id"])
        refuse_training_patients({str(patient) for patient in shared}, args.split)
    return splits[args.split]


def _phantom_rows(args: ExplanationEvaluationArguments, size: int) -> Any:
    options = {"finding": args.finding, "device_rate": args.device_rate}
    config = PhantomConfig(resolution=size, **{k: v for k, v in options.items() if v is not None})
    return phantom_rows(args, config, PHANTOM_IMAGES)


__all__ = ["ExplanationData", "load_explanation_data"]
