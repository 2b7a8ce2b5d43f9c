"""The keyword arguments of a model's forward."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

# transformers' callers hand these to any model; a model that has no use for one leaves it alone, as theirs do.
_OF_TRANSFORMERS = ("num_items_in_batch", "output_attentions", "output_hidden_states")


def check_forward_arguments(model: nn.Module, kwargs: Mapping[str, Any]) -> None:
    """Refuses what is no argument of a model's forward, most often a misspelt one.

    Args:
        model: whose forward it is.
        kwargs: its arguments without a parameter of their own.

    Raises:
        TypeError: naming the argument and those that there are.
    """
    if unknown := [name for name in kwargs if name not in _OF_TRANSFORMERS]:
        parameters = inspect.signature(type(model).forward).parameters.values()
        known = [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
        raise TypeError(
            f"{type(model).__name__} has no argument {', '.join(unknown)}; it takes "
            f"{', '.join(dict.fromkeys([*known, 'output_hidden_states', 'return_dict']))}."
        )
