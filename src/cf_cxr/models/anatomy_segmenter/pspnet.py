"""TorchXRayVision's PSPNet as an anatomy segmenter, for those who have the library and its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...tensor_checks import check_pixel_values
from .modeling_anatomy_segmenter import thresholds_by_label

#: our labels, each the union of these of the PSPNet's `targets`
PSPNET_LABELS = {"lungs": ("Left Lung", "Right Lung"), "heart": ("Heart",)}
# TorchXRayVision scales 8-bit images to this on either side of zero.
_RANGE = 1024.0


class PSPNetSegmenter(nn.Module):
    """Gives `torchxrayvision.baseline_models.chestx_det.PSPNet` the interface of `AnatomySegmenterModel.segment`.

    Example:
        >>> import torchxrayvision as xrv
        >>> segmenter = PSPNetSegmenter(xrv.baseline_models.chestx_det.PSPNet())
        >>> segmenter.segment(pixel_values)["heart"]

    Args:
        module: maps `(B, 1, S, S)` in [-1024, 1024] to logits `(B, len(targets), h, w)`, and has `targets`, the names
            of its outputs. It knows no devices.
        labels: our label -> the targets whose union it is. Defaults to lungs and heart.
        input_size: side S in pixels to which images are resized for the module; None leaves them as they are.

    Raises:
        ValueError: for a module without `targets`, or a label of a target that it does not have.
    """

    def __init__(
        self,
        module: nn.Module,
        labels: Mapping[str, Sequence[str]] | None = None,
        input_size: int | None = 512,
    ):
        super().__init__()
        targets = list(getattr(module, "targets", None) or ())
        if not targets:
            raise ValueError(
                f"{type(module).__name__} has no 'targets', the names of its outputs; expected "
                "torchxrayvision.baseline_models.chestx_det.PSPNet."
            )
        self.target_labels = {k: tuple(v) for k, v in (PSPNET_LABELS if labels is None else labels).items()}
        unknown = sorted({t for names in self.target_labels.values() for t in names} - set(targets))
        if unknown:
            raise ValueError(f"The module has no target {', '.join(unknown)}; it has {', '.join(targets)}.")
        self.module = module.eval()
        self.targets = targets
        self.input_size = input_size

    @property
    def labels(self) -> list[str]:
        """The labels that `segment` answers."""
        return list(self.target_labels)

    @torch.no_grad()
    def segment(
        self, pixel_values: Tensor, threshold: float | Mapping[str, float] = 0.5
    ) -> dict[str, Tensor]:
        """Binary masks by label, bool `(B, H, W)`: pixels where any target's probability is above the threshold.

        Args:
            pixel_values: `(B, 1, H, W)` in [-1, 1].
            threshold: in (0, 1); one for all labels, or one per label.

        Raises:
            ValueError: for images of another shape or range, a bad threshold, or a module that answers with
                another number of targets than it names.
        """
        check_pixel_values(pixel_values, num_channels=1, multiple=1)
        thresholds = thresholds_by_label(threshold, self.labels)
        size = pixel_values.shape[2:]
        scaled = _resize(pixel_values.float(), self.input_size and (self.input_size,) * 2) * _RANGE
        logits = self.module(scaled)
        if logits.ndim != 4 or logits.shape[:2] != (len(pixel_values), len(self.targets)):
            raise ValueError(
                f"The module must answer with ({len(pixel_values)}, {len(self.targets)}, height, width), got "
                f"{tuple(logits.shape)}."
            )
        probabilities = _resize(logits.float(), size).sigmoid()
        return {
            label: probabilities[:, [self.targets.index(t) for t in names]].amax(1) > thresholds[label]
            for label, names in self.target_labels.items()
        }


def _resize(maps: Tensor, size: Sequence[int] | None) -> Tensor:
    """Bilinear, with anti-aliasing on the way down; unchanged for None or the same size."""
    if size is None or tuple(size) == tuple(maps.shape[2:]):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", antialias=True)
