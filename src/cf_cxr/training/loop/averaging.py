"""Moving average of weights (diffusers' EMAModel), and of the buffers that go with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import nn


class WeightAverage:
    """Exponential moving average of parameters and floating-point buffers, both by name.

    The buffers (statistics of batch normalisation) are averaged too: averaged weights with the statistics
    of the latest ones would not fit each other. The decay rises to its value over the first steps, as
    (1 + step) / (10 + step).

    Args:
        decay: in (0, 1).
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], buffers: Mapping[str, torch.Tensor], decay: float
    ) -> None:
        self.parameters, self.buffers = dict(parameters), dict(buffers)
        self.ema = EMAModel(self.parameters.values(), decay=decay, foreach=True)
        self.shadow_buffers = {name: buffer.detach().clone() for name, buffer in self.buffers.items()}
        self._applied = False

    @torch.no_grad()
    def step(self) -> None:
        """Move the average towards the present weights."""
        self.ema.step(self.parameters.values())
        for name, buffer in self.buffers.items():
            self.shadow_buffers[name].lerp_(buffer, 1 - self.ema.cur_decay_value)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model holds the averages; nested use changes nothing."""
        if self._applied:
            yield
            return
        kept = [tensor.detach().clone() for tensor in self._current()]
        self.apply()
        self._applied = True
        try:
            yield
        finally:
            _copy(kept, self._current())
            self._applied = False

    def apply(self) -> None:
        """Leave the averages in the model."""
        _copy([*self.ema.shadow_params, *self.shadow_buffers.values()], self._current())

    def save(self, path: Path) -> dict[str, Any]:
        """Write the averages by name to a safetensors file; returns the counters and settings that belong to them."""
        average = {**dict(zip(self.parameters, self.ema.shadow_params, strict=True)), **self.shadow_buffers}
        save_file({name: tensor.contiguous() for name, tensor in average.items()}, str(path))
        return {name: value for name, value in self.ema.state_dict().items() if name != "shadow_params"}

    def load(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Restore what `save` wrote and returned.

        Raises:
            KeyError: a parameter or buffer is missing.
        """
        tensors = load_file(str(path))
        self.ema.load_state_dict({**settings, "shadow_params": self.ema.shadow_params})
        names = [*self.parameters, *self.shadow_buffers]
        _copy([tensors[name] for name in names], [*self.ema.shadow_params, *self.shadow_buffers.values()])

    def _current(self) -> list[torch.Tensor]:
        return [*self.parameters.values(), *self.buffers.values()]


@torch.no_grad()
def _copy(source: list[torch.Tensor], target: list[torch.Tensor]) -> None:
    for new, old in zip(source, target, strict=True):
        old.copy_(new)
