"""From data arguments to data sets that give whole batches."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ...attributes import AttributeSchema
from ...causal_graph import CausalGraph
from ...data import CXRCollator, cxr_schema, load_cxr
from ...data.report import describe_attributes
from ...images.image_processing_cxr import CXRImageProcessor
from .arguments import DataArguments, read_config

logger = logging.getLogger(__name__)

#: label of a mask -> column of the data set, as `phantom_dataset` names them
MASK_COLUMNS = {"lungs": "lung_mask", "heart": "heart_mask", "devices": "device_mask"}
_CHUNK = 64


class CXRBatches(Dataset):
    """Radiographs of one split as batches `{"pixel_values": (B, 1, S, S) in [-1, 1], "attributes": (B, n) raw}`.

    Args:
        rows: a `datasets.Dataset` with `image` and attribute columns.
        collator: makes rows into a batch.
        labels: batches then also have `"masks"`: `(B, L, S, S)` bool, one per label, of `MASK_COLUMNS`.
        cache: read all images once and keep them in memory, a byte per pixel (and one for all its masks).
        progress: show a progress bar while reading.

    Raises:
        ValueError: a label has no column in the data set.
    """

    def __init__(
        self,
        rows: Any,
        collator: CXRCollator,
        *,
        labels: Sequence[str] = (),
        cache: bool = False,
        progress: bool = True,
    ) -> None:
        if unknown := [label for label in labels if label not in MASK_COLUMNS]:
            raise ValueError(f"labels must be some of {list(MASK_COLUMNS)}, got {unknown}.")
        self.mask_columns = [MASK_COLUMNS[label] for label in labels]
        if missing := [name for name in self.mask_columns if name not in rows.column_names]:
            raise ValueError(
                f"The data set has no masks: the column {missing[0]!r} is missing. Only the phantom knows its anatomy "
                "(--dataset phantom); elsewhere let a trained segmenter find it."
            )
        masks = [name for name in MASK_COLUMNS.values() if name in rows.column_names]
        self.rows, self.collator, self.labels = rows.remove_columns(masks), collator, tuple(labels)
        self.mask_rows = rows.select_columns(self.mask_columns) if labels else None
        self.images: Tensor | None = None  # (N, 1, S, S) uint8
        self.attributes: Tensor | None = None
        self.codes: np.ndarray | None = None  # (N, S, S) uint8, label l in bit l
        if cache:
            self._read_all(progress)

    def _read_all(self, progress: bool) -> None:
        images, attributes, codes = [], [], []
        starts = range(0, len(self.rows), _CHUNK)
        for start in tqdm(starts, desc="Reading images", disable=not progress, leave=False):
            indices = range(start, min(start + _CHUNK, len(self.rows)))
            batch = self.collator([self.rows[index] for index in indices])
            images.append(((batch["pixel_values"] + 1) * 127.5).round().to(torch.uint8))
            attributes.append(batch["attributes"])
            codes.append(self._read_codes(indices))
        self.images, self.attributes = torch.cat(images), torch.cat(attributes)
        self.codes = np.concatenate(codes)

    def _read_codes(self, indices: Sequence[int]) -> np.ndarray:
        if not self.labels:
            return np.empty((len(indices), 0, 0), np.uint8)
        columns = self.mask_rows[list(indices)]
        masks = [[np.asarray(mask) > 127 for mask in columns[name]] for name in self.mask_columns]
        return np.packbits(masks, axis=0, bitorder="little")[0]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One image as a batch of 1."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The images of these indices as one batch."""
        indices = list(indices)
        if self.images is None:
            batch, codes = self.collator([self.rows[index] for index in indices]), self._read_codes(indices)
        else:
            pixels = self.images[indices].float().div_(127.5).sub_(1.0)
            batch = {"pixel_values": pixels, "attributes": self.attributes[indices]}
            codes = self.codes[indices]
        if self.labels:
            masks = np.unpackbits(codes[:, None], axis=1, count=len(self.labels), bitorder="little")
            batch["masks"] = torch.from_numpy(masks.view(bool))
        return batch


