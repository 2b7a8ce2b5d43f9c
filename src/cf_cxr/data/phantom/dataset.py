"""The phantom as a Hugging Face data set: the same columns as every other source, and its ground truth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, NamedSplit, Sequence, Value
from datasets import Image as ImageFeature
from PIL import Image

from ..base import cxr_features
from ..errors import CXRDataError
from .chest import ChestPhantom
from .config import PhantomConfig
from .scm import phantom_schema

SPLIT_OFFSETS = {"train": 0, "validation": 10**9, "test": 2 * 10**9}  # splits never share an image
#: Raise it when pictures change: it is part of the key under which Arrow files are cached.
RENDERER_VERSION = 1
MASKS = ("lung_mask", "heart_mask", "device_mask")
_BLOCK = 64


def phantom_features(config: PhantomConfig) -> Features:
    """Typed columns of :func:`phantom_dataset`."""
    columns = cxr_features(phantom_schema(config.finding)[0])
    image_id = columns.pop("image_id")
    return Features(
        {
            **columns,
            "image_id": image_id,
            **{name: ImageFeature(mode="L") for name in MASKS},
            "cardiothoracic_ratio": Value("float32"),
            "costophrenic_angles": Sequence(Value("float32"), length=2),
            "index": Value("int64"),
            "seed": Value("int64"),
        }
    )


def _rows(shards: list[tuple[int, int]], config: PhantomConfig, seed: int, version: int) -> Iterator[dict]:
    """Rows of images ``first`` to ``last - 1`` of every shard; ``version`` only enters the cache's key."""
    phantom = ChestPhantom(config)
    for first, last in shards:
        indices = np.arange(first, last)
        attributes, noise = phantom.attributes_at(seed, indices), phantom.noise_at(seed, indices)
        images = phantom.render(attributes, noise)
        pictures = ((images.pixel_values[:, 0] + 1.0) * 127.5).round().byte().numpy()
        masks = {name: getattr(images, name)[:, 0].byte().mul(255).numpy() for name in MASKS}
        for i, index in enumerate(indices.tolist()):
            age, *classes = attributes[i].tolist()
            yield {
                "image": Image.fromarray(pictures[i]),
                "age": age,
                **dict(zip(("sex", "site", "finding"), map(int, classes))),
                "patient_id": f"phantom-{seed}-{index}",
                "image_id": f"phantom-{seed}-{index}",
                **{name: Image.fromarray(mask[i]) for name, mask in masks.items()},
                "cardiothoracic_ratio": float(images.cardiothoracic_ratio[i]),
                "costophrenic_angles": images.costophrenic_angles[i].tolist(),
                "index": index,
                "seed": seed,
            }


def phantom_dataset(
    num_images: Mapping[str, int],
    config: PhantomConfig | None = None,
    seed: int = 42,
    *,
    num_proc: int | None = None,
    cache_dir: str | None = None,
) -> DatasetDict:
    """Render a data set; every image is another patient.

    ``ChestPhantom(config).attributes_at(seed, [index])`` and ``.noise_at(seed, [index])`` give back a row's
    exogenous variables, hence its true counterfactuals. The first images of a split do not depend on how many
    are asked for.

    Args:
        num_images: number of images per split, of ``train``, ``validation`` and ``test``.
        config: settings of the phantom.
        seed: number of the endless data set.
        num_proc: processes to render with. cache_dir: where Arrow files go, see `datasets`.

    Raises:
        ValueError: for an unknown split, a number of images below 1, or no split at all.
        CXRDataError: the Arrow files of an earlier call are damaged.
    """
    config = config or PhantomConfig()
    if not num_images:
        raise ValueError(f"num_images is empty; give a number per split, of {', '.join(SPLIT_OFFSETS)}.")
    result = {}
    for split, count in num_images.items():
        if split not in SPLIT_OFFSETS:
            raise ValueError(f"Unknown split {split!r}; the phantom has {', '.join(SPLIT_OFFSETS)}.")
        if int(count) < 1:
            raise ValueError(f"num_images[{split!r}] is {count}; give at least 1, or leave the split out.")
        first, last = SPLIT_OFFSETS[split], SPLIT_OFFSETS[split] + int(count)
        shards = [(start, min(start + _BLOCK, last)) for start in range(first, last, _BLOCK)]
        arguments = {"shards": shards, "config": config, "seed": int(seed), "version": RENDERER_VERSION}
        try:
            rows = Dataset.from_generator(
                _rows,
                features=phantom_features(config),
                gen_kwargs=arguments,
                num_proc=min(num_proc, len(shards)) if num_proc else None,
                cache_dir=cache_dir,
                split=NamedSplit(split),
            )
            if rows["image_id"][:] == [f"phantom-{int(seed)}-{index}" for index in range(first, last)]:
                result[split] = rows
                continue
            fault = f"{rows.cache_files[0]['filename']} holds other images"
        except (pa.ArrowException, json.JSONDecodeError, KeyError, TypeError) as error:
            fault = str(error)
        raise CXRDataError(
            f"The cached phantoms in {cache_dir or 'the cache of datasets'} are not as they were written "
            f"({split}: {fault}). Delete that folder, and they are rendered again."
        )
    return DatasetDict(result)
