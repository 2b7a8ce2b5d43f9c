"""Counterfactual fine-tuning (CFT) of the image mechanism.

A = Xia et al., "Mitigating attribute amplification in counterfactual image generation", MICCAI 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...images.grey_levels import image_grid
from ...metrics.exposure import affine_component, exposure_share
from ...models.attribute_classifier import AttributeClassifierModel
from ...models.attribute_scm import AttributeSCMModel
from ..augmentation import CXRAugmentation
from ..loop.trainer import CXRTrainer
from .arguments import CFTConfig
from .constraint import FreeEnergyConstraint
from .targets import HardTargets, readouts

_SAMPLES = 6  # images in the sample pictures


class CFTTrainer(CXRTrainer):
    """Minimises the classifiers' disagreement with the targets subject to free energy <= c (A, section 2.4).

    Per step: pick variables, draw their values, propagate through the attribute SCM, decode the counterfactuals from
    the abducted noise (one encoder pass, one decoder pass and one more per intervention), and ask the classifiers. Only
    the image mechanism learns.

    Args (besides `CXRTrainer`'s):
        attribute_scm, classifiers: frozen models; all must have one schema.
        targets: what each of the classifiers should say, see `targets.py`.
        bound: c, in nats per dimension.
    """

    args: CFTConfig
    records_usual_films = True

    def __init__(
        self,
        *args: Any,
        attribute_scm: AttributeSCMModel,
        classifiers: Sequence[AttributeClassifierModel],
        targets: Sequence[HardTargets],
        bound: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, schema=attribute_scm.schema, **kwargs)
        for classifier in classifiers:
            if classifier.schema != self.schema:
                raise ValueError(
                    f"A classifier knows {classifier.schema}, the attribute SCM {self.schema}; train both alike."
                )
        device = self.args.device
        self.scm, *self.classifiers = (
            model.to(device).eval().requires_grad_(False) for model in (attribute_scm, *classifiers)
        )
        double = torch.float32 if device.type == "mps" else torch.float64
        self.targets = [target.to(device, double) for target in targets]
        self.do_variables = tuple(self.args.do_variables or self.schema.names)
        reached = [{name} | attribute_scm.graph.descendants(name) for name in self.do_variables]
        self.affected = torch.tensor([[n in names for n in self.schema.names] for names in reached])
        self.augment = CXRAugmentation(self.args.augmentation)
        self.constraint = FreeEnergyConstraint(bound)
        self.register("constraint", self.constraint)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with a learning rate of its own for the layers that read the parents."""
        scale, layers = self.args.parents_lr_scale, set(getattr(self.model, "parent_layers", ()))
        if self.optimizer is not None or scale == 1:
            return super().create_optimizer(model)
        reading = {id(p) for name, p in self.model.named_parameters() if layers & set(name.split("."))}
        if not reading:
            raise ValueError(
                f"--parents_lr_scale {scale} needs an image mechanism that names its parent_layers; "
                f"{type(self.model).__name__} names none."
            )
        group = super().create_optimizer(model).param_groups[0]
        chosen = [p for p in group["params"] if id(p) in reading]
        group["params"] = [p for p in group["params"] if id(p) not in reading]
        self.optimizer.add_param_group({**group, "params": chosen, "lr": group["lr"] * scale})
        return self.optimizer

    def batch_loss(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Lagrangian of one batch under random interventions; draws from the global generator."""
        pixels, factual = batch["pixel_values"], batch["attributes"]
        chosen = torch.randperm(len(self.do_variables))[: self.args.interventions_per_step]
        names = [self.do_variables[i] for i in chosen.tolist()]
        worlds = [self.scm.counterfactual(factual, {k: self.draw_values(factual, k)}) for k in names]
        counterfactual = torch.stack(worlds, 1).flatten(0, 1)
        output = model(
            pixels,
            self.schema.encode(factual),
            counterfactual_parents=self.schema.encode(counterfactual),
            sample_posterior=True,
        )
        repeated, factual = (x.repeat_interleave(len(names), dim=0) for x in (pixels, factual))
        affected = self.affected[chosen].repeat(len(pixels), 1).to(pixels.device)
        auxiliary, logs = self.disagreement(
            repeated, output.counterfactual, factual, counterfactual, affected
        )
        change = output.counterfactual.float() - repeated
        if self.args.exposure_weight > 0:
            logs["exposure"] = affine_component(repeated, change).square().mean()
            auxiliary = auxiliary + self.args.exposure_weight * logs["exposure"]
        logs |= {
            "free_energy": output.loss,
            "auxiliary": auxiliary,
            "multiplier": self.constraint.multiplier,
            "change": change.abs().mean() * 127.5,
            "exposure_share": exposure_share(repeated, output.counterfactual).detach().nan_to_num(0).mean(),
        }
        return self.constraint.loss(auxiliary, output.loss), logs

    def draw_values(self, factual: Tensor, variable: str) -> Tensor:
        """Raw intervened values `(B,)` of a variable; see `CFTConfig.do_values`."""
        attribute, column = self.schema[variable], factual[:, self.schema.index(variable)]
        kind = self.args.do_values if attribute.is_discrete else "permute"
        if kind == "permute":
            return column[torch.randperm(len(column)).to(column.device)]
        classes = attribute.n_classes
        if kind == "balanced":
            return torch.randint(classes, (len(column),)).to(column)
        return (column + torch.randint(1, classes, (len(column),)).to(column)) % classes

    def disagreement(
        self,
        images: Tensor,
        counterfactual_images: Tensor,
        factual: Tensor,
        counterfactual: Tensor,
        affected: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Distance of the classifiers' readouts from their targets, mean over classifiers and rows, and its parts.

        Each row is seen under the same random augmentation before and after, so that what the augmentation does to an
        answer is not asked of the image.

        Args:
            images, counterfactual_images: `(R, 1, S, S)`.
            factual, counterfactual: raw attributes `(R, n)`.
            affected: `(R, n)`, the do-variable and its descendants.
        """
        seed = int(torch.randint(2**31, ()))
        seen, seen_counterfactual = (
            self.augment(x, torch.Generator(images.device).manual_seed(seed))
            for x in (images, counterfactual_images)
        )
        weight = torch.where(affected, 1.0, self.args.untouched_weight)
        parts = 0.0
        for classifier, targets in zip(self.classifiers, self.targets, strict=True):
            with torch.no_grad():
                before = readouts(classifier, seen)
            losses = targets(
                before, readouts(classifier, seen_counterfactual), factual, counterfactual, affected
            )
            parts = parts + (losses * weight).mean(0) / len(self.classifiers)
        logs = {f"aux_{name}": part for name, part in zip(self.schema.names, parts.detach(), strict=True)}
        return parts.sum(), logs

    def after_step(self, logs: Mapping[str, float]) -> None:
        """Moves the Lagrange multiplier."""
        self.constraint.update(logs["free_energy"])

    def sample_images(self) -> dict[str, np.ndarray]:
        """Factual images, then a row of counterfactuals per variable: discrete ones to the next class, continuous
        ones mirrored in their range."""
        batch = self.first_images(_SAMPLES)
        pixels, factual = batch["pixel_values"], batch["attributes"]
        rows = [pixels]
        with self.accelerator.autocast():
            noise = self.model.abduct(pixels, self.schema.encode(factual))
            for name in self.do_variables:
                a, column = self.schema[name], factual[:, self.schema.index(name)]
                value = a.opposite(column)
                changed = self.scm.counterfactual(factual, {name: value})
                rows.append(self.model.decode(noise, self.schema.encode(changed)))
        return {"counterfactuals": image_grid(rows)}
