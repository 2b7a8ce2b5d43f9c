"""Losses of overlapping masks, one value per label."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def binary_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean binary cross-entropy per label `(L,)`, in nats, of logits and masks `(N, L, H, W)`."""
    return F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean((0, 2, 3))


def soft_dice_loss(logits: Tensor, masks: Tensor, smoothing: float = 1.0) -> Tensor:
    """Soft Dice loss per label `(L,)`, in [0, 1], over all pixels of the batch:

        1 - (2 sum(p m) + s) / (sum p + sum m + s),   p = sigmoid(logits)

    Sums over the batch rather than per image: most radiographs have no device, and a ratio of nearly empty masks
    would be mostly noise. s (in pixels) makes the loss 0 where neither the batch nor the prediction has the label.

    Args:
        logits: `(N, L, H, W)`.
        masks: `(N, L, H, W)`, in [0, 1].
        smoothing: s.
    """
    p = logits.sigmoid()
    overlap, total = (p * masks).sum((0, 2, 3)), (p + masks).sum((0, 2, 3))
    return 1 - (2 * overlap + smoothing) / (total + smoothing)
