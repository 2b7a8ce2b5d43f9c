"""Counterfactual fine-tuning from the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import Subset
from tqdm.auto import tqdm
from transformers import AutoModel

from ...models.attribute_classifier import AttributeClassifierModel
from ...models.attribute_scm import AttributeSCMModel
from ...models.complete_loading import load_complete
from ...models.image_mechanism import ImageMechanism
from ..loop.arguments import DataArguments, parse_arguments
from ..loop.batches import CXRBatches, make_datasets
from ..loop.old_arguments import TrainerArguments
from ..loop.old_trainer import build_accelerator
from ..loop.usual_films import record_after_training
from .arguments import CFTArguments
from .matched_targets import (
    fit_readout_mechanisms,
)
from .trainer import CFTTrainer


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
