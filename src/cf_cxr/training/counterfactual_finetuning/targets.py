"""What a classifier should say of counterfactual images, and how far it is from saying so: hard, soft or matched.

A = Xia et al., "Mitigating attribute amplification in counterfactual image generation", MICCAI 2024.

Hard and soft targets (A, section 2.4) ask for labels of the intervened variables, so that intervened images become
more typical than real ones. For matched targets a classifier's answer is itself a variable with a mechanism: its
*readout* r of an attribute k (a logit, a mean) on an image with attributes a is

    r = g(a) + s(a_k) * eps,        g linear in the coded attributes, s a scale per class of attribute k

fitted on real images. The target under do(.) follows by abduction (eps from the factual image), action and prediction:
r* = g(a*) + s(a*_k) / s(a_k) * (r - g(a)). An image that looked atypical for its class looks as atypical for the new
one; counterfactuals are as ambiguous as real images; a null intervention asks for no change. Where both classes are
Gaussian with one spread, as in the phantom's factors, r* is what an ideal observer says of the true counterfactual.

Everywhere rows are images, and columns those of the schema's parent vector: `(R, schema.dim)`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...attributes import AttributeSchema
from ...models.attribute_classifier import AttributeClassifierModel, attribute_heads

_FEWEST = 8  # images of a class of which a spread can be told


def readouts(classifier: AttributeClassifierModel, pixel_values: Tensor) -> Tensor:
    """Calibrated answers `(B, schema.dim)` on unbounded scales: the logit of class 1, centred log probabilities, or
    the mean on [-1, 1]."""
    logits = classifier.calibrated_logits(classifier(pixel_values).logits)
    heads = attribute_heads(classifier.schema)
    return torch.cat([head.readout(logits[name]) for name, head in heads.items()], 1)


class HardTargets(nn.Module):
    """Every attribute's counterfactual value; the interface of all targets.

    The loss is A's: binary cross-entropy, cross-entropy, and ten times the squared error of a continuous attribute.

    Args:
        schema: of the classifier.
    """

    def __init__(self, schema: AttributeSchema) -> None:
        super().__init__()
        self.schema = schema
        self.sizes = [a.size for a in schema]
        self.heads = attribute_heads(schema)

    def forward(
        self, before: Tensor, after: Tensor, factual: Tensor, counterfactual: Tensor, affected: Tensor
    ) -> Tensor:
        """How far one classifier is from the targets, `(R, n)`: a loss per image and attribute.

        Args:
            before, after: its `readouts` on the factual images, without gradient, and on the counterfactual ones.
            factual, counterfactual: raw attributes `(R, n)`.
            affected: `(R, n)`, the do-variable and its descendants.
        """
        return self.loss(after, self.wanted(before, factual, counterfactual, affected))

    def wanted(self, before: Tensor, factual: Tensor, counterfactual: Tensor, affected: Tensor) -> Tensor:
        """The targets `(R, schema.dim)`: probabilities, or a mean on [-1, 1]."""
        return self.schema.encode(counterfactual)

    def loss(self, after: Tensor, wanted: Tensor) -> Tensor:
        """Loss `(R, n)` of readouts `(R, schema.dim)`."""
        parts = zip(self.heads.values(), after.split(self.sizes, 1), wanted.split(self.sizes, 1))
        return torch.stack([head.target_loss(x, target) for head, x, target in parts], 1)

    def _each(self, per_attribute: Tensor) -> Tensor:
        """Values by attribute `(R, n)` by column `(R, schema.dim)`."""
        parts = zip(per_attribute.unbind(1), self.sizes)
        return torch.cat([value[:, None].expand(-1, size) for value, size in parts], 1)


class SoftTargets(HardTargets):
    """The do-variable and its descendants get their counterfactual value, every other discrete variable this
    classifier's own posterior on the factual image, and a continuous one keeps its value (A, section 2.4).

    Were the posterior another classifier's, or the mean of several, an image that does not change would already miss
    its targets, and be pushed.
    """

    def wanted(self, before: Tensor, factual: Tensor, counterfactual: Tensor, affected: Tensor) -> Tensor:
        """The targets `(R, schema.dim)`: probabilities, or a mean on [-1, 1]."""
        new, old = self.schema.encode(counterfactual), self.schema.encode(factual).split(self.sizes, 1)
        parts = zip(self.heads.values(), before.split(self.sizes, 1), old)
        kept = [head.target(x) if head.attribute.is_discrete else code for head, x, code in parts]
        return torch.where(self._each(affected), new, torch.cat(kept, 1))


class MatchedTargets(HardTargets):
    """The answer on a real image with the new attributes and the factual image's own noise; see the module's text.

    The loss is a Huber loss between readouts in units of their residual standard deviation. Unlike cross-entropy it does
    not flatten where the classifier is sure, so it also holds the order of images there, which is what AUC sees; and all
    attributes count alike. Variables that the intervention does not affect keep the readout of their image.

    Args:
        schema: of the classifier.
        values: its `readouts` `(N, schema.dim)` on real images; best on images it was not trained on, for on those it is
            more confident than in reality.
        attributes: their raw attributes `(N, n)`, all known.
        gain: targets are r + gain (r* - r); more than 1 makes up for what other classifiers do not see of the change.

    Raises:
        ValueError: too few images, a class with fewer than 8 images, or an answer that is not finite.
    """

    def __init__(
        self, schema: AttributeSchema, values: Tensor, attributes: Tensor, gain: float = 1.0
    ) -> None:
        super().__init__(schema)
        self.gain = gain
        r, attributes = values.detach().cpu().double(), attributes.detach().cpu()
        design = self._design(attributes)
        if len(design) <= design.shape[1]:
            raise ValueError(
                f"Matched targets need more than {design.shape[1]} labelled images, got {len(design)}."
            )
        for name, where in schema.slices().items():
            if not r[:, where].isfinite().all():
                raise ValueError(f"The classifier's answer on {name!r} is not finite for some images.")
        coefficients = torch.linalg.lstsq(design, r, driver="gelsd").solution
        residual = r - design @ coefficients
        scale = torch.ones(max(1, *(a.n_classes for a in schema)), schema.dim, dtype=r.dtype)
        for a, column, where in zip(schema, attributes.unbind(1), schema.slices().values()):
            for c in range(a.n_classes or 1):
                group = column == c if a.is_discrete else column == column
                if (count := int(group.sum())) < _FEWEST:
                    raise ValueError(
                        f"Only {count} images have {a.name} = {a.categories[c]!r}; matched targets need {_FEWEST} of every "
                        "class to know what such images look like. Use more images, or target_labels=soft."
                    )
                scale[c, where] = residual[group][:, where].square().mean(0).sqrt()
        self.register_buffer("coefficients", coefficients)  # (P, dim)
        self.register_buffer("scale", scale.clamp_min(1e-6))  # (classes, dim)
        self.register_buffer("unit", residual.square().mean(0).sqrt().clamp_min(1e-6))  # (dim,)
        self.register_buffer("low", r.amin(0))
        self.register_buffer("high", r.amax(0))

    def wanted(self, before: Tensor, factual: Tensor, counterfactual: Tensor, affected: Tensor) -> Tensor:
        """The target readouts `(R, schema.dim)`, within what was seen: abduction, action, prediction."""
        r = before.to(self.unit.dtype)
        old, new = (self._scale(attributes) for attributes in (factual, counterfactual))
        before_g, after_g = (
            self._design(attributes) @ self.coefficients for attributes in (factual, counterfactual)
        )
        target = after_g + new / old * (r - before_g)
        target = (r + self.gain * (target - r)).clamp(self.low, self.high)
        moved = (factual != counterfactual).any(1, keepdim=True)
        return torch.where(self._each(affected) & moved, target.to(before.dtype), before)

    def loss(self, after: Tensor, wanted: Tensor) -> Tensor:
        """Loss `(R, n)` of readouts `(R, schema.dim)`."""
        unit = self.unit.to(after.dtype)
        huber = F.smooth_l1_loss(after / unit, wanted / unit, reduction="none")
        return torch.stack([part.mean(1) for part in huber.split(self.sizes, 1)], 1)

    def _design(self, attributes: Tensor) -> Tensor:
        """Coded attributes `(R, P)`: 1; classes but the first as indicators; continuous as t and t² on [-1, 1]."""
        columns = [torch.ones_like(attributes[:, :1], dtype=torch.float64)]
        for a, value in zip(self.schema, attributes.double().unbind(1)):
            code = a.encode(value)
            columns += [code[:, 1:] if a.size > 1 else code]
            if not a.is_discrete:
                columns += [code.square()]
        return torch.cat(columns, 1)

    def _scale(self, attributes: Tensor) -> Tensor:
        """s of every image's classes, `(R, schema.dim)`."""
        discrete = attributes.new_tensor([a.is_discrete for a in self.schema])
        return self.scale.gather(0, self._each(attributes * discrete).long())


#: the choices of `--target_labels`
TARGETS: dict[str, type[HardTargets]] = {"hard": HardTargets, "soft": SoftTargets, "matched": MatchedTargets}
