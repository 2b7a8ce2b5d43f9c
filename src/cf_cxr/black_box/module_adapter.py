"""Adapter to any `torch.nn.Module`: torchvision, timm, one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .checks import BlackBoxError
from .classifier import ImageClassifier
from .fingerprints import module_digest, transform_digest
from .preprocessing import as_preprocessing

ACTIVATIONS = ("sigmoid", "softmax", None)


def check_activation(activation: str | None) -> str | None:
    """Raises BlackBoxError unless the activation is one of `ACTIVATIONS`."""
    if activation not in ACTIVATIONS:
        raise BlackBoxError(
            f"activation={activation!r} is unknown: give 'sigmoid' (independent findings), 'softmax' (exclusive "
            "classes), or None where the output is a probability already."
        )
    return activation


def check_index(index: Any) -> int | None:
    """Raises BlackBoxError for an index that is not a whole number of at least 0; None passes."""
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
        raise BlackBoxError(
            f"index={index!r} must be a whole number of at least 0, counted from the first class."
        )
    return index


def logits_of(output: Any) -> Tensor:
    """The tensor in a network's output: itself, or `logits` of a `ModelOutput` or mapping.

    Raises:
        BlackBoxError: where there is none.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise BlackBoxError(
        f"The network answers with {type(output).__name__}, neither a tensor nor something with logits; wrap it in a "
        "module that returns the tensor (N, classes)."
    )


def select_class(output: Tensor, index: int | None, activation: str | None, count: int, who: str) -> Tensor:
    """Posterior `(N,)` of one class.

    Args:
        output: `(N,)`, `(N, 1)` or `(N, C)`.
        index: the class; may be None for a single output.
        activation: `"sigmoid"`, `"softmax"` over the classes, or None.
        count: N as it must be.
        who: the classifier, for messages.

    Raises:
        BlackBoxError: for another shape, no index where there are several classes, an index out of range, or a
            softmax over one class.
    """
    if output.ndim not in (1, 2) or len(output) != count:
        raise BlackBoxError(
            f"{who} was asked about {count} images and must answer with ({count},) or ({count}, classes), got the "
            f"shape {tuple(output.shape)}."
        )
    output = output[:, None] if output.ndim == 1 else output
    classes = output.shape[1]
    if index is None and classes > 1:
        raise BlackBoxError(f"{who} answers for {classes} classes: say which by index=0 to {classes - 1}.")
    index = index or 0
    if index >= classes:
        raise BlackBoxError(
            f"{who} has no class of index {index}: it answers for {classes}, 0 to {classes - 1}."
        )
    if activation == "softmax" and classes == 1:
        raise BlackBoxError(
            f"{who} has a single output, of which a softmax is always 1; use activation='sigmoid'."
        )
    output = output.float()
    if activation == "softmax":
        return output.softmax(1)[:, index]
    return output[:, index].sigmoid() if activation == "sigmoid" else output[:, index]


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


__all__ = [
    "ACTIVATIONS",
    "ModuleImageClassifier",
    "check_activation",
    "check_index",
    "describe_preprocessing",
    "from_module",
    "logits_of",
    "select_class",
]
