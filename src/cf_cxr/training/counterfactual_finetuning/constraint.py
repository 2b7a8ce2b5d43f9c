"""The Lagrangian of counterfactual fine-tuning (A = Xia et al., MICCAI 2024, eq. of the CFT objective)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

# A's values
_LEARNING_RATE = 0.1
_DAMPING = 10.0


@dataclass
class FreeEnergyConstraint:
    """Keeps the free energy FE at or below c while an auxiliary loss is minimised.

        gap = c - FE;   loss = aux - w * gap,   w = max(0, multiplier - damping * sg(gap))

    The weight w is clamped at 0: without the clamp a model that is well inside the constraint is pushed *up* to c.
    The multiplier follows gradient ascent on -multiplier * gap and stays non-negative.

    Args:
        bound: c, in nats per dimension; measure it.
        multiplier: its first value.
    """

    bound: float
    multiplier: float = 0.0

    def loss(self, auxiliary: Tensor, free_energy: Tensor) -> Tensor:
        """The Lagrangian to minimise; a scalar with gradients to both terms."""
        gap = self.bound - free_energy
        return auxiliary - (self.multiplier - _DAMPING * gap.detach()).clamp(min=0) * gap

    def update(self, free_energy: float) -> None:
        """One ascent step on the multiplier, after the model's step."""
        self.multiplier = max(0.0, self.multiplier - _LEARNING_RATE * (self.bound - free_energy))

    def state_dict(self) -> dict[str, float]:
        """For checkpoints."""
        return {"multiplier": self.multiplier, "bound": self.bound}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restores `state_dict`."""
        self.multiplier, self.bound = float(state["multiplier"]), float(state["bound"])
