"""Counterfactual fine-tuning (CFT) of the image mechanism, with soft or hard target labels.

A = Xia et al., "Mitigating attribute amplification in counterfactual image generation", MICCAI 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ...images.grey_levels import image_grid
from ...metrics.exposure import affine_component, exposure_share
from ...models.attribute_classifier import AttributeClassifierModel
from ...models.attribute_scm import AttributeSCMModel
from ..augmentation import CXRAugmentation
from ..loop.old_trainer import CXRTrainer
from .arguments import CFTArguments
from .losses import FreeEnergyConstraint, attribute_target_loss, counterfactual_targets
from .matched_targets import (
    ReadoutMechanism,
    matched_readouts,
    readout_loss,
    readouts,
    targets_from_readouts,
)


class CFTTrainer(CXRTrainer):
    """Minimises the classifier's disagreement with the targets subject to free energy <= c (A, section 2.4).

    Per step: pick variables, draw their values, propagate through the attribute SCM, decode the counterfactuals from
    the abducted noise (one encoder pass, one decoder pass and one more per intervention), and ask the classifiers. Only
    the image mechanism learns.

    Args (besides `CXRTrainer`'s):
        attribute_scm, classifiers: frozen models; all must have one schema.
        stage_args: `CFTArguments`.
        bound: c, in nats per dimension.
        readout_mechanisms: one per classifier, from `fit_readout_mechanisms`; needed for matched targets, the readout
            loss and the drift penalty.
    """

    def __init__(
        self,
        *args: Any,
        attribute_scm: AttributeSCMModel,
        classifiers: Sequence[AttributeClassifierModel],
        stage_args: CFTArguments,
        bound: float,
        readout_mechanisms: Sequence[ReadoutMechanism] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.scm = _freeze(attribute_scm, self.device)
        self.classifiers = [_freeze(c, self.device) for c in classifiers]
        self.schema, self.graph = attribute_scm.schema, attribute_scm.graph
        for classifier in classifiers:
            if classifier.schema != self.schema:
                raise ValueError(
                    f"A classifier knows {classifier.schema}, the attribute SCM {self.schema}; train both alike."
                )
        self.stage_args = stage_args
        self.do_variables = tuple(stage_args.do_variables or self.schema.names)
        for name in self.do_variables:
            self.schema.index(name)
        self.attribute_weights = stage_args.weights(self.schema.names)
        self.augment = CXRAugmentation(stage_args.augmentation)
        self.readout_mechanisms = list(readout_mechanisms)
        if stage_args.needs_readouts and len(self.readout_mechanisms) != len(self.classifiers):
            raise ValueError(
                f"{len(self.readout_mechanisms)} readout mechanisms for {len(self.classifiers)} classifiers; "
                "fit_readout_mechanisms makes one for each."
            )
        self.constraint = FreeEnergyConstraint(
            bound, stage_args.multiplier_lr, stage_args.damping, stage_args.multiplier_init
        )
        self.register_for_checkpointing("constraint", self.constraint)

    def create_optimizer(self) -> torch.optim.Optimizer:
        """AdamW with a learning rate of its own for the layers that read the parents."""
        optimizer = super().create_optimizer()
        scale, layers = self.stage_args.parents_lr_scale, getattr(self.model, "parent_layers", ())
        if scale == 1:
            return optimizer
        chosen = {id(p) for name, p in self.parameters.items() if set(name.split(".")) & set(layers)}
        if not chosen:
            raise ValueError(
                f"--parents_lr_scale {scale} needs an image mechanism that names its parent_layers; "
                f"{type(self.model).__name__} names none."
            )
        (group,) = optimizer.param_groups
        others = [p for p in group["params"] if id(p) not in chosen]
        reading = [p for p in group["params"] if id(p) in chosen]
        group["params"] = others
        optimizer.add_param_group({"params": reading, "lr": group["lr"] * scale})
        return optimizer

    def compute_loss(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Lagrangian of one batch under random interventions; draws from the global generator."""
        pixels, factual = batch["pixel_values"], batch["attributes"]
        count = min(self.stage_args.interventions_per_step, len(self.do_variables))
        chosen = [self.do_variables[i] for i in torch.randperm(len(self.do_variables))[:count].tolist()]
        worlds = [self.scm.counterfactual(factual, {k: self._draw_values(factual, k)}) for k in chosen]
        output = self.model(
            pixels,
            self.schema.encode(factual),
            counterfactual_parents=self.schema.encode(torch.stack(worlds, 1).flatten(0, 1)),
            sample_posterior=True,
        )
        auxiliary, logs = self._auxiliary(pixels, output.counterfactual, factual, worlds, chosen)
        repeated = pixels.repeat_interleave(count, dim=0)
        change = output.counterfactual.float() - repeated
        if self.stage_args.exposure_weight > 0:
            exposure = affine_component(repeated, change).square().mean()
            auxiliary = auxiliary + self.stage_args.exposure_weight * exposure
            logs["exposure"] = exposure
        loss = self.constraint.loss(auxiliary, output.loss)
        logs.update(
            free_energy=output.loss,
            auxiliary=auxiliary,
            multiplier=self.constraint.multiplier,
            change=change.abs().mean() * 127.5,
            exposure_share=exposure_share(repeated, output.counterfactual).detach().nan_to_num(0).mean(),
        )
        return loss, logs

    def _draw_values(self, factual: torch.Tensor, variable: str) -> torch.Tensor:
        """Raw intervened values `(B,)` of a variable; see `CFTArguments.do_values`."""
        attribute = self.schema[variable]
        if self.stage_args.do_values == "balanced" and attribute.is_discrete:
            return torch.randint(attribute.n_classes, (len(factual),)).to(factual)
        column = self.schema.index(variable)
        if self.stage_args.do_values == "changed" and attribute.is_discrete:
            step = torch.randint(1, attribute.n_classes, (len(factual),)).to(factual)
            return (factual[:, column] + step) % attribute.n_classes
        permutation = torch.randperm(len(factual)).to(factual.device)
        return factual[permutation, column]

    def _auxiliary(self, factual_image, counterfactual_images, factual, worlds, variables):
        """Weighted disagreement with the targets, averaged over classifiers and interventions, and its parts.

        Args:
            counterfactual_images: `(B * K, 1, S, S)`, K consecutive rows per image.
            worlds: raw counterfactual attributes `(B, n)` of each of the K interventions. variables: their names.
        """
        count = len(variables)
        seen_factual, seen = self._what_classifiers_see(factual_image, counterfactual_images, count)
        with torch.no_grad():
            raw = [c(seen_factual).logits for c in self.classifiers]
        new = [c(seen).logits for c in self.classifiers]
        share = 1 / (len(self.classifiers) * count)
        total, logs = 0.0, {}
        for k, (variable, world) in enumerate(zip(variables, worlds, strict=True)):
            old = [r[k::count] for r in raw] if len(raw[0]) == len(new[0]) else raw
            affected = {variable} | self.graph.descendants(variable)
            for index, classifier in enumerate(self.classifiers):
                after = classifier.calibrated_logits(new[index][k::count])
                before = classifier.calibrated_logits(old[index])
                targets = self._label_targets(classifier, old[index], factual, world, variable)
                losses = self._losses(index, after, before, factual, world, affected, targets)
                for name, value in losses.items():
                    weight = 1.0 if name in affected else self.stage_args.untouched_weight
                    total = total + self.attribute_weights[name] * weight * value * share
                    logs[f"aux_{name}"] = logs.get(f"aux_{name}", 0.0) + value.detach() * share
        return total, logs

    def _what_classifiers_see(self, factual_images, counterfactual_images, count):
        """Factual images and augmented counterfactual ones; with paired augmentation both under the same draw, and
        the factual ones repeated for every intervention."""
        if not self.stage_args.paired_augmentation or self.stage_args.augmentation == "none":
            return factual_images, self.augment(counterfactual_images)
        seed = int(torch.randint(2**31, ()))
        return tuple(
            self.augment(images, torch.Generator().manual_seed(seed))
            for images in (factual_images.repeat_interleave(count, dim=0), counterfactual_images)
        )

    def _label_targets(self, classifier, logits, factual, counterfactual, variable):
        """One classifier's targets of paper A by attribute; None for matched ones.

        Soft ones are the posterior of its own `logits` on the factual images: were it another's, or the mean of
        several, an image that does not change would already miss its targets, and be pushed.
        """
        labels = self.stage_args.target_labels
        if labels not in ("soft", "hard"):
            return None
        posterior = classifier.posterior_from_logits(logits) if labels == "soft" else None
        return counterfactual_targets(
            labels, factual, counterfactual, [variable], posterior, self.schema, self.graph
        )

    def _losses(self, index, logits, old, factual, counterfactual, affected, targets):
        """Loss per attribute of one classifier, the drift penalty included."""
        if not self.stage_args.needs_readouts:
            return attribute_target_loss(logits, targets, self.schema)
        mechanism = self.readout_mechanisms[index]
        new, before = readouts(logits, self.schema), readouts(old, self.schema)
        if targets is None:
            wanted = matched_readouts(
                mechanism,
                before,
                factual,
                counterfactual,
                affected,
                random=self.stage_args.target_labels == "matched_draw",
                gain=self.stage_args.matching_gain,
            )
            if self.stage_args.auxiliary_loss == "readout":
                losses = readout_loss(new, wanted, mechanism)
            else:
                losses = attribute_target_loss(
                    logits, targets_from_readouts(wanted, self.schema), self.schema
                )
        else:
            losses = attribute_target_loss(logits, targets, self.schema)
        if self.stage_args.drift_weight > 0:
            untouched = [name for name in self.schema.names if name not in affected]
            for name, value in readout_loss(new, before, mechanism, untouched).items():
                losses[name] = losses[name] + self.stage_args.drift_weight * value
        return losses

    def after_step(self, logs: Mapping[str, float]) -> None:
        """Moves the Lagrange multiplier."""
        self.constraint.update(logs["free_energy"])

    def sample_images(self) -> dict[str, np.ndarray]:
        """Factual images, then a row of counterfactuals per variable: discrete ones to the next class, continuous
        ones mirrored in their range."""
        source = self.val_dataset if self.val_dataset is not None else self.train_dataset
        count = min(self.stage_args.num_sample_images, len(source))
        batch = self.prepare_batch(self.collate_fn(source.__getitems__(list(range(count)))))
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


def _freeze(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device).eval().requires_grad_(False)
