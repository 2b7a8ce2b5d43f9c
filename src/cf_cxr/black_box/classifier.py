"""The interface behind which every classifier is explained: images to the posterior of one class."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from .checks import (
    MIN_SPREAD,
    BlackBoxError,
    check_images,
    check_not_constant,
    check_posterior,
    check_repeated,
)
from .fingerprints import fingerprint, module_digest, probe_images


def shift_posterior(posterior: Any, operating_point: float) -> Any:
    """Moves log odds so that the operating point o becomes 1/2: f' = f (1 - o) / (f (1 - o) + (1 - f) o).

    Args:
        posterior: f in [0, 1], a number, array or tensor.
        operating_point: o in (0, 1); 1 - o undoes the shift by o.
    """
    present = posterior * (1 - operating_point)
    return present / (present + (1 - posterior) * operating_point)


class ImageClassifier(nn.Module, ABC):
    """A classifier of frontal chest radiographs as a black box: f(x), the posterior of one class (paper B, 2.1).

    Subclasses define `compute_posterior`, and `describe` where weights alone do not say what they compute.

    A classifier answers in evaluation mode, in full precision (outside autocast), and its parameters receive no
    gradient, whatever state the wrapped module is in; that state is the same after a call as before, and
    `train()` leaves it alone. Every answer is checked.

    Args:
        class_name: the class whose posterior this is.
        threshold: decision boundary in (0, 1): the class is said to be present from here on.
        differentiable: whether the posterior has a gradient with respect to the images.

    Raises:
        BlackBoxError: for a threshold outside (0, 1), or no name.
    """

    def __init__(self, class_name: str, threshold: float = 0.5, differentiable: bool = True) -> None:
        super().__init__()
        if not isinstance(class_name, str) or not class_name:
            raise BlackBoxError(
                f"Give the name of the class whose posterior is explained, got class_name={class_name!r}."
            )
        if not isinstance(threshold, Real) or not 0 < threshold < 1:
            raise BlackBoxError(
                f"threshold={threshold!r} must be a number between 0 and 1, both excluded: otherwise one decision "
                "never occurs."
            )
        self.class_name = class_name
        self.threshold = float(threshold)
        self.differentiable = bool(differentiable)
        self.operating_point: float | None = None
        self.training = False

    @abstractmethod
    def compute_posterior(self, pixel_values: Tensor) -> Tensor:
        """Posterior `(N,)` in [0, 1] of checked images `(N, 1, H, W)` in [-1, 1], on this classifier's device."""

    def describe(self) -> dict[str, Any]:
        """What this classifier computes, in JSON's types, for the fingerprint."""
        return {"module": module_digest(self)}

    def fingerprint(self) -> str:
        """`"sha256:..."`; another one if a weight, class, preprocessing, threshold or operating point changes."""
        named = {"adapter": type(self).__name__, "class_name": self.class_name, "threshold": self.threshold}
        description = {**named, **self.describe()}
        if self.operating_point is not None:  # a description may have an operating point of its own
            key = "moved_to" if "operating_point" in description else "operating_point"
            description[key] = self.operating_point
        return fingerprint(description)

    def at_operating_point(self, posterior: float | None) -> ImageClassifier:
        """This classifier with its log odds shifted so that the given posterior o becomes 1/2:

            f' = f (1 - o) / (f (1 - o) + (1 - f) o)

        A classifier of a rare class seldom comes near 1, and most bins of its posterior stay empty. With o the share of
        the class among the training images, f' is the posterior at even prior odds, by Bayes' rule. The order of
        images is the same; the threshold is of f'.

        Args:
            posterior: o in (0, 1); None undoes the shift.

        Raises:
            BlackBoxError: for another o.
        """
        if posterior is not None and (not isinstance(posterior, Real) or not 0 < posterior < 1):
            raise BlackBoxError(f"operating_point={posterior!r} must be between 0 and 1, both excluded.")
        moved = copy.copy(self)
        moved.operating_point = None if posterior is None else float(posterior)
        return moved

    @property
    def device(self) -> torch.device | None:
        """Where the weights are; None for a classifier without weights."""
        weight = next(self.parameters(), next(self.buffers(), None))
        return None if weight is None else weight.device

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Posterior with gradient, where the classifier has one and gradients are enabled.

        Args:
            pixel_values: `(N, 1, H, W)`, floating, in [-1, 1].

        Returns:
            `(N,)`, float32, in [0, 1], on the images' device.

        Raises:
            BlackBoxError: for images or answers that cannot be; see `checks`.
        """
        return self._answer(check_images(pixel_values))

    def _answer(self, pixel_values: Tensor) -> Tensor:
        device = self.device or pixel_values.device
        with (
            nullcontext() if self.differentiable else torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            frozen_evaluation(self),
        ):
            posterior = self.compute_posterior(pixel_values.float().to(device))
        posterior = check_posterior(posterior, len(pixel_values), self.who)
        if self.operating_point is not None:
            posterior = shift_posterior(posterior, self.operating_point)
        if self.differentiable and torch.is_grad_enabled() and pixel_values.requires_grad:
            if not posterior.requires_grad:
                raise BlackBoxError(
                    f"{self.who} is said to be differentiable, but its posterior has no gradient: something in it goes "
                    "through numpy or PIL, detaches or disables gradients. Give a preprocessing of torch operations, or "
                    "pass differentiable=False and train a student (`distil`)."
                )
        return posterior.to(pixel_values.device)

    @torch.no_grad()
    def posterior(self, pixel_values: Tensor, batch_size: int = 32) -> Tensor:
        """Posterior `(N,)`, float32, of many images, in batches and without gradient.

        Raises:
            BlackBoxError: as `forward`, or for a `batch_size` below 1.
        """
        if batch_size < 1:
            raise BlackBoxError(f"batch_size must be at least 1, got {batch_size}.")
        check_images(pixel_values)
        return torch.cat([self._answer(chunk) for chunk in pixel_values.split(batch_size)])

    def decision(self, posterior: Tensor) -> Tensor:
        """Whether the class is said to be present: posterior >= threshold, boolean, of the same shape."""
        return posterior >= self.threshold

    def validate(self, pixel_values: Tensor, batch_size: int = 32) -> Tensor:
        """Everything that can be checked before an explainer is trained, on some different images.

        Args:
            pixel_values: `(N, 1, H, W)` in [-1, 1], N of at least 2, better 32.

        Returns:
            Their posteriors `(N,)`.

        Raises:
            BlackBoxError: as `posterior`; a constant; an answer that is another one when asked again; a gradient that
                is cut, not finite or zero everywhere.
        """
        posterior = check_not_constant(self.posterior(pixel_values, batch_size), self.who)
        self.check_repeatable(pixel_values, posterior)
        if self.differentiable:
            images = pixel_values[:batch_size].detach().clone().requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(self(images).sum(), images)
            finite = bool(gradient.isfinite().all())
            if not finite or not bool(gradient.any()):
                raise BlackBoxError(
                    f"{self.who} has a gradient that is {'zero' if finite else 'NaN or infinite'}; nothing can be trained "
                    "through it. Pass differentiable=False and train a student (`distil`)."
                )
        return posterior

    def check_repeatable(self, pixel_values: Tensor, posterior: Tensor) -> None:
        """Asks about the first eight images again, one by one; see `check_repeated`.

        Args:
            pixel_values: `(N, 1, H, W)` in [-1, 1]. posterior: `(N,)`, the answers so far.
        """
        few = pixel_values[:8]
        check_repeated(posterior[: len(few)], self.posterior(few, batch_size=1), self.who)

    def refuse_constant(self, posterior: Tensor, size: int) -> None:
        """Refuses a classifier that says the same of some images, of the probe images, of black and of white.

        One that is merely certain about the images passes.

        Args:
            posterior: `(N,)`, answers to images. size: their side in pixels.
        """
        if float(posterior.max() - posterior.min()) > MIN_SPREAD:
            return
        probes = probe_images(max(size, 12)).to(posterior.device)
        probes = torch.cat([probes, torch.full_like(probes[:1], -1), torch.full_like(probes[:1], 1)])
        check_not_constant(torch.cat([posterior, self.posterior(probes)]), self.who)

    def train(self, mode: bool = True) -> ImageClassifier:
        """Does nothing: a black box is not trained, and always answers in evaluation mode."""
        return self

    def extra_repr(self) -> str:
        moved = "" if self.operating_point is None else f", operating_point={self.operating_point:g}"
        return f"class_name={self.class_name!r}, threshold={self.threshold:g}, differentiable={self.differentiable}{moved}"

    @property
    def who(self) -> str:
        """This classifier in messages."""
        return f"The classifier of {self.class_name!r}"


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
