"""Adapter to any `torch.nn.Module`: torchvision, timm, one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .activations import check_activation, check_index, logits_of, select_class
from .classifier import ImageClassifier
from .errors import BlackBoxError
from .fingerprints import module_digest, transform_digest
from .processor_settings import as_preprocessing


class ModuleImageClassifier(ImageClassifier):
    """One output of a network; see `from_module`."""

    def __init__(
        self,
        module: nn.Module,
        preprocess: Any = None,
        index: int | None = None,
        activation: str | None = "sigmoid",
        class_name: str | None = None,
        threshold: float = 0.5,
        differentiable: bool = True,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise BlackBoxError(
                f"from_module reads a torch.nn.Module, got {type(module)}; see from_callable."
            )
        index = check_index(index)
        super().__init__(class_name or f"output {index or 0}", threshold, differentiable)
        self.module, self.index = module, index
        self.activation = check_activation(activation)
        self.preprocess = as_preprocessing(preprocess)

    def compute_posterior(self, pixel_values: Tensor) -> Tensor:
        """Preprocessing, network, activation, one output."""
        pixels = self.preprocess(pixel_values).to(device=pixel_values.device, dtype=self._dtype())
        output = logits_of(self.module(pixels))
        return select_class(output, self.index, self.activation, len(pixel_values), self._who())

    def describe(self) -> dict[str, Any]:
        return {
            "module": module_digest(self.module),
            "output": [self.index or 0, self.activation],
            "preprocess": describe_preprocessing(self.preprocess),
        }

    def _dtype(self) -> torch.dtype:
        weights = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        return next(weights, torch.float32)


def describe_preprocessing(preprocess: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Settings of a preprocessing where they are known, else what it makes of probe images."""
    if hasattr(preprocess, "to_dict"):
        return preprocess.to_dict()
    return transform_digest(preprocess)


def from_module(
    module: nn.Module,
    preprocess: Any = None,
    index: int | None = None,
    activation: str | None = "sigmoid",
    class_name: str | None = None,
    threshold: float = 0.5,
    differentiable: bool = True,
) -> ModuleImageClassifier:
    """One output of any network.

    Args:
        module: gives `(N,)`, `(N, C)`, or something with such `logits`. On any device, in any mode and precision.
        preprocess: from `(N, 1, H, W)` in [-1, 1] to the network's input; see `as_preprocessing`: an image
            processor, `weights.transforms()` of torchvision, `model.pretrained_cfg` of timm, a mapping of
            `RadiographPreprocessing`'s arguments, a function of torch operations, or None for a network that reads
            this package's images as they are.
        index: the output; may be absent where there is only one.
        activation: `"sigmoid"` (independent findings), `"softmax"` (exclusive classes), or None for a network that
            gives probabilities.
        class_name: what the output stands for.
        threshold: decision boundary.
        differentiable: False for a preprocessing or network that has no gradient.

    Raises:
        BlackBoxError: for settings that cannot be; an index out of range is found at the first call.
    """
    return ModuleImageClassifier(module, preprocess, index, activation, class_name, threshold, differentiable)


__all__ = ["ModuleImageClassifier", "describe_preprocessing", "from_module"]
