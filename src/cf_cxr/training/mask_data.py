"""Batches of radiographs with the masks of their anatomy and devices, where a data set has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..attributes import AttributeSchema
from ..data import CXRCollator
from ..image_processing_cxr import CXRImageProcessor
from .arguments import DataArguments
from .data import CXRBatches, describe_data, load_splits

#: label of a mask -> column of the data set, as `phantom_dataset` names them
MASK_COLUMNS = {"lungs": "lung_mask", "heart": "heart_mask", "devices": "device_mask"}
_CHUNK = 256


class MaskedBatches(CXRBatches):
    """As `CXRBatches`, with `"masks"`: `(B, L, S, S)` bool, one per label. In memory they take a byte per pixel.

    Args:
        rows: a `datasets.Dataset` with the columns of `CXRBatches` and one per label, of `MASK_COLUMNS`.
        labels: names of the masks, at most 8.

    Raises:
        ValueError: a label has no column in the data set.
    """

    def __init__(
        self,
        rows: Any,
        collator: CXRCollator,
        *,
        labels: Sequence[str] = tuple(MASK_COLUMNS),
        cache: bool = False,
        progress: bool = True,
    ) -> None:
        unknown = [label for label in labels if label not in MASK_COLUMNS]
        if unknown or not labels:
            raise ValueError(f"labels must be some of {list(MASK_COLUMNS)}, got {list(labels)}.")
        columns = [MASK_COLUMNS[label] for label in labels]
        missing = [name for name in columns if name not in rows.column_names]
        if missing:
            raise ValueError(
                f"The data set has no masks: the column {missing[0]!r} is missing. Only the phantom knows its anatomy "
                "(--dataset phantom); elsewhere let a trained segmenter find it."
            )
        self.labels = tuple(labels)
        self.mask_rows = rows.select_columns(columns)
        self.codes: Tensor | None = None
        others = [name for name in MASK_COLUMNS.values() if name in rows.column_names]
        super().__init__(rows.remove_columns(others), collator, cache=cache, progress=progress)
        if cache:
            starts = range(0, len(rows), _CHUNK)
            chunks = [
                self._read_codes(range(start, min(start + _CHUNK, len(rows))))
                for start in tqdm(starts, desc="Reading masks", disable=not progress, leave=False)
            ]
            self.codes = torch.cat(chunks)

    def _read_codes(self, indices: Sequence[int]) -> Tensor:
        """Masks as bits of `(B, S, S)` uint8, label l in bit l."""
        columns = self.mask_rows[list(indices)]
        masks = [
            np.stack([np.asarray(mask) > 127 for mask in columns[MASK_COLUMNS[label]]])
            for label in self.labels
        ]
        return pack_masks(torch.from_numpy(np.stack(masks, axis=1)))

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The images of these indices with their masks as one batch."""
        batch = super().__getitems__(indices)
        codes = (
            self._read_codes(indices) if self.codes is None else self.codes[torch.as_tensor(list(indices))]
        )
        return {**batch, "masks": unpack_masks(codes, len(self.labels))}


def pack_masks(masks: Tensor) -> Tensor:
    """Bool masks `(B, L, H, W)`, L of at most 8, as `(B, H, W)` uint8 with label l in bit l.

    Raises:
        ValueError: for more than 8 labels.
    """
    if masks.shape[1] > 8:
        raise ValueError(f"At most 8 masks fit into a byte, got {masks.shape[1]}.")
    bits = 2 ** torch.arange(masks.shape[1], device=masks.device)[:, None, None]
    return (masks * bits).sum(1).to(torch.uint8)


def unpack_masks(codes: Tensor, count: int) -> Tensor:
    """The `count` masks `(B, count, H, W)`, bool, that `pack_masks` packed."""
    bits = torch.arange(count, dtype=torch.uint8, device=codes.device)[:, None, None]
    return (codes[:, None] >> bits & 1).bool()


def make_masked_datasets(
    args: DataArguments,
    schema: AttributeSchema,
    labels: Sequence[str] = tuple(MASK_COLUMNS),
    *,
    progress: bool = True,
) -> tuple[MaskedBatches, MaskedBatches | None, CXRImageProcessor, dict[str, Any]]:
    """As `make_datasets`, with masks.

    Raises:
        ValueError: for a data set without masks.
    """
    splits = load_splits(args, schema)
    processor = CXRImageProcessor(size=args.resolution)
    made = {
        name: MaskedBatches(
            rows, CXRCollator(schema, processor), labels=labels, cache=args.cache_images, progress=progress
        )
        for name, rows in splits.items()
    }
    return made["train"], made.get("validation"), processor, describe_data(args, schema, splits)


__all__ = ["MASK_COLUMNS", "MaskedBatches", "make_masked_datasets", "pack_masks", "unpack_masks"]
