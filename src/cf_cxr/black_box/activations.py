"""From the output of a network or service to the posterior of one class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .errors import BlackBoxError

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


__all__ = ["ACTIVATIONS", "check_activation", "check_index", "logits_of", "select_class"]
