"""Whether a check of values is possible."""

import torch
from torch import Tensor


def has_values(tensor: Tensor) -> bool:
    """True if there are numbers to look at: some elements, not on the meta device, and not while `torch.compile` or
    `torch.export` traces, where a look at the values would end the graph."""
    return not torch.compiler.is_compiling() and not tensor.is_meta and tensor.numel() > 0
