"""Writes into a trained explainer's configuration which images are usual, so that it can warn about others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.progressive_explainer import ProgressiveExplainerModel
from ..training_distribution import ENTRY, TrainingDistribution

MAX_IMAGES = 2000  # of either side; a mean and a high quantile need no more


def record_usual_images(
    folder: str | Path, train: Any, held_out: Any, device: torch.device | str = "cpu", batch_size: int = 64
) -> TrainingDistribution:
    """Measures images under a saved explainer, and adds `training_distribution` to its `config.json`.

    Args:
        folder: of a `ProgressiveExplainerModel`.
        train: its training images; gives `{"pixel_values": ...}` through `__getitems__`.
        held_out: such images of other patients, which set the limit; None: every fifth training image, left out of
            the rest.
        device: to compute on.
        batch_size: images at a time.

    Raises:
        ValueError: too few images, or an embedding that is not finite.
    """
    rows = _spread(len(train))
    if held_out is None:
        rows, others, held_out = [r for i, r in enumerate(rows) if i % 5], rows[::5], train
    else:
        others = _spread(len(held_out))
    model = ProgressiveExplainerModel.from_pretrained(folder).eval().to(device)
    usual = TrainingDistribution.measure(
        model, _batches(train, rows, batch_size), _batches(held_out, others, batch_size)
    )
    setattr(model.config, ENTRY, usual.to_dict())
    model.config.save_pretrained(folder)
    return usual


def _spread(count: int) -> list[int]:
    """At most `MAX_IMAGES` numbers from all over 0 ... count - 1."""
    return list(range(0, count, -(-count // MAX_IMAGES)))


def _batches(batches: Any, rows: list[int], size: int) -> Iterator[Tensor]:
    for start in range(0, len(rows), size):
        yield batches.__getitems__(rows[start : start + size])["pixel_values"]


__all__ = ["MAX_IMAGES", "record_usual_images"]
