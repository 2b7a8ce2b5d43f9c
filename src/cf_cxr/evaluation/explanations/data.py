"""The images that are explained, with the masks and measurements that a phantom knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import CXRCollator, cxr_schema
from ...images.image_processing_cxr import CXRImageProcessor
from ...training.loop.batches import MASK_COLUMNS
from ..images import EvaluationImages, load_splits


@dataclass
class ExplanationImages(EvaluationImages):
    """Images of one split; labels are not needed."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Batch: `pixel_values` (B, 1, S, S) in [-1, 1].

        From a phantom also `masks`, label -> bool (B, S, S); `cardiothoracic_ratio` (B,); `costophrenic_angles`
        (B, 2), degrees.
        """
        rows = [self.rows[i] for i in self.span(index)]
        batch: dict[str, Any] = {"pixel_values": self.collator.pixel_values([row["image"] for row in rows])}
        if self.phantom is not None:
            batch["masks"] = {
                label: torch.from_numpy(np.stack([np.asarray(row[column]) for row in rows]) > 127)
                for label, column in MASK_COLUMNS.items()
            }
            for name in ("cardiothoracic_ratio", "costophrenic_angles"):
                batch[name] = Tensor([row[name] for row in rows])
        return batch


def load_explanation_images(args: Any, size: int) -> ExplanationImages:
    """The images to explain, `size` pixels square.

    Raises:
        ValueError: there is no such split, or it shares patients with the training split.
    """
    rows, _, phantom = load_splits(args, size)
    rows = rows.select(range(min(args.max_images or len(rows), len(rows))))
    schema, _ = cxr_schema(args.dataset, finding=args.finding, data_dir=args.data_dir)
    return ExplanationImages(
        rows, CXRCollator(schema, CXRImageProcessor(size=size)), args.batch_size, phantom
    )
