"""Counterfactual fine-tuning (CFT) of the image mechanism, with soft or hard target labels.

A = Xia et al., "Mitigating attribute amplification in counterfactual image generation", MICCAI 2024.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import Subset
from tqdm.auto import tqdm
from transformers import AutoModel

from ..metrics.exposure import affine_component, exposure_share
from ..models.attribute_classifier import AttributeClassifierModel
from ..models.attribute_scm import AttributeSCMModel
from ..models.complete_loading import load_complete
from ..models.image_mechanism import ImageMechanism
from .arguments import DataArguments, TrainerArguments, parse_arguments
from .augmentation import AUGMENTATION_PRESETS, CXRAugmentation
from .data import CXRBatches, make_datasets
from .losses import (
    TARGET_LABELS,
    FreeEnergyConstraint,
    attribute_target_loss,
    counterfactual_targets,
)
from .matched_targets import (
    ReadoutMechanism,
    matched_readouts,
    readout_loss,
    readouts,
    targets_from_readouts,
)
from .pictures import image_grid
from .trainer import CXRTrainer, build_accelerator
from .usual_films import record_after_training


@dataclass
class CFTArguments:
    """What is fine-tuned, what steers it, and how tightly the free energy is held."""

    _argument_group_name = "Counterfactual fine-tuning"

    image_mechanism: str = field(
        default="outputs/hvae", metadata={"help": "Pre-trained image mechanism: folder or Hub name."}
    )
    attribute_scm: str = field(
        default="outputs/scm", metadata={"help": "Trained attribute SCM: folder or Hub name (frozen)."}
    )
    classifiers: list[str] = field(
        default_factory=lambda: ["outputs/classifier"],
        metadata={"help": "One or several trained attribute classifiers (frozen); several transfer better."},
    )
    target_labels: str = field(
        default="matched",
        metadata={
            "help": "matched: as soft, and the intervened variable and its descendants get the answer that the "
            "classifier would give on a real image with the new value and the same exogenous noise; matched_draw: "
            "the answer on a random real image with the new value; soft (paper A): untouched attributes keep the "
            "classifier's posterior on the factual image, the others get their label; hard: all attributes get their "
            "label (kept for comparison).",
            "choices": list(TARGET_LABELS),
        },
    )
    auxiliary_loss: str = field(
        default="cross_entropy",
        metadata={
            "help": "cross_entropy (paper A; squared error for continuous variables), or readout: Huber loss on "
            "logits and means in units of their spread, which also holds images of which the classifier is sure.",
            "choices": ["cross_entropy", "readout"],
        },
    )
    untouched_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of the attributes that the intervention does not affect; 0 teaches effectiveness alone, "
            "a warm-up that favours no kind of target labels."
        },
    )
    drift_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of a Huber penalty on the drift of untouched attributes' readouts."},
    )
    paired_augmentation: bool = field(
        default=False,
        metadata={
            "help": "Show the classifier the factual image under the same random augmentation as the counterfactual "
            "one, so that what the augmentation does to its answer is not asked of the image."
        },
    )
    matching_gain: float = field(
        default=1.0,
        metadata={
            "help": "Matched targets ask for this multiple of the change of the classifier's answer. Other classifiers "
            "see less of a change than the one that asked for it; measure how much on held-out images by a classifier "
            "that neither steers nor judges, and make up for it."
        },
    )
    matching_images: int = field(
        default=1024,
        metadata={
            "help": "Validation images on which the classifiers' answers are measured for matched targets and drift."
        },
    )
    do_variables: list[str] | None = field(
        default=None, metadata={"help": "Variables to intervene on, one per batch at random (default: all)."}
    )
    do_values: str = field(
        default="permute",
        metadata={
            "help": "Intervened values: permute those of the batch (paper A); balanced: draw the classes of discrete "
            "variables with equal probability, so that rare findings are practised as often as common ones; changed: "
            "draw among the classes that the image does not have, for null interventions teach nothing.",
            "choices": ["permute", "balanced", "changed"],
        },
    )
    interventions_per_step: int = field(
        default=1,
        metadata={
            "help": "Variables intervened on in every step, each for one decoder pass; 1 is paper A. The encoder and "
            "the reconstruction, two of three passes, are shared."
        },
    )
    attribute_weights: list[str] = field(
        default_factory=list,
        metadata={"help": "Weights of attributes in the auxiliary loss, as age=10 sex=1 (default 1 each)."},
    )
    augmentation: str = field(
        default="light",
        metadata={
            "help": "Random geometry and exposure between image and classifier, against adversarial solutions.",
            "choices": list(AUGMENTATION_PRESETS),
        },
    )
    exposure_weight: float = field(
        default=0.0,
        metadata={"help": "Penalty on the part of the change that a global affine intensity map explains."},
    )
    parents_lr_scale: float = field(
        default=1.0,
        metadata={
            "help": "Learning rate of the layers that read the parents, relative to the others: a pre-trained image "
            "mechanism all but ignores its parents, and these layers have the longest way to go."
        },
    )
    bound: float | None = field(
        default=None,
        metadata={"help": "Constraint c in nats per dimension (default: measured, plus margin)."},
    )
    bound_margin: float = field(
        default=0.02, metadata={"help": "Added to the measured mean free energy, nats per dimension."}
    )
    bound_images: int = field(
        default=512, metadata={"help": "Training images on which c is measured; 0: all."}
    )
    multiplier_init: float = field(default=0.0, metadata={"help": "Initial Lagrange multiplier."})
    multiplier_lr: float = field(default=0.1, metadata={"help": "Ascent rate of the multiplier."})
    damping: float = field(default=10.0, metadata={"help": "Damping of the Lagrangian."})
    num_sample_images: int = field(default=6, metadata={"help": "Images in the sample pictures."})

    def __post_init__(self) -> None:
        matched = self.target_labels.startswith("matched")
        if self.auxiliary_loss == "readout" and not matched:
            raise ValueError(
                f"--auxiliary_loss readout needs --target_labels matched or matched_draw, got {self.target_labels!r}: "
                "the logit of a hard label is infinite."
            )
        if self.drift_weight < 0:
            raise ValueError(f"--drift_weight is {self.drift_weight}, but must be 0 or a positive number.")
        if self.matching_gain <= 0:
            raise ValueError(f"--matching_gain is {self.matching_gain}, but must be positive.")
        if self.untouched_weight < 0:
            raise ValueError(
                f"--untouched_weight is {self.untouched_weight}, but must be 0 or a positive number."
            )
        if self.interventions_per_step < 1:
            raise ValueError(
                f"--interventions_per_step is {self.interventions_per_step}, but must be at least 1."
            )
        if self.parents_lr_scale <= 0:
            raise ValueError(f"--parents_lr_scale is {self.parents_lr_scale}, but must be positive.")

    @property
    def needs_readouts(self) -> bool:
        """Whether the classifiers' readout mechanisms must be fitted first."""
        return self.target_labels.startswith("matched") or self.drift_weight > 0

    def weights(self, names: Sequence[str]) -> dict[str, float]:
        """`attribute_weights` as numbers; raises ValueError for a malformed or unknown entry."""
        out = dict.fromkeys(names, 1.0)
        for item in self.attribute_weights:
            name, _, value = item.partition("=")
            try:
                weight = float(value)
            except ValueError:
                weight = -1.0
            if name not in out or weight < 0:
                raise ValueError(
                    f"--attribute_weights {item!r} must be name=number with a name of {', '.join(out)} and a "
                    "number of at least 0."
                )
            out[name] = weight
        return out


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
                value = (column + 1) % a.n_classes if a.is_discrete else a.minimum + a.maximum - column
                changed = self.scm.counterfactual(factual, {name: value})
                rows.append(self.model.decode(noise, self.schema.encode(changed)))
        return {"counterfactuals": image_grid(rows)}