class AttributeBatches(Dataset):
    """The attribute columns of one split as batches `{"attributes": (B, n) raw}`; images are never read."""

    def __init__(self, rows: Any, schema: AttributeSchema) -> None:
        table = rows.select_columns([name for name in schema.names if name in rows.column_names])
        self.attributes = CXRCollator(schema).attributes(list(table))

    def __len__(self) -> int:
        return len(self.attributes)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The attributes of these indices as one batch."""
        return {"attributes": self.attributes[torch.as_tensor(list(indices))]}


def load_schema(args: DataArguments) -> tuple[AttributeSchema, CausalGraph]:
    """Attributes and causal graph: from `--schema`, else the default of the source.

    Raises:
        ValueError: the file lacks an entry or describes something impossible.
    """
    if args.schema is None:
        return cxr_schema(args.dataset, finding=args.finding, data_dir=args.data_dir)
    content = read_config(args.schema)
    missing = [key for key in ("attributes", "graph") if key not in content]
    if missing:
        raise ValueError(
            f"Schema file {args.schema!r} lacks {' and '.join(missing)}: it must hold "
            '{"attributes": [{"name": ..., "kind": ...}, ...], "graph": {"name": ["parent", ...], ...}}.'
        )
    try:
        schema = AttributeSchema(content["attributes"])
        return schema, CausalGraph(content["graph"], schema.names)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"Schema file {args.schema!r} is not as it should be: {error}") from error


def load_splits(args: DataArguments, schema: AttributeSchema) -> Mapping[str, Any]:
    """Train and validation rows, cut to `max_*_samples`; prints the attributes and which values occur.

    Raises:
        ValueError: there is no training split, or its columns are not the schema's attributes.
    """
    options: dict[str, Any] = {"finding": args.finding, "num_images": args.num_images}
    if args.device_rate is not None:
        options["config"] = {"device_rate": args.device_rate}
    if args.dataset == "folder" and args.schema is not None:
        options["schema"] = schema
    splits = load_cxr(
        args.dataset,
        data_dir=args.data_dir,
        resolution=args.resolution,
        seed=args.data_seed,
        num_proc=args.num_proc,
        cache_dir=args.cache_dir,
        on_error=args.on_error,
        **{name: value for name, value in options.items() if value is not None},
    )
    if "train" not in splits:
        raise ValueError(f"{args.dataset} at {args.data_dir!r} has no train split, only {', '.join(splits)}.")
    check_columns(splits["train"], schema)
    chosen = {}
    for name, limit in (("train", args.max_train_samples), ("validation", args.max_val_samples)):
        if name in splits:
            rows = splits[name]
            chosen[name] = rows.select(range(min(limit or len(rows), len(rows))))
    if first_process():
        _print_attributes(args, schema, chosen)
    return chosen


def first_process() -> bool:
    """Whether this is the first of several processes, or the only one; asked before they know each other."""
    return os.environ.get("RANK", "0") == "0"


def _print_attributes(args: DataArguments, schema: AttributeSchema, splits: Mapping[str, Any]) -> None:
    described, graph = load_schema(args)
    columns = [rows.select_columns(list(schema.names)).to_pandas() for rows in splits.values()]
    lines = describe_attributes(schema, graph if described == schema else None, pd.concat(columns))
    print("\n  ".join([f"{args.dataset}: " + ", ".join(f"{len(splits[n])} {n}" for n in splits), *lines]))


def check_columns(rows: Any, schema: AttributeSchema) -> None:
    """Refuse a schema that the columns of a data set do not follow.

    Raises:
        ValueError: an attribute has no column, or its classes are others or in another order.
    """
    for attribute in schema:
        if attribute.name not in rows.column_names:
            raise ValueError(
                f"The schema's attribute {attribute.name!r} is no column of the data set; it has "
                f"{', '.join(name for name in rows.column_names if name != 'image')}."
            )
        classes = getattr(rows.features[attribute.name], "names", None)
        if attribute.is_discrete and classes is not None and tuple(classes) != tuple(attribute.categories):
            raise ValueError(
                f"The schema gives {attribute.name!r} the classes {list(attribute.categories)}, but the data set "
                f"has {list(classes)}; write them alike and in the same order."
            )


def make_datasets(
    args: DataArguments, schema: AttributeSchema, labels: Sequence[str] = (), *, progress: bool | None = None
) -> tuple[CXRBatches, CXRBatches | None, CXRImageProcessor, dict[str, Any]]:
    """Train and validation batches, the processor that made them, and what `run.json` says about them.

    Raises:
        ValueError: masks of `labels` are asked of a data set without masks.
    """
    splits = load_splits(args, schema)
    processor = CXRImageProcessor(size=args.resolution)
    collator, progress = CXRCollator(schema, processor), first_process() if progress is None else progress
    made = {
        name: CXRBatches(rows, collator, labels=labels, cache=args.cache_images, progress=progress)
        for name, rows in splits.items()
    }
    return made["train"], made.get("validation"), processor, describe_data(args, schema, splits)


def describe_data(args: DataArguments, schema: AttributeSchema, splits: Mapping[str, Any]) -> dict[str, Any]:
    """Identity of the data of a run: source, sizes, fingerprints, schema."""
    return {
        "data": {
            "dataset": args.dataset,
            "data_dir": args.data_dir,
            "finding": args.finding,
            "device_rate": args.device_rate,
            "data_seed": args.data_seed,
            "resolution": args.resolution,
            "splits": {
                name: {"images": len(rows), "fingerprint": getattr(rows, "_fingerprint", None)}
                for name, rows in splits.items()
            },
            "attributes": json.loads(json.dumps(schema.to_list())),
        }
    }
