"""Fully labelled images, and the interventions on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...attributes import AttributeSchema
from ...data import CXRCollator
from ...images.image_processing_cxr import CXRImageProcessor
from ...training.loop.batches import check_columns
from ..images import EvaluationImages, load_splits

#: Training images whose attributes give the phantom's marginal; they are not rendered for it.
PHANTOM_MARGINAL = 4000


@dataclass
class CounterfactualImages(EvaluationImages):
    """Fully labelled images of one split.

    Args:
        attributes: raw factual values `(N, n)`.
        interventions: variable -> raw values `(N,)`, drawn from the training marginal.
    """

    attributes: np.ndarray = field(kw_only=True)
    interventions: dict[str, np.ndarray] = field(kw_only=True)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Batch: `pixel_values` (B, 1, S, S), `attributes` (B, n), `do` {k: (B,)}, and the phantom's `noise`."""
        span = self.span(index)
        rows = [self.rows[i] for i in span]
        batch: dict[str, Any] = self.collator(rows)
        batch["do"] = {k: torch.from_numpy(v[span.start : span.stop]) for k, v in self.interventions.items()}
        if self.phantom is not None:
            batch["noise"] = torch.cat([self.phantom.noise_at(row["seed"], [row["index"]]) for row in rows])
        return batch

    def known(self) -> Mapping[str, np.ndarray]:
        """The attributes, and what is done to them."""
        return {"": self.attributes, **self.interventions}


def load_counterfactual_images(args: Any, schema: AttributeSchema, size: int) -> CounterfactualImages:
    """The images to evaluate on, `size` pixels square, with interventions drawn from the training marginal (A, section 3).

    Raises:
        ValueError: there is no such split, it shares patients with the training split, an attribute is missing from
            the data, or no image has all attributes.
    """
    rows, train, phantom = load_splits(args, size)
    collator = CXRCollator(schema, CXRImageProcessor(size=size))

    def read(table: Any) -> np.ndarray:
        check_columns(table, schema)
        return collator.attributes(list(table.select_columns(list(schema.names)))).numpy()

    attributes = read(rows)
    if phantom is not None:
        if phantom.schema != schema:
            raise ValueError(
                f"The model knows {schema}, the phantom {phantom.schema}, whose order counts here."
            )
        # without masks to decode
        rows = rows.select_columns(["image", *schema.names, "patient_id", "image_id", "seed", "index"])
        marginals = phantom.attributes_at(args.data_seed, range(PHANTOM_MARGINAL)).numpy()
    elif train is None:
        raise ValueError(f"{args.dataset} has no split 'train', whose attributes give the interventions.")
    else:
        marginals = read(train)
    known = np.flatnonzero(~np.isnan(attributes).any(1))[: args.max_images]
    if len(known) == 0:
        raise ValueError(
            f"None of the {len(rows)} images of split {args.split!r} has all of {', '.join(schema.names)} known; "
            "counterfactuals can only be measured where the factual attributes are."
        )
    rng = np.random.default_rng(args.seed)
    interventions = {}
    for name, values in zip(schema.names, marginals.T):
        values = values[~np.isnan(values)]
        if len(values) == 0:
            raise ValueError(
                f"No training image knows {name!r}, so there is no marginal to draw do({name}) from."
            )
        interventions[name] = rng.choice(values, size=len(known)).astype(np.float32)
    return CounterfactualImages(
        rows.select(known.tolist()),
        collator,
        args.batch_size,
        phantom,
        attributes=attributes[known],
        interventions=interventions,
    )
