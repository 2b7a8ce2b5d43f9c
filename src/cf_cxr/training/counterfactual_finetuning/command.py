"""Counterfactual fine-tuning from the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset
from tqdm.auto import tqdm
from transformers import AutoModel, set_seed

from ...attributes import AttributeSchema
from ...models.attribute_classifier import AttributeClassifierModel
from ...models.attribute_scm import AttributeSCMModel
from ...models.complete_loading import load_complete
from ...models.image_mechanism import ImageMechanism
from ..loop.arguments import DataArguments, parse_arguments
from ..loop.batches import AttributeBatches, CXRBatches, make_datasets
from .arguments import CFTConfig
from .targets import TARGETS, HardTargets, MatchedTargets, readouts
from .trainer import CFTTrainer

_BOUND_IMAGES = 512  # at least, or all there are
_MATCHING_IMAGES = 1024


@torch.no_grad()
def measure_free_energy(
    model: nn.Module, schema: AttributeSchema, dataset: Any, batch_size: int = 16, seed: int = 0
) -> float:
    """Mean free energy nll + beta * kl under the model, nats per dimension, for the constraint c.

    Args:
        dataset: gives batches through `__getitems__`; some 512 evenly spaced images are taken.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device=device).manual_seed(seed)
    model.eval()
    total, count = 0.0, 0
    for batch in _evenly_spaced(dataset, _BOUND_IMAGES, batch_size, "Measuring c"):
        parents = schema.encode(batch["attributes"], allow_unknown=True).to(device)
        output = model(batch["pixel_values"].to(device), parents, sample_posterior=True, generator=generator)
        total += float(output.loss) * len(parents)
        count += len(parents)
    return total / count


@torch.no_grad()
def make_targets(
    target_labels: str,
    classifiers: Sequence[AttributeClassifierModel],
    dataset: Any,
    gain: float = 1.0,
    device: torch.device | str = "cpu",
) -> list[HardTargets]:
    """The targets of every classifier; matched ones are fitted on some 1024 evenly spaced images of a data set.

    Args:
        dataset: gives batches of fully labelled images through `__getitems__`; best held out from the classifiers'
            training.
        gain: of matched targets.
    """
    if target_labels != "matched":
        return [TARGETS[target_labels](classifier.schema) for classifier in classifiers]
    attributes, found = [], []
    for classifier in classifiers:
        classifier.eval().to(device)
    for batch in _evenly_spaced(dataset, _MATCHING_IMAGES, 64, "Measuring readouts"):
        attributes.append(batch["attributes"])
        pixels = batch["pixel_values"].to(device)
        found.append([readouts(classifier, pixels) for classifier in classifiers])
    attributes = torch.cat(attributes)
    return [
        MatchedTargets(classifier.schema, torch.cat(answered), attributes, gain)
        for classifier, answered in zip(classifiers, zip(*found), strict=True)
    ]


def _evenly_spaced(dataset: Any, count: int, batch_size: int, title: str) -> Iterator[dict[str, Any]]:
    """Batches of at least `count` images, or of all there are."""
    indices = list(range(0, len(dataset), max(1, len(dataset) // count)))
    for start in tqdm(range(0, len(indices), batch_size), desc=title, leave=False):
        yield dataset.__getitems__(indices[start : start + batch_size])


def fully_labelled(batches: CXRBatches) -> Subset:
    """The images of which every attribute is known; counterfactual targets need them all.

    Raises:
        ValueError: if there is none.
    """
    attributes = batches.attributes
    if attributes is None:
        attributes = AttributeBatches(batches.rows, batches.collator.schema).attributes
    known = (~attributes.isnan().any(1)).nonzero()[:, 0].tolist()
    if not known:
        raise ValueError("No image has all attributes known; counterfactual fine-tuning needs some.")
    return Subset(batches, known)


def main(argv: Sequence[str] | None = None) -> nn.Module:
    """Fine-tune from command-line arguments; returns the model."""
    data, args = parse_arguments(
        (DataArguments, CFTConfig),
        argv,
        description="Counterfactual fine-tuning of the image mechanism with soft (default), matched or hard targets.",
    )
    scm = AttributeSCMModel.from_pretrained(args.attribute_scm)
    classifiers = [AttributeClassifierModel.from_pretrained(path) for path in args.classifiers]
    model = load_complete(AutoModel, args.image_mechanism)
    if not isinstance(model, ImageMechanism) or not hasattr(model, "free_energy_terms"):
        raise ValueError(
            f"{args.image_mechanism!r} holds a {type(model).__name__}, which is not an image mechanism with a free "
            "energy: fine-tuning is constrained by one. Give a CausalHVAEModel."
        )
    train, validation, processor, info = make_datasets(data, scm.schema)
    train = fully_labelled(train)
    validation = None if validation is None else fully_labelled(validation)
    bound = args.bound
    if bound is None:
        model.to(args.device)
        measured = measure_free_energy(model, scm.schema, train, args.per_device_train_batch_size, args.seed)
        bound = measured + args.bound_margin
        if args.process_index == 0:
            print(f"Measured free energy {measured:.4f} nats per dimension; c = {bound:.4f}.")
    held_out = train if validation is None else validation
    targets = make_targets(args.target_labels, classifiers, held_out, args.matching_gain, args.device)
    set_seed(args.seed)
    CFTTrainer(
        model,
        args,
        train,
        validation,
        processing_class=processor,
        run_info={"bound": bound, **info},
        attribute_scm=scm,
        classifiers=classifiers,
        targets=targets,
        bound=bound,
    ).train()
    return model
