"""What a segmenter finds in every training image, computed once and kept on disk, as bits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..black_box.fingerprints import module_digest
from .cache_files import cache_path, read_cached, write_cached
from .mask_data import pack_masks, unpack_masks
from .posterior_cache import data_fingerprint

_FOLDER = "masks"


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
    path = cache_path(Path(cache_dir) / _FOLDER, identity)
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


__all__ = ["SegmentedBatches", "segmented_batches"]
