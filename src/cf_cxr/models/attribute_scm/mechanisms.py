"""Mechanisms of the attribute SCM: conditional distributions p(value | parents) that can be inverted exactly.

A mechanism writes its variable as a function of the parents and of exogenous noise with a fixed law,
`value = decode(noise, parents)`. `abduct` samples the noise from its posterior given the value, so that
`decode(abduct(value, parents), parents)` returns the value. Parameters may be stored in any float type; the
arithmetic is float64 (float32 on MPS, which has nothing wider), because a null intervention must be exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import AffineTransform, Normal, SigmoidTransform, Transform
from transformers.activations import ACT2FN
from zuko.transforms import MonotonicRQSTransform

from ...attributes import Attribute
from .configuration_attribute_scm import AttributeSCMConfig


def precise_dtype(device: torch.device) -> torch.dtype:
    """The widest float type the device computes in."""
    return torch.float32 if device.type == "mps" else torch.float64


def draw(law: str, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard `"normal"` or `"gumbel"` noise, of `like`'s shape, device and type.

    Drawn on the generator's device, so that a CPU generator gives the same numbers on every device.
    """
    device = like.device if generator is None else generator.device
    noise = torch.empty(like.shape, dtype=like.dtype, device=device)
    if law == "normal":
        return noise.normal_(generator=generator).to(like)
    tiny = torch.finfo(noise.dtype).tiny
    return -noise.exponential_(generator=generator).clamp_min(tiny).log().to(like)


class Conditioner(nn.Module):
    """theta(parents): a free vector for a root variable, otherwise a multi-layer perceptron of the parents.

    Args:
        parent_dim: width of the encoded parents; 0 for a root.
        out_dim: number of parameters theta.
    """

    def __init__(self, parent_dim: int, out_dim: int, hidden_sizes: Sequence[int], hidden_act: str):
        super().__init__()
        widths = [parent_dim, *hidden_sizes, out_dim] if parent_dim else []
        self.root = None if parent_dim else nn.Parameter(torch.zeros(out_dim))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
        self.activation = ACT2FN[hidden_act]

    def forward(self, parents: Tensor) -> Tensor:
        """Parents `(B, parent_dim)` to theta `(B, out_dim)` in the precise type."""
        h = parents.to(precise_dtype(parents.device))
        if self.root is not None:
            return self.root.to(h.dtype).expand(len(h), -1)
        for i, layer in enumerate(self.layers):
            h = self.activation(h) if i else h
            h = F.linear(h, layer.weight.to(h.dtype), layer.bias.to(h.dtype))
        return h


