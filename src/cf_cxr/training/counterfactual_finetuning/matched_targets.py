"""Matched targets: what a classifier would say of a *real* image with the intervened value.

Soft targets (A = Xia et al., MICCAI 2024, section 2.4) keep the posterior of untouched variables but still give the
do-variable a hard label, so that intervened images become more typical than real ones. Here a classifier's answer is
itself a variable with a mechanism: its *readout* r_k of attribute k (a logit, a mean) on an image with attributes a is

    r_k = g_k(a) + s_k(a_k) * eps_k,        g_k linear in the coded attributes, s_k a scale per class of attribute k

fitted on real images. The target under do(.) follows by abduction (eps_k from the factual image), action and
prediction: r*_k = g_k(a*) + s_k(a*_k) / s_k(a_k) * (r_k - g_k(a)). An image that looked atypical for its class looks
as atypical for the new one; counterfactuals are as ambiguous as real images; a null intervention asks for no change.
Where both classes are Gaussian with one spread, as in the phantom's factors, r* is what an ideal observer says of the
true counterfactual.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from ...attributes import AttributeSchema
from ...models.attribute_classifier import AttributeClassifierModel, attribute_heads

_NEIGHBOURS = 16  # real images with the closest value among which a continuous variable's readout is drawn


def readouts(logits: Mapping[str, Tensor], schema: AttributeSchema) -> dict[str, Tensor]:
    """A classifier's answers on unbounded scales; differentiable.

    Args:
        logits: per attribute, from `AttributeClassifierModel.calibrated_logits`: `(B,)`, `(B, C)`, `(B, 2)`.

    Returns:
        name -> `(B, d)` float32: the logit of class 1 (d = 1); centred log probabilities (d = C); the mean on
        [-1, 1] over the range (d = 1).
    """
    return {name: head.readout(logits[name].float()) for name, head in attribute_heads(schema).items()}


def attribute_design(attributes: Tensor, schema: AttributeSchema) -> Tensor:
    """Coded attributes `(B, P)` float64: 1; classes but the first as indicators; continuous as t and t² on [-1, 1].

    Args:
        attributes: raw `(B, n)`, all known.
    """
    columns = [torch.ones(len(attributes), dtype=torch.float64)]
    for a, value in zip(schema, attributes.detach().double().cpu().unbind(1), strict=True):
        if a.is_discrete:
            columns += [(value == c).double() for c in range(1, a.n_classes)]
        else:
            t = a.encode(value)[:, 0]
            columns += [t, t.square()]
    return torch.stack(columns, 1)


@dataclass
class ReadoutMechanism:
    """The mechanism of one classifier's readouts given the attributes; see the module's text.

    Attributes:
        coefficients: name -> `(P, d)` of g, for `attribute_design`.
        scale: name -> `(classes, d)` of s; one row for a continuous attribute.
        unit: name -> `(1, d)` residual standard deviation over all images.
        low, high: name -> `(1, d)` smallest and largest readout seen; targets are clamped to them.
        pool, pool_attributes: readouts `(N, d)` and raw attributes `(N, n)` it was fitted on, for `draw`.
    """

    schema: AttributeSchema
    coefficients: dict[str, Tensor]
    scale: dict[str, Tensor]
    unit: dict[str, Tensor]
    low: dict[str, Tensor]
    high: dict[str, Tensor]
    pool: dict[str, Tensor]
    pool_attributes: Tensor

    @classmethod
    def fit(
        cls, values: Mapping[str, Tensor], attributes: Tensor, schema: AttributeSchema
    ) -> ReadoutMechanism:
        """Least squares for g, residual standard deviations for s.

        Args:
            values: readouts of real images, name -> `(N, d)`; use images the classifier was not trained on, on
                training images it is more confident than in reality.
            attributes: their raw attributes `(N, n)`, all known.

        Raises:
            ValueError: a class has fewer than 8 images, or a readout is not finite.
        """
        design = attribute_design(attributes, schema)
        if len(design) <= design.shape[1]:
            raise ValueError(
                f"Matched targets need more than {design.shape[1]} labelled images, got {len(design)}."
            )
        parts: dict[str, dict[str, Tensor]] = {
            key: {} for key in ("coefficients", "scale", "unit", "low", "high", "pool")
        }
        for a in schema:
            r = values[a.name].detach().double().cpu()
            if not r.isfinite().all():
                raise ValueError(f"The classifier's answer on {a.name!r} is not finite for some images.")
            coefficients = torch.linalg.lstsq(design, r, driver="gelsd").solution
            residual = r - design @ coefficients
            column = attributes[:, schema.index(a.name)].cpu()
            groups = [column == c for c in range(a.n_classes)] if a.is_discrete else [column == column]
            for c, group in enumerate(groups):
                if int(group.sum()) < 8:
                    raise ValueError(
                        f"Only {int(group.sum())} images have {a.name} = {a.categories[c]!r}; matched targets need 8 "
                        "of every class to know what such images look like. Use more images, or target_labels=soft."
                    )
            scale = torch.stack([residual[g].square().mean(0).sqrt() for g in groups])
            parts["coefficients"][a.name] = coefficients
            parts["scale"][a.name] = scale.clamp_min(1e-6)
            parts["unit"][a.name] = residual.square().mean(0, keepdim=True).sqrt().clamp_min(1e-6)
            parts["low"][a.name], parts["high"][a.name] = r.amin(0, keepdim=True), r.amax(0, keepdim=True)
            parts["pool"][a.name] = r
        return cls(schema=schema, pool_attributes=attributes.detach().cpu(), **parts)

    def transport(
        self,
        values: Mapping[str, Tensor],
        factual: Tensor,
        counterfactual: Tensor,
        name: str,
        gain: float = 1.0,
    ) -> Tensor:
        """Counterfactual readout r + gain (r* - r) `(B, d)` of one attribute: abduction, action, prediction.

        Args:
            values: readouts of the factual images. factual, counterfactual: raw attributes `(B, n)`.
            gain: 1 asks for r*; more makes up for what other classifiers do not see of the change.
        """
        device, column = values[name].device, self.schema.index(name)
        r = values[name].detach().double().cpu()
        before = attribute_design(factual, self.schema) @ self.coefficients[name]
        after = attribute_design(counterfactual, self.schema) @ self.coefficients[name]
        scale = self.scale[name]
        if self.schema[name].is_discrete:
            old, new = factual[:, column].long().cpu(), counterfactual[:, column].long().cpu()
        else:
            old = new = torch.zeros(len(r), dtype=torch.long)
        moved = (factual != counterfactual).any(1).cpu()
        target = after + scale[new] / scale[old] * (r - before)
        target = r + gain * (target - r)
        target = torch.minimum(torch.maximum(target, self.low[name]), self.high[name])
        return torch.where(moved[:, None], target, r).float().to(device)

    def draw(self, counterfactual: Tensor, name: str, generator: torch.Generator | None = None) -> Tensor:
        """The readout `(B, d)` of a random real image that has the counterfactual value of this attribute."""
        column = self.schema.index(name)
        known, wanted = self.pool_attributes[:, column], counterfactual[:, column].cpu()
        if self.schema[name].is_discrete:
            weight = (known[None] == wanted[:, None]).double()
        else:
            distance = (known[None] - wanted[:, None]).abs()
            limit = distance.kthvalue(min(_NEIGHBOURS, len(known)), dim=1, keepdim=True).values
            weight = (distance <= limit).double()
        chosen = torch.multinomial(weight, 1, generator=generator)[:, 0]
        return self.pool[name][chosen].float().to(counterfactual.device)


def matched_readouts(
    mechanism: ReadoutMechanism,
    values: Mapping[str, Tensor],
    factual: Tensor,
    counterfactual: Tensor,
    affected: Collection[str],
    random: bool = False,
    gain: float = 1.0,
) -> dict[str, Tensor]:
    """Target readouts of every attribute, name -> `(B, d)`, without gradient.

    Args:
        values: readouts of the factual images.
        affected: the do-variables and their descendants; every other variable keeps the readout of its own image.
        random: draw from real images of the intervened value in place of transporting the image's own readout.
        gain: of the transport, see `ReadoutMechanism.transport`.
    """
    out = {}
    for name in mechanism.schema.names:
        if name not in affected:
            out[name] = values[name].detach()
        elif random:
            out[name] = mechanism.draw(counterfactual, name)
        else:
            out[name] = mechanism.transport(values, factual, counterfactual, name, gain)
    return out


def readout_loss(
    values: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    mechanism: ReadoutMechanism,
    names: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Huber loss per attribute between readouts, in units of their residual standard deviation; scalar each.

    Unlike cross-entropy it does not flatten where the classifier is sure, so it also holds the order of images there,
    which is what AUC sees; and all attributes count alike.
    """
    names = mechanism.schema.names if names is None else names
    losses = {}
    for name in names:
        unit = mechanism.unit[name].to(values[name])
        losses[name] = F.smooth_l1_loss(values[name] / unit, targets[name].detach() / unit)
    return losses


