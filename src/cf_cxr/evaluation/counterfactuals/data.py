"""The images of an evaluation, and the interventions on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...attributes import AttributeSchema
from ...data import CXRCollator, load_cxr
from ...data.phantom import ChestPhantom, PhantomConfig
from ...data.phantom.dataset import SPLIT_OFFSETS
from ...images.image_processing_cxr import CXRImageProcessor
from ...training.loop.batches import check_columns
from .arguments import EvaluationArguments

PHANTOM_IMAGES = 1000
#: Training images whose attributes give the phantom's marginal; they are not rendered for it.
PHANTOM_MARGINAL = 4000


@dataclass
class EvaluationData:
    """Fully labelled images of one split.

    Args:
        rows: rows of the data set, as `load_cxr` gives them.
        collator: makes rows into tensors.
        attributes: raw factual values `(N, n)`.
        interventions: variable -> raw values `(N,)`, drawn from the training marginal.
        patients: N patient identifiers.
        batch_size: images per batch.
        phantom: the simulator, where the images are its.
    """

    rows: Any
    collator: CXRCollator
    attributes: np.ndarray
    interventions: dict[str, np.ndarray]
    patients: list[str]
    batch_size: int
    phantom: ChestPhantom | None = None

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.attributes) // self.batch_size)

    def span(self, index: int) -> range:
        """Row numbers of a batch."""
        return range(index * self.batch_size, min((index + 1) * self.batch_size, len(self.attributes)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Batch: `pixel_values` (B, 1, S, S), `attributes` (B, n), `do` {k: (B,)}, and the phantom's `noise`."""
        span = self.span(index)
        rows = [self.rows[i] for i in span]
        batch: dict[str, Any] = self.collator(rows)
        batch["do"] = {k: torch.from_numpy(v[span.start : span.stop]) for k, v in self.interventions.items()}
        if self.phantom is not None:
            noise = [self.phantom.noise_at(row["seed"], [row["index"]]) for row in rows]
            batch["noise"] = torch.cat(noise)
        return batch

    def fingerprint(self) -> str:
        """SHA-256 of which images these are, what is known about them and what is done to them."""
        digest = hashlib.sha256()
        columns = [name for name in ("image_id", "patient_id") if name in self.rows.column_names]
        for name in columns:
            digest.update("\n".join(map(str, self.rows[name])).encode())
        digest.update(np.ascontiguousarray(self.attributes).tobytes())
        for name, values in self.interventions.items():
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()


def draw_interventions(values: np.ndarray, marginal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Intervened values drawn from the training marginal, one per row (A, section 3)."""
    return rng.choice(marginal, size=len(values))


def load_evaluation_data(args: EvaluationArguments, schema: AttributeSchema, size: int) -> EvaluationData:
    """The images to evaluate on, `size` pixels square, with interventions.

    Raises:
        ValueError: there is no such split, it shares patients with the training split, an attribute is missing from
            the data, or no image has all attributes.
    """
    load = _load_phantom if args.dataset == "phantom" else _load_source
    rows, train, phantom = load(args, schema, size)
    check_columns(rows, schema)
    collator = CXRCollator(schema, CXRImageProcessor(size=size))
    attributes = collator.attributes(list(rows.select_columns(list(schema.names)))).numpy()
    known = np.flatnonzero(~np.isnan(attributes).any(1))[: args.max_images]
    if len(known) == 0:
        raise ValueError(
            f"None of the {len(rows)} images of split {args.split!r} has all of {', '.join(schema.names)} known; "
            "counterfactuals can only be measured where the factual attributes are."
        )
    rng = np.random.default_rng(args.seed)
    interventions = {}
    for column, name in enumerate(schema.names):
        marginal = train[~np.isnan(train[:, column]), column]
        if len(marginal) == 0:
            raise ValueError(
                f"No training image knows {name!r}, so there is no marginal to draw do({name}) from."
            )
        interventions[name] = draw_interventions(known, marginal, rng).astype(np.float32)
    rows = rows.select(known.tolist())
    return EvaluationData(
        rows=rows,
        collator=collator,
        attributes=attributes[known],
        interventions=interventions,
        patients=[str(p) for p in rows["patient_id"]],
        batch_size=args.batch_size,
        phantom=phantom,
    )


def _load_source(args: EvaluationArguments, schema: AttributeSchema, size: int):
    options = {} if args.finding is None else {"finding": args.finding}
    splits = load_cxr(
        args.dataset,
        data_dir=args.data_dir,
        resolution=size,
        seed=args.data_seed,
        num_proc=args.num_proc,
        cache_dir=args.cache_dir,
        **options,
    )
    for split in (args.split, "train"):
        if split not in splits:
            raise ValueError(f"{args.dataset} has no split {split!r}, only {', '.join(splits)}.")
    rows, train = splits[args.split], splits["train"]
    refuse_training_patients(set(rows["patient_id"]) & set(train["patient_id"]), args.split)
    check_columns(train, schema)
    attributes = CXRCollator(schema).attributes(list(train.select_columns(list(schema.names)))).numpy()
    return rows, attributes, None


def _load_phantom(args: EvaluationArguments, schema: AttributeSchema, size: int):
    config = PhantomConfig(resolution=size, **({"finding": args.finding} if args.finding else {}))
    rows = phantom_rows(args, config)
    phantom = ChestPhantom(config)
    check_columns(rows, schema)
    if phantom.schema != schema:
        raise ValueError(f"The model knows {schema}, the phantom {phantom.schema}, whose order counts here.")
    keep = ["image", *schema.names, "patient_id", "image_id", "seed", "index"]  # without masks to decode
    train = phantom.attributes_at(args.data_seed, range(PHANTOM_MARGINAL)).numpy()
    return rows.select_columns(keep), train, phantom


def phantom_rows(args: Any, config: PhantomConfig, default_images: int = PHANTOM_IMAGES) -> Any:
    """Rendered rows of the split `args.split`, `args.num_images` of them, else `default_images`.

    Args:
        args: with `split`, `data_seed`, `num_images`, `num_proc` and `cache_dir`.

    Raises:
        ValueError: for an unknown split, or that of the training.
    """
    if args.split not in SPLIT_OFFSETS:
        raise ValueError(f"The phantom has no split {args.split!r}, only {', '.join(SPLIT_OFFSETS)}.")
    if args.split == "train":
        refuse_training_patients({f"phantom-{args.data_seed}-0"}, args.split)
    return load_cxr(
        "phantom",
        resolution=config.resolution,
        split=args.split,
        seed=args.data_seed,
        num_proc=args.num_proc,
        cache_dir=args.cache_dir,
        num_images={args.split: args.num_images or default_images},
        config=config,
    )


def refuse_training_patients(shared: set[str], split: str) -> None:
    """Raises ValueError if patients of the training split would be evaluated on."""
    if shared:
        raise ValueError(
            f"Split {split!r} has {len(shared)} patients of the training split, {min(shared)!r} among them: numbers on "
            "images that the model may know say nothing. Evaluate on patients that it never saw."
        )