class GumbelMaxMechanism(nn.Module):
    r"""A discrete variable with logits l(pa): value = argmax_i (l_i + γ_i), γ_i ~ Gumbel(0, 1) independent.

    Abduction (Oberst & Sontag, ICML 2019, as corrected in design section 2). Let g_i = l_i + γ_i. Given that k
    won, the maximum g_k ~ Gumbel(logsumexp(l)) does not depend on which k won, and every other g_i is a
    Gumbel(l_i) truncated to g_i < g_k. With G ~ Gumbel(l_i), the truncated variable is
    -log(exp(-G) + exp(-g_k)), which `logaddexp` evaluates without overflow. The noise is γ_i = g_i - l_i for
    every i, k included, so that decoding with the same logits returns k with probability 1, and neither the
    noise nor the answer changes when a constant is added to all logits.
    """

    def __init__(self, attribute: Attribute, parent_dim: int, config: AttributeSCMConfig):
        super().__init__()
        self.conditioner = Conditioner(
            parent_dim, attribute.n_classes, config.hidden_sizes, config.hidden_act
        )

    def forward(self, parents: Tensor) -> Tensor:
        """Logits `(B, n_classes)` given the encoded parents `(B, parent_dim)`."""
        return self.conditioner(parents)

    def log_prob(self, value: Tensor, parents: Tensor) -> Tensor:
        """Log probability `(B,)` of class indices `(B,)`, in nats."""
        return self(parents).log_softmax(-1).gather(-1, value.long()[:, None])[:, 0]

    def sample(self, parents: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Class indices `(B,)` as floats."""
        return self.decode(draw("gumbel", self(parents), generator), parents)

    def abduct(self, value: Tensor, parents: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noise γ `(B, n_classes)`, a draw from its posterior given the class index `(B,)`."""
        logits = self(parents)
        observed = F.one_hot(value.long(), logits.shape[-1]).bool()
        gumbel = draw("gumbel", logits, generator)
        maximum = logits.logsumexp(-1, keepdim=True) + gumbel[observed][:, None]
        others = -torch.logaddexp(-(gumbel + logits), -maximum)
        return torch.where(observed, maximum, others) - logits

    def decode(self, noise: Tensor, parents: Tensor) -> Tensor:
        """Class indices `(B,)`, as floats, from noise `(B, n_classes)`."""
        return (noise + self(parents)).argmax(-1).to(noise.dtype)


class SplineFlowMechanism(nn.Module):
    r"""A continuous variable on [minimum, maximum]: a conditional neural spline flow with base N(0, 1).

    noise = S_T ∘ … ∘ S_1 (logit(p)), with p = δ + (1 - 2δ)(value - minimum) / (maximum - minimum) and monotonic
    rational-quadratic splines S_t (Durkan et al., Neural Spline Flows, NeurIPS 2019) whose knots are functions
    of the parents. δ = 0.01 puts the ends of the range at logits ±4.6, inside the splines' domain [-5, 5]:
    both ends have finite density. Abduction is this map, decoding its analytic inverse.
    """

    edge = 0.01

    def __init__(self, attribute: Attribute, parent_dim: int, config: AttributeSCMConfig):
        super().__init__()
        self.minimum, self.maximum, bins = attribute.minimum, attribute.maximum, config.num_bins
        self.shape, self.parts = (config.num_transforms, 3 * bins - 1), (bins, bins, bins - 1)
        self.conditioner = Conditioner(
            parent_dim, math.prod(self.shape), config.hidden_sizes, config.hidden_act
        )

    def forward(self, parents: Tensor) -> list[Transform]:
        """The maps that lead from value to noise, one after the other, given the encoded parents `(B, parent_dim)`."""
        theta = self.conditioner(parents)
        scale = (1 - 2 * self.edge) / (self.maximum - self.minimum)
        splines = [
            MonotonicRQSTransform(*t.split(self.parts, -1))
            for t in theta.unflatten(-1, self.shape).unbind(-2)
        ]
        to_unit = AffineTransform(self.edge - self.minimum * scale, scale)
        return [to_unit, SigmoidTransform().inv, *splines]

    def log_prob(self, value: Tensor, parents: Tensor) -> Tensor:
        """Log density `(B,)` of values `(B,)`, in nats per unit of the variable."""
        noise, log_det = value.to(precise_dtype(value.device)), 0.0
        for transform in self(parents):
            noise, change = transform.call_and_ladj(noise)
            log_det = log_det + change
        return Normal(0.0, 1.0, validate_args=False).log_prob(noise) + log_det

    def sample(self, parents: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Values `(B,)` in units, within the range."""
        like = parents.new_empty(len(parents), dtype=precise_dtype(parents.device))
        return self.decode(draw("normal", like, generator), parents)

    def abduct(self, value: Tensor, parents: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noise `(B,)`; a function of the value, so the generator is not used."""
        noise = value.to(precise_dtype(value.device))
        for transform in self(parents):
            noise = transform(noise)
        return noise

    def decode(self, noise: Tensor, parents: Tensor) -> Tensor:
        """Values `(B,)` in units from noise `(B,)`, clamped to the range."""
        value = noise
        for transform in reversed(self(parents)):
            value = transform.inv(value)
        return value.clamp(self.minimum, self.maximum)


MECHANISMS = {
    "binary": GumbelMaxMechanism,
    "categorical": GumbelMaxMechanism,
    "continuous": SplineFlowMechanism,
}
