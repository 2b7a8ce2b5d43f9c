"""What a classifier reads and answers is checked at every call, with messages for people."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..tensor_checks import check_range

_LISTED = 30  # names shown in a message; ImageNet models have a thousand


class BlackBoxError(ValueError):
    """A classifier, or an answer of it, cannot be used; the message says what is wrong and what to do."""


def find_name(name: str | None, names: Sequence[str], what: str) -> int:
    """Position of a name in a list, without regard to case, underscores and spaces at the ends.

    Args:
        name: what the user asks for; None: nothing yet.
        names: what there is; empty names are never found.
        what: what the names are, for the message, e.g. `"label"`.

    Raises:
        BlackBoxError: for no name or one that is not there, with the names, or one that is there twice.
    """
    known = [n for n in names if n]
    listed = ", ".join(repr(n) for n in known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
    if name is None:
        raise BlackBoxError(f"Say which class is explained: class_name= one of {listed}.")
    plain = [_plain(n) for n in names]
    found = [i for i, n in enumerate(names) if n and n == name]
    found = found or [i for i, n in enumerate(plain) if n and n == _plain(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise BlackBoxError(f"The {what} {name!r} occurs {len(found)} times (positions {found}); give one.")
    close = difflib.get_close_matches(_plain(name), [p for p in plain if p], n=1)
    hint = f" Did you mean {names[plain.index(close[0])]!r}?" if close else ""
    raise BlackBoxError(f"Unknown {what} {name!r}; this classifier has {listed}.{hint}")


def same_name(first: str, second: str) -> bool:
    """Whether two names are one, without regard to case, underscores and spaces at the ends."""
    return _plain(first) == _plain(second)


def _plain(name: str) -> str:
    return str(name).replace("_", " ").strip().casefold()


# Rounding of a softmax in half precision may leave [0, 1] by this much; such values are clamped.
POSTERIOR_TOLERANCE = 1e-3
# A posterior that varies less than this over different images is constant.
MIN_SPREAD = 1e-6
# Two answers to one image may differ by this much: half precision, or sums in another order.
REPEAT_TOLERANCE = 0.01


def check_images(pixel_values: Tensor) -> Tensor:
    """Images `(N, 1, H, W)`, floating, N of at least 1, in [-1, 1] (see `check_range`).

    Raises:
        BlackBoxError: otherwise, naming the shape or the value.
    """
    if not isinstance(pixel_values, Tensor) or not pixel_values.is_floating_point():
        kind = f"a tensor of {pixel_values.dtype}" if isinstance(pixel_values, Tensor) else type(pixel_values)
        raise BlackBoxError(
            f"A classifier reads a floating point tensor (N, 1, H, W) in [-1, 1], got {kind}; CXRImageProcessor "
            "makes such tensors of files, arrays and pictures."
        )
    if pixel_values.ndim != 4 or pixel_values.shape[1] != 1 or pixel_values.numel() == 0:
        raise BlackBoxError(
            f"A classifier reads grey images (N, 1, H, W) with N of at least 1, got {tuple(pixel_values.shape)}; "
            "its adapter makes three channels of them where the network wants that."
        )
    check_range(*(float(v) for v in torch.aminmax(pixel_values.detach())), "Pixel values", BlackBoxError)
    return pixel_values


def check_posterior(posterior: Tensor, count: int, who: str = "the classifier") -> Tensor:
    """A classifier's answer to `count` images, as float32 `(count,)` in [0, 1]; keeps the graph.

    Args:
        posterior: `(count,)`.
        count: number of images asked about.
        who: the classifier, for the message.

    Raises:
        BlackBoxError: not a tensor of numbers, another shape, NaN or infinity, values outside [0, 1].
    """
    if not isinstance(posterior, Tensor):
        raise BlackBoxError(
            f"{who} must answer with a tensor of posteriors ({count},), got {type(posterior)}."
        )
    if tuple(posterior.shape) != (count,):
        raise BlackBoxError(
            f"{who} was asked about {count} images and must answer with one posterior each, ({count},), got the "
            f"shape {tuple(posterior.shape)}. Give the index of the class if it answers for several; drop a last axis of "
            "one."
        )
    posterior = posterior.float()
    values = posterior.detach()
    inside = (values >= -POSTERIOR_TOLERANCE) & (values <= 1 + POSTERIOR_TOLERANCE)
    if bool(inside.all()):
        return posterior.clamp(0, 1)
    wrong = ~values.isfinite() if not bool(values.isfinite().all()) else ~inside
    row = int(wrong.nonzero()[0])
    value = float(values[row])
    if not bool(values.isfinite().all()):
        raise BlackBoxError(
            f"{who} answers {value} to image {row} of {count}. Look for weights that diverged, half precision that "
            "overflows, or a preprocessing that divides by zero."
        )
    raise BlackBoxError(
        f"{who} answers {value:g} to image {row} of {count}, which is no probability; its answers go from "
        f"{float(values.min()):g} to {float(values.max()):g}. This looks like logits: pass activation='sigmoid' "
        "(independent findings) or activation='softmax' (exclusive classes)"
        + (", or divide percentages by 100." if 1 < float(values.max()) <= 100 and value > 1 else ".")
    )


def check_not_constant(posterior: Tensor, who: str = "the classifier", minimum: float = MIN_SPREAD) -> Tensor:
    """Posteriors `(N,)` of different images that are not all the same.

    A single posterior says nothing and passes.

    Raises:
        BlackBoxError: where all lie within `minimum`: there is no decision to explain.
    """
    if len(posterior) > 1:
        low, high = (float(v) for v in torch.aminmax(posterior.detach().float()))
        if not high - low > minimum:
            raise BlackBoxError(
                f"{who} answers {low:g} to all of {len(posterior)} images: a constant has no explanation. Check "
                "the class index, the preprocessing (range, mean, std) and that trained weights are loaded."
            )
    return posterior


def check_repeated(first: Tensor, again: Tensor, who: str = "the classifier") -> Tensor:
    """Posteriors `(N,)` that were the same when asked for again, to `REPEAT_TOLERANCE`.

    Raises:
        BlackBoxError: where one was not: what the classifier says is chance, or depends on the other images.
    """
    apart = (first - again).abs()
    row = int(apart.argmax())
    if float(apart[row]) > REPEAT_TOLERANCE:
        raise BlackBoxError(
            f"{who} answers {float(first[row]):g} and, asked again with other images beside it, {float(again[row]):g} "
            "to the same image: that has no explanation. Put the network into evaluation mode (dropout, batch "
            "norm), switch off random augmentation, and let it judge each image by itself."
        )
    return first