def targets_from_readouts(values: Mapping[str, Tensor], schema: AttributeSchema) -> dict[str, Tensor]:
    """Target readouts as targets of `attribute_target_loss`: probabilities, or values on [-1, 1]."""
    return {name: head.target(values[name]) for name, head in attribute_heads(schema).items()}


@torch.no_grad()
def fit_readout_mechanisms(
    classifiers: Sequence[AttributeClassifierModel],
    schema,
    dataset: Any,
    num_images: int = 0,
    batch_size: int = 64,
    device="cpu",
) -> list[ReadoutMechanism]:
    """One `ReadoutMechanism` per classifier, fitted on evenly spaced images of a data set with known attributes.

    Args:
        dataset: gives batches through `__getitems__`; held out from the classifiers' training if possible.
        num_images: at least as many (all if 0 or fewer are there).
    """
    step = max(1, len(dataset) // num_images) if num_images else 1
    indices = list(range(0, len(dataset), step))
    answers: list[dict[str, list[torch.Tensor]]] = [{n: [] for n in schema.names} for _ in classifiers]
    attributes = []
    for start in tqdm(range(0, len(indices), batch_size), desc="Measuring readouts", leave=False):
        batch = dataset.__getitems__(indices[start : start + batch_size])
        attributes.append(batch["attributes"])
        for classifier, answer in zip(classifiers, answers, strict=True):
            classifier.eval().to(device)
            logits = classifier.calibrated_logits(classifier(batch["pixel_values"].to(device)).logits)
            for name, value in readouts(logits, schema).items():
                answer[name].append(value.cpu())
    attributes = torch.cat(attributes)
    return [
        ReadoutMechanism.fit({n: torch.cat(v) for n, v in answer.items()}, attributes, schema)
        for answer in answers
    ]
