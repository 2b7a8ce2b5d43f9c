"""The discriminator's side of the training: its optimiser, its steps, and what a checkpoint keeps of both."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...models.progressive_explainer import ExplainerDiscriminator
from ..loop.old_arguments import TrainerArguments
from .losses import discriminator_hinge_loss


class Adversary:
    """A discriminator that learns beside a generator.

    Args:
        discriminator: on its device.
        args: Adam's settings, gradient clip and skip threshold, as of the generator.
        learning_rate: of the discriminator.
    """

    def __init__(
        self, discriminator: ExplainerDiscriminator, args: TrainerArguments, learning_rate: float
    ) -> None:
        self.discriminator, self.learning_rate = discriminator.train(), learning_rate
        self.max_grad_norm = args.max_grad_norm or math.inf
        self.skip_threshold = args.skip_threshold or math.inf
        self.optimizer = torch.optim.AdamW(
            discriminator.parameters(),
            lr=learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What learns."""
        return list(self.discriminator.parameters())

    def loss(self, real: Tensor, real_bins: Tensor, fake: Tensor, fake_bins: Tensor) -> Tensor:
        """Hinge loss of images `(B, 1, H, W)` in their posteriors' bins, and of explanations in their targets'.

        Real and generated images go through in one pass, so that the estimate of the singular values moves once.
        """
        images, bins = torch.cat([real, fake.detach()]), torch.cat([real_bins, fake_bins])
        scores = self.discriminator(images, bins).scores
        return discriminator_hinge_loss(scores[: len(real)], scores[len(real) :])

    def score(self, images: Tensor, bins: Tensor) -> Tensor:
        """Scores `(B,)` with a gradient for the images only."""
        with self._frozen():
            return self.discriminator(images, bins).scores

    def step(self, scale: float) -> tuple[float, bool]:
        """One step along the present gradients, unless they are NaN, infinite or exploding.

        Args:
            scale: multiplies the learning rate: the course of the generator's.

        Returns:
            The gradients' norm, and whether the step was taken.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        good = math.isfinite(float(norm)) and float(norm) <= self.skip_threshold
        if good:
            if math.isfinite(self.max_grad_norm):
                nn.utils.clip_grads_with_norm_(self.parameters, self.max_grad_norm, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * scale
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm), good

    def state_dict(self) -> dict[str, Any]:
        """Weights, singular vectors and optimiser, for a checkpoint."""
        return {
            "discriminator": {n: t.detach().cpu() for n, t in self.discriminator.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            KeyError, ValueError: for another discriminator's state.
        """
        try:
            self.discriminator.load_state_dict(state["discriminator"])
        except RuntimeError as error:
            raise ValueError(f"The checkpoint has another discriminator: {error}") from error
        self.optimizer.load_state_dict(state["optimizer"])

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[None]:
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(True)


__all__ = ["Adversary"]
