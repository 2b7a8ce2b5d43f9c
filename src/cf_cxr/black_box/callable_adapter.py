"""Adapter to any Python function: Keras models, ONNX sessions, remote services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import BlackBoxError
from .fingerprints import behaviour_digest
from .module_adapter import OutputClassifier


class CallableImageClassifier(OutputClassifier):
    """A classifier that is only known by its answers. It has no gradients; see `distil` for a student that has.

    Args:
        fn: float32 array `(N, 1, H, W)` in [-1, 1] to probabilities `(N,)`, `(N, 1)` or `(N, C)`: numpy, lists, or
            whatever `numpy.asarray` reads (tensors of TensorFlow, Keras, JAX). It should not depend on batch mates.
        class_name: the class whose posterior it gives.
        identity: a string that names this version of the classifier, e.g. a model's address and version; it goes
            into the fingerprint. Without, the fingerprint is made of the answers, to 0.001, to eight built-in
            pictures, which another machine may round differently.
        preprocess: before `fn`; as for `from_module`. E.g. `{"size": (224, 224), "value_range": (0, 255)}`.
        channels_last: whether `fn` reads `(N, H, W, C)`, as Keras models do.
        index: the column, where `fn` answers for several classes.
        activation: `"sigmoid"` or `"softmax"` for a function that gives logits.
        threshold: decision boundary.
        probe_size: side in pixels of the built-in pictures, for a function that reads one size only.

    Raises:
        BlackBoxError: for something that cannot be called, no class name, or an unknown activation.
    """

    def __init__(
        self,
        fn: Callable[[np.ndarray], Any],
        class_name: str,
        identity: str | None = None,
        preprocess: Any = None,
        channels_last: bool = False,
        index: int | None = None,
        activation: str | None = None,
        threshold: float = 0.5,
        probe_size: int = 128,
    ) -> None:
        if not callable(fn):
            raise BlackBoxError(f"from_callable needs a function, got {type(fn)}.")
        super().__init__(class_name, threshold, False, preprocess, index, activation)
        # In a tuple, so that a callable that is a module is not registered: it stays on its own device.
        self._fn = (fn,)
        self.identity, self.channels_last, self.probe_size = identity, channels_last, probe_size
        self._behaviour: dict[float | None, list[float]] = {}  # by operating point

    def compute_posterior(self, pixel_values: Tensor) -> Tensor:
        """The function's answer to a contiguous float32 array, as a tensor on the images' device."""
        pixels = self.preprocess(pixel_values).detach().float()
        if self.channels_last:
            pixels = pixels.permute(0, 2, 3, 1)
        answer = self._fn[0](np.ascontiguousarray(pixels.cpu().numpy()))
        if isinstance(answer, Tensor):
            output = answer.detach().float()
        else:
            try:
                output = torch.from_numpy(np.array(answer, dtype=np.float32))
            except (TypeError, ValueError) as error:
                raise BlackBoxError(
                    f"{self.who} answers with {type(answer).__name__}, which is no array of numbers ({error}); it must "
                    "give (N,) or (N, classes)."
                ) from error
        return self.select(output.to(pixel_values.device), len(pixel_values))

    def describe(self) -> dict[str, Any]:
        """The given identity, or the posteriors of probe images (asked for once)."""
        description = super().describe()
        description["output"].append(self.channels_last)
        if self.identity is not None:
            return {"identity": self.identity, **description}
        if self.operating_point not in self._behaviour:
            self._behaviour[self.operating_point] = behaviour_digest(self.posterior, self.probe_size)
        behaviour = self._behaviour[self.operating_point]
        return {"behaviour": behaviour, "probe_size": self.probe_size, **description}


from_callable = CallableImageClassifier
