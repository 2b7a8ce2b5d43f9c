"""What the numbers of a classifier's heads mean, one class per kind of attribute."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from ...attributes import Attribute

# Log standard deviation of a continuous attribute, normalised to [-1, 1]: 0.25 to 370 years on a range of 100.
LOG_SIGMA_RANGE = (-5.3, 2.0)
# Where a temperature is looked for: perfectly separated validation data would otherwise drive it to 0.
TEMPERATURE_RANGE = (0.05, 20.0)


class BinaryHead:
    """One logit, of class 1. All logits `(B,)` are float32.

    Args:
        attribute: that the head answers about.
    """

    def __init__(self, attribute: Attribute):
        self.attribute = attribute

    @property
    def width(self) -> int:
        """Number of outputs."""
        return 1

    def split(self, outputs: Tensor) -> Tensor:
        """The logits of outputs `(B, width)`."""
        return outputs[:, 0]

    def calibrate(self, logits: Tensor, temperature: float) -> Tensor:
        """Logits of another certainty, and the same decision: over T, or with sigma times T."""
        return logits / temperature

    def nll(self, logits: Tensor, value: Tensor) -> Tensor:
        """Negative log-likelihood `(B,)` in nats of raw values; 0, without gradient, where they are NaN.

        A continuous attribute's density is that of the value mapped to [-1, 1].
        """
        known = ~value.isnan()
        nll = self._nll(logits, value.nan_to_num(0.0).float(), known)
        return torch.where(known, nll, torch.zeros_like(nll))

    def _nll(self, logits: Tensor, value: Tensor, known: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, value, reduction="none")

    def target_loss(self, readout: Tensor, target: Tensor) -> Tensor:
        """Disagreement `(B,)` with targets `(B, size)`: binary or categorical cross-entropy with probabilities, or ten
        times the squared error of the mean on [-1, 1], which is small beside them."""
        return F.binary_cross_entropy_with_logits(readout, target, reduction="none")[:, 0]

    def posterior(self, logits: Tensor) -> Any:
        """The probability of class 1 `(B,)`, probabilities `(B, C)`, or mean and standard deviation in units."""
        return logits.sigmoid()

    def mode(self, posterior: Any) -> Tensor:
        """The most probable raw value `(B,)` of a posterior, within the range."""
        return (posterior > 0.5).to(posterior.dtype)

    def records(self, posterior: Any) -> list[dict[str, float]]:
        """One dictionary per image: `{class: probability}`, or `{"mean", "std"}` in units."""
        value = posterior.float().cpu()
        return self._table(torch.stack([1 - value, value], dim=1))

    def _table(self, probabilities: Tensor) -> list[dict[str, float]]:
        return [dict(zip(self.attribute.categories, row)) for row in probabilities.tolist()]

    def readout(self, logits: Tensor) -> Tensor:
        """The answer on an unbounded scale `(B, size)`: the logit; centred log probabilities; the mean on [-1, 1]."""
        return logits[:, None]

    def target(self, readout: Tensor) -> Tensor:
        """The target of `target_loss` that a readout asks for: probabilities, or the mean itself."""
        return readout.sigmoid()

    def temperature(self, logits: Tensor, value: Tensor) -> float:
        """The T of `calibrate` that makes known values most likely, within `TEMPERATURE_RANGE`.

        Temperature scaling (Guo et al., ICML 2017) by bounded scalar search on log T, where the likelihood has one
        optimum; in closed form, sqrt(mean(((y - mu) / sigma)²)), for a continuous attribute.
        """
        result = minimize_scalar(
            lambda log_t: self.nll(logits / math.exp(log_t), value).double().mean().item(),
            bounds=tuple(math.log(t) for t in TEMPERATURE_RANGE),
            method="bounded",
            options={"xatol": 1e-4},
        )
        return math.exp(result.x)


class CategoricalHead(BinaryHead):
    """Logits `(B, C)`."""

    @property
    def width(self) -> int:
        return self.attribute.n_classes

    def split(self, outputs: Tensor) -> Tensor:
        return outputs

    def _nll(self, logits: Tensor, value: Tensor, known: Tensor) -> Tensor:
        return F.cross_entropy(logits, value.long(), reduction="none")

    def target_loss(self, readout: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(readout, target, reduction="none")

    def posterior(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def mode(self, posterior: Tensor) -> Tensor:
        return posterior.argmax(-1).to(posterior.dtype)

    def records(self, posterior: Tensor) -> list[dict[str, float]]:
        return self._table(posterior.float().cpu())

    def readout(self, logits: Tensor) -> Tensor:
        return logits - logits.mean(1, keepdim=True)

    def target(self, readout: Tensor) -> Tensor:
        return readout.softmax(1)


class ContinuousHead(BinaryHead):
    """Mean and log standard deviation `(B, 2)` of a normal law over the range mapped to [-1, 1]."""

    @property
    def width(self) -> int:
        return 2

    def split(self, outputs: Tensor) -> Tensor:
        return torch.stack([outputs[:, 0], outputs[:, 1].clamp(*LOG_SIGMA_RANGE)], dim=1)

    def calibrate(self, logits: Tensor, temperature: float) -> Tensor:
        mean, log_sigma = logits.unbind(1)
        return torch.stack([mean, log_sigma + math.log(temperature)], dim=1)

    def _nll(self, logits: Tensor, value: Tensor, known: Tensor) -> Tensor:
        mean, log_sigma = logits.unbind(1)
        target = torch.where(known, self.attribute.encode(value)[:, 0], mean.detach())
        return 0.5 * ((target - mean) * torch.exp(-log_sigma)) ** 2 + log_sigma + 0.5 * math.log(2 * math.pi)

    def target_loss(self, readout: Tensor, target: Tensor) -> Tensor:
        return 10 * (readout - target).square()[:, 0]

    def posterior(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        a = self.attribute
        half_range = (a.maximum - a.minimum) / 2
        mean, log_sigma = logits.unbind(1)
        return (mean + 1) * half_range + a.minimum, log_sigma.exp() * half_range

    def mode(self, posterior: tuple[Tensor, Tensor]) -> Tensor:
        return posterior[0].clamp(self.attribute.minimum, self.attribute.maximum)

    def records(self, posterior: tuple[Tensor, Tensor]) -> list[dict[str, float]]:
        return [dict(zip(("mean", "std"), row)) for row in torch.stack(posterior, 1).float().cpu().tolist()]

    def readout(self, logits: Tensor) -> Tensor:
        return logits[:, :1]

    def target(self, readout: Tensor) -> Tensor:
        return readout

    def temperature(self, logits: Tensor, value: Tensor) -> float:
        mean, log_sigma = logits.unbind(1)
        target = self.attribute.encode(value)[:, 0]
        scale = ((target - mean) / log_sigma.exp()).double().square().mean().sqrt().item()
        return min(max(scale, TEMPERATURE_RANGE[0]), TEMPERATURE_RANGE[1])


HEADS = {"binary": BinaryHead, "categorical": CategoricalHead, "continuous": ContinuousHead}


def attribute_heads(schema: Any) -> dict[str, BinaryHead]:
    """The head of every attribute, by name in schema order."""
    return {a.name: HEADS[a.kind](a) for a in schema}


def split_attribute_logits(logits: Tensor, schema: Any) -> dict[str, Tensor]:
    """Splits head outputs `(B, L)` by attribute, in float32 and uncalibrated.

    Returns:
        name to `(B,)` for binary, `(B, C)` for categorical, `(B, 2)` for continuous: mean and clamped log
        standard deviation on the attribute's range mapped to [-1, 1].

    Raises:
        ValueError: if L does not fit the schema.
    """
    heads = attribute_heads(schema)
    widths = [head.width for head in heads.values()]
    if logits.ndim != 2 or logits.shape[1] != sum(widths):
        raise ValueError(
            f"Expected logits of shape (batch, {sum(widths)}) for {', '.join(heads)}, got {tuple(logits.shape)}."
        )
    parts = logits.float().split(widths, dim=1)
    return {name: head.split(part) for (name, head), part in zip(heads.items(), parts)}
