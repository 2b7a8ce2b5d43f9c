"""Adapter to TorchXRayVision's classifiers (Cohen et al., MIDL 2022), without importing that library."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .checks import BlackBoxError, find_name
from .module_adapter import ModuleImageClassifier
from .preprocessing import RadiographPreprocessing

VALUE_RANGE = (-1024.0, 1024.0)
_SIZE = 224


class TorchXRayVisionClassifier(ModuleImageClassifier):
    """One pathology of a `torchxrayvision.models.DenseNet` or `ResNet`, or of a module made like those.

    Such networks read one channel in [-1024, 1024]. With operating points (`op_threshs`, as the published weights
    have them) they answer with probabilities rescaled so that 0.5 is the operating point: below it p / (2 t),
    above it 1 - (1 - p) / (2 (1 - t)). Without, they answer with logits unless `apply_sigmoid` is set.

    Args:
        model: has `pathologies` (or `targets`); empty names are outputs that were not trained.
        pathology: a name among those; case, and underscores for spaces, do not matter.
        size: side of the square that the network reads; that of its own resizing, else 224.
        class_name: what to call the class; the pathology if absent.
        threshold: decision boundary; 0.5 is the operating point where there is one.

    Raises:
        BlackBoxError: for no or unknown pathologies, one without an operating point where others have one (its
            answer would always be 0.5), or a sigmoid that would be applied twice.
    """

    def __init__(
        self,
        model: nn.Module,
        pathology: str | None,
        size: int | None = None,
        class_name: str | None = None,
        threshold: float = 0.5,
    ) -> None:
        kind, names = type(model).__name__, getattr(model, "pathologies", None)
        names = names if names is not None else getattr(model, "targets", None)
        if names is None:
            raise BlackBoxError(
                f"{kind} has no list of pathologies; use from_module with the index of the output."
            )
        names = [str(n) for n in names]
        index = find_name(pathology, names, "pathology")
        points, own_sigmoid = operating_points(model), bool(getattr(model, "apply_sigmoid", False))
        if points is not None:
            if len(points) != len(names):
                raise BlackBoxError(
                    f"{kind} has {len(points)} operating points for {len(names)} pathologies."
                )
            if math.isnan(float(points[index])):
                usable = [n for n, t in zip(names, points.tolist()) if n and not math.isnan(t)]
                raise BlackBoxError(
                    f"{names[index]!r} has no operating point in these weights, which were not trained for it: its "
                    f"answer is always 0.5. They know {', '.join(usable)}."
                )
            if own_sigmoid:
                raise BlackBoxError(
                    "apply_sigmoid=True together with operating points applies the sigmoid twice; set "
                    "model.apply_sigmoid = False."
                )
        side = size or getattr(getattr(model, "upsample", None), "size", None) or _SIZE
        side = int(side[0] if isinstance(side, (tuple, list)) else side)
        super().__init__(
            model,
            RadiographPreprocessing(size=(side, side), channels=1, value_range=VALUE_RANGE),
            index,
            None if points is not None or own_sigmoid else "sigmoid",
            class_name or names[index],
            threshold,
        )

    def describe(self) -> dict[str, Any]:
        points = operating_points(self.module)
        point = None if points is None else float(points[self.index])
        return {**super().describe(), "operating_point": point}


from_torchxrayvision = TorchXRayVisionClassifier


def operating_points(model: nn.Module) -> Tensor | None:
    """`op_threshs` of a module as a tensor, NaN where there is none; None for a module without."""
    points = getattr(model, "op_threshs", None)
    return None if points is None else torch.as_tensor(points, dtype=torch.float32).detach().cpu().flatten()