def _freeze(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device).eval().requires_grad_(False)


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


@torch.no_grad()
def measure_free_energy(
    model: nn.Module,
    schema,
    dataset: Any,
    num_images: int = 0,
    batch_size: int = 16,
    seed: int = 0,
    device="cpu",
) -> float:
    """Mean free energy nll + beta * kl of a data set under the model, nats per dimension, for the constraint c.

    Args:
        dataset: gives batches through `__getitems__`; evenly spaced images are taken if `num_images` is positive.
    """
    step = max(1, len(dataset) // num_images) if num_images else 1
    indices = list(range(0, len(dataset), step))
    generator = torch.Generator(device=device).manual_seed(seed)
    model.eval()
    total = 0.0
    for start in tqdm(range(0, len(indices), batch_size), desc="Measuring c", leave=False):
        chosen = indices[start : start + batch_size]
        batch = dataset.__getitems__(chosen)
        parents = schema.encode(batch["attributes"], allow_unknown=True).to(device)
        output = model(batch["pixel_values"].to(device), parents, sample_posterior=True, generator=generator)
        total += float(output.loss) * len(chosen)
    return total / len(indices)


def fully_labelled(batches: CXRBatches) -> Subset:
    """The images of which every attribute is known; counterfactual targets need them all.

    Raises:
        ValueError: if there is none.
    """
    attributes = batches.attributes
    if attributes is None:
        columns = batches.rows.select_columns(list(batches.collator.schema.names))
        attributes = batches.collator.attributes(list(columns))
    known = (~attributes.isnan().any(1)).nonzero()[:, 0].tolist()
    if not known:
        raise ValueError("No image has all attributes known; counterfactual fine-tuning needs some.")
    return Subset(batches, known)


def main(argv: Sequence[str] | None = None) -> nn.Module:
    """Fine-tune from command-line arguments; returns the model."""
    stage, data, loop = parse_arguments(
        (CFTArguments, DataArguments, TrainerArguments),
        argv,
        defaults={
            "output_dir": "outputs/hvae_soft_cft",
            "learning_rate": 1e-4,
            "per_device_batch_size": 10,
            "max_steps": 2000,
            "sample_steps": 250,
        },
        description="Counterfactual fine-tuning of the image mechanism with soft (default) or hard target labels.",
    )
    accelerator = build_accelerator(loop)
    scm = AttributeSCMModel.from_pretrained(stage.attribute_scm)
    classifiers = [AttributeClassifierModel.from_pretrained(path) for path in stage.classifiers]
    model = load_complete(AutoModel, stage.image_mechanism)
    if not isinstance(model, ImageMechanism) or not hasattr(model, "free_energy_terms"):
        raise ValueError(
            f"{stage.image_mechanism!r} holds a {type(model).__name__}, which is not an image mechanism with a free "
            "energy: fine-tuning is constrained by one. Give a CausalHVAEModel."
        )
    with accelerator.main_process_first():
        train, validation, processor, info = make_datasets(
            data, scm.schema, progress=accelerator.is_main_process
        )
    train = fully_labelled(train)
    validation = None if validation is None else fully_labelled(validation)
    bound = stage.bound
    if bound is None:
        measured = measure_free_energy(
            model.to(accelerator.device),
            scm.schema,
            train,
            stage.bound_images,
            batch_size=loop.per_device_batch_size,
            seed=loop.seed,
            device=accelerator.device,
        )
        bound = measured + stage.bound_margin
        accelerator.print(f"Measured free energy {measured:.4f} nats per dimension; c = {bound:.4f}.")
    mechanisms = []
    if stage.needs_readouts:
        mechanisms = fit_readout_mechanisms(
            classifiers,
            scm.schema,
            train if validation is None else validation,
            stage.matching_images,
            device=accelerator.device,
        )
    set_seed(loop.seed)
    trainer = CFTTrainer(
        model,
        loop,
        train,
        validation,
        accelerator=accelerator,
        processor=processor,
        num_workers=data.num_workers,
        run_info={"stage": dataclasses.asdict(stage), "bound": bound, **info},
        attribute_scm=scm,
        classifiers=classifiers,
        stage_args=stage,
        bound=bound,
        readout_mechanisms=mechanisms,
    )
    trainer.train()
    record_after_training(trainer)
    return model
