"""Adapter to any `torch.nn.Module`: torchvision, timm, one's own; and what all adapters of foreign outputs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .checks import BlackBoxError
from .classifier import ImageClassifier
from .fingerprints import module_digest, transform_digest
from .preprocessing import as_preprocessing

ACTIVATIONS = ("sigmoid", "softmax", None)


class OutputClassifier(ImageClassifier):
    """A classifier that prepares its images and answers with one of several outputs.

    Args:
        class_name, threshold, differentiable: see `ImageClassifier`.
        preprocess: see `as_preprocessing`.
        index: the output; may be None where there is only one.
        activation: `"sigmoid"`, `"softmax"` over the outputs, or None for probabilities.

    Raises:
        BlackBoxError: for settings that cannot be.
    """

    def __init__(
        self,
        class_name: str,
        threshold: float,
        differentiable: bool,
        preprocess: Any,
        index: int | None,
        activation: str | None,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise BlackBoxError(
                f"activation={activation!r} is unknown: give 'sigmoid' (independent findings), 'softmax' (exclusive "
                "classes), or None where the output is a probability already."
            )
        if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
            raise BlackBoxError(
                f"index={index!r} must be a whole number of at least 0, counted from the first class."
            )
        super().__init__(class_name, threshold, differentiable)
        self.index, self.activation, self.preprocess = index, activation, as_preprocessing(preprocess)

    def describe(self) -> dict[str, Any]:
        """Output, and settings of the preprocessing where they are known, else what it makes of probe images."""
        known = hasattr(self.preprocess, "to_dict")
        return {
            "output": [self.index or 0, self.activation],
            "preprocess": self.preprocess.to_dict() if known else transform_digest(self.preprocess),
        }

    def select(self, output: Tensor, count: int) -> Tensor:
        """Posterior `(N,)` of the class.

        Args:
            output: `(N,)`, `(N, 1)` or `(N, C)`.
            count: N as it must be.

        Raises:
            BlackBoxError: for another shape, no index where there are several classes, an index out of range, or a
                softmax over one class.
        """
        if output.ndim not in (1, 2) or len(output) != count:
            raise BlackBoxError(
                f"{self.who} was asked about {count} images and must answer with ({count},) or ({count}, classes), got "
                f"the shape {tuple(output.shape)}."
            )
        output = (output[:, None] if output.ndim == 1 else output).float()
        classes, index = output.shape[1], self.index or 0
        if self.index is None and classes > 1:
            raise BlackBoxError(
                f"{self.who} answers for {classes} classes: say which by index=0 to {classes - 1}."
            )
        if index >= classes:
            raise BlackBoxError(
                f"{self.who} has no class of index {index}: it answers for {classes}, 0 to {classes - 1}."
            )
        if self.activation == "softmax" and classes == 1:
            raise BlackBoxError(
                f"{self.who} has a single output, of which a softmax is always 1; use activation='sigmoid'."
            )
        if self.activation == "softmax":
            return output.softmax(1)[:, index]
        return output[:, index].sigmoid() if self.activation == "sigmoid" else output[:, index]


class ModuleImageClassifier(OutputClassifier):
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
        name = class_name or f"output {index or 0}"
        super().__init__(name, threshold, differentiable, preprocess, index, activation)
        self.module = module

    def compute_posterior(self, pixel_values: Tensor) -> Tensor:
        """Preprocessing, network, activation, one output."""
        weights = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        pixels = self.preprocess(pixel_values).to(pixel_values.device, next(weights, torch.float32))
        return self.select(logits_of(self.module(pixels)), len(pixel_values))

    def describe(self) -> dict[str, Any]:
        return {"module": module_digest(self.module), **super().describe()}


from_module = ModuleImageClassifier


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
