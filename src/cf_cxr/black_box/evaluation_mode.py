"""A module that belongs to somebody else is asked, never changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen_evaluation(module: nn.Module) -> Iterator[None]:
    """Inside: evaluation mode, parameters without gradients. Afterwards: every flag as it was.

    In evaluation mode dropout is off and batch norm uses its running statistics, so an answer depends on its
    image only. Graphs made inside lead to the inputs and not to the parameters. Flags are set one by one, without
    `train()`, which a model may have overridden. Only modules that are registered are
    reached, and two threads should not use one module.
    """
    training = [m for m in module.modules() if m.training]
    trainable = [p for p in module.parameters() if p.requires_grad]
    try:
        for m in training:
            m.training = False
        for p in trainable:
            p.requires_grad_(False)
        yield
    finally:
        for m in training:
            m.training = True
        for p in trainable:
            p.requires_grad_(True)
