"""`load_cxr` and `cxr_schema`: one call for every source."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from huggingface_hub.constants import HF_HOME

from ..attributes import AttributeSchema
from ..causal_graph import CausalGraph
from ..images.image_processing_cxr import CXRImageProcessor
from .base import SourceTable
from .cohort import is_missing, refuse
from .errors import CXRDataError
from .folder import folder_schema
from .phantom import PhantomConfig, phantom_dataset, phantom_schema
from .preparation import prepare
from .report import LoadReport, describe_attributes
from .sources import NAMES, default_graph, default_schema, find_source
from .splits import check_no_overlap

CACHE_VARIABLE = "CF_CXR_CACHE"
#: Number of phantom images unless num_images is given.
PHANTOM_IMAGES = {"train": 4000, "validation": 500, "test": 1000}


def cxr_schema(
    name: str | Path, *, finding: str | None = None, data_dir: str | Path | None = None
) -> tuple[AttributeSchema, CausalGraph]:
    """Default attributes and causal graph of a source.

    Age is in years on [0, 100]; sex, view and finding are binary; race has three levels (White, Asian,
    Black). The graph is that of Xia et al., MICCAI 2024 (arXiv 2403.09422): age is a parent of the finding,
    the others are roots, and every attribute is a parent of the image.

    Args:
        name: one of `sources.NAMES`, or the folder of a data set as `load_cxr` accepts it.
        finding: the label that is set against "No Finding", in the owner's spelling, for instance
            `"Cardiomegaly"`; the default is pleural effusion. Its name is also the name of the class,
            except that pleural effusion is always called `"Effusion"`.
        data_dir: the folder, needed for `"folder"` only: its schema comes from its `schema.json`, or is
            inferred from its `metadata.csv`.

    Raises:
        ValueError: unknown source, or a finding where there is no choice.
    """
    if name not in NAMES:
        name, data_dir = find_source(name, data_dir)
    if name == "phantom":
        return phantom_schema(finding or "Effusion")
    if name != "folder":
        schema = default_schema(str(name), finding)
        return schema, default_graph(schema.names)
    if finding is not None:
        raise ValueError(f"finding={finding!r}: the findings of a folder are the values in its metadata.csv.")
    if data_dir is None:
        raise ValueError("The schema of a folder depends on its metadata.csv: pass data_dir=...")
    return folder_schema(data_dir)


def load_cxr(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    resolution: int | None = None,
    split: str | None = None,
    seed: int = 42,
    num_proc: int | None = None,
    cache_dir: str | Path | None = None,
    on_error: str = "raise",
    processor: CXRImageProcessor | None = None,
    max_skipped: float = 0.5,
    overwrite_cache: bool = False,
    **options: Any,
) -> DatasetDict | Dataset:
    """Radiographs with their attributes, split by patient, from any supported source.

    The first call reads, squares and resizes every image into a cache folder (in `num_proc` processes, with
    progress; if it is interrupted, the next call goes on); later calls with the same settings open the cache.
    Columns: `image` (8-bit grey), one per attribute of `cxr_schema` (float32 or `ClassLabel`; None is
    unknown), `patient_id`, `image_id` and, where there is one, `study_id`.

    Args:
        name_or_path: "phantom", "nih_cxr14", "mimic_cxr", "chexpert", "padchest", "folder" or "parquet"; or
            a folder, whose kind is then recognised by its files.
        data_dir: the folder of a named source. Nothing is ever downloaded.
        resolution: side of the square images in pixels. None keeps the files as they are (each is decoded
            once, as a test).
        split: "train", "validation" or "test" returns this one `Dataset`; None returns all.
        seed: divides the patients, and seeds the phantom.
        num_proc: processes that prepare images.
        cache_dir: by default the environment variable CF_CXR_CACHE, or `cf_cxr` in the Hugging Face cache.
        on_error: "raise" stops at the first unreadable image or bad row and names it; "skip" leaves it out,
            warns, and lists it in `skipped.csv` beside the data and in `load_report(result)`.
        processor: squares and resizes the images; by default `CXRImageProcessor(size=resolution)`, which
            crops centrally. Its size must be the resolution, if both are given.
        max_skipped: more skipped images than this part of all is an error even with on_error="skip".
        overwrite_cache: prepare again, for instance after images were replaced under the same names.
        options: of the source: `finding`, `other_findings`, `splits`, `fractions`, `schema`, ...; see
            `read_nih_cxr14` and so on. For the phantom: `num_images` (of the
            training split, or a dictionary with the number per split), `config` and `finding`.

    Raises:
        MissingDataError: a folder, file or column is missing; the message says which.
        UnreadableImageError: an image cannot be read (on_error="raise").
        BadRowError: a table has an impossible value or a path outside the folder (on_error="raise").
        CXRDataError: anything else that is wrong with the data or an option.
    """
    report = LoadReport(source="", on_error=on_error)  # refuses an unknown on_error before any work
    report.source, folder = find_source(name_or_path, data_dir)
    if report.source == "phantom":
        _check_options(_phantom, options, "phantom")
        size = resolution if processor is None else _processor(resolution, processor)[0]
        result = _phantom(size, seed, num_proc, cache_folder(cache_dir) / "phantom", **options)
    else:
        resolution, processor = _processor(resolution, processor)
        table = read_table_of(report.source, folder, report, seed, options)
        if table.needs_resolution and resolution is None:
            raise CXRDataError(
                f"The images of {folder} are 16-bit or DICOM and cannot be used as they are: "
                "pass resolution=... to prepare them."
            )
        result = prepare(
            table,
            resolution=resolution,
            processor=processor,
            cache_dir=cache_folder(cache_dir),
            num_proc=num_proc,
            max_skipped=max_skipped,
            overwrite_cache=overwrite_cache,
        )
    if split is None:
        return result
    if split not in result:
        raise CXRDataError(f"split={split!r} is not there; {name_or_path} has {', '.join(result)}.")
    return result[split]


def read_table_of(
    source: str, folder: Path, report: LoadReport, seed: int, options: dict[str, Any]
) -> SourceTable:
    """The rows of a source, with options checked and splits that share no patient."""
    reader = getattr(import_module(f".{source}", __package__), f"read_{source}")
    _check_options(reader, options, source)
    table: SourceTable = reader(folder, report=report, seed=seed, **options)
    rows = table.rows[table.rows["image"].notna()]
    bad = is_missing(rows["patient_id"]) | (rows["patient_id"] == "None")
    rows = refuse(rows, bad, "the patient is unknown; give every image a patient_id, or none.", report)
    file = [name for name in ("image", "image_row") if name in rows]
    twice = rows.duplicated(file, keep=False)
    for _, same in rows[twice].groupby(file, sort=False):
        patients = ", ".join(same["patient_id"].unique()[:5])
        reason = f"{len(same)} rows name this one file, of patient {patients}; leave one."
        refuse(same, same["image_id"].notna(), reason, report)
    table.rows = rows = rows[~twice].reset_index(drop=True)
    if rows.empty:
        raise CXRDataError(f"No image of {folder} is in the cohort.\n{report}")
    report.attributes = describe_attributes(table.schema, table.graph, rows)
    check_no_overlap(rows["patient_id"], rows["split"], str(folder))
    return table


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where prepared data go: the argument, the environment variable CF_CXR_CACHE, or the HF cache."""
    return Path(cache_dir or os.environ.get(CACHE_VARIABLE) or Path(HF_HOME) / "cf_cxr").expanduser()


def _check_options(reader: Callable, options: dict[str, Any], source: str) -> None:
    parameters = inspect.signature(reader).parameters.values()
    known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"report", "seed"}
    if unknown := sorted(set(options) - known):
        raise CXRDataError(f"{source} has no option {unknown[0]!r}; it has {', '.join(sorted(known))}.")


def _processor(
    resolution: int | None, processor: CXRImageProcessor | None
) -> tuple[int | None, CXRImageProcessor]:
    if resolution is not None and (not isinstance(resolution, int) or not 8 <= resolution <= 4096):
        raise CXRDataError(f"resolution={resolution!r}: give a number of pixels from 8 to 4096, or None.")
    if processor is None:
        return resolution, CXRImageProcessor(size=resolution or 128)
    size = processor.size["height"]
    if resolution not in (None, size):
        raise CXRDataError(f"resolution={resolution}, but the processor makes images of {size} pixels.")
    return size, processor


def _phantom(
    resolution: int | None,
    seed: int,
    num_proc: int | None,
    cache_dir: Path,
    *,
    num_images: int | Mapping[str, int] | None = None,
    config: PhantomConfig | Mapping[str, Any] | None = None,
    finding: str | None = None,
) -> DatasetDict:
    config = PhantomConfig(**config) if isinstance(config, Mapping) else config or PhantomConfig()
    wanted = {"resolution": resolution, "finding": finding}
    config = replace(config, **{name: value for name, value in wanted.items() if value is not None})
    if num_images is None:
        num_images = PHANTOM_IMAGES
    elif isinstance(num_images, int):
        num_images = {"train": num_images, "validation": -(-num_images // 8), "test": -(-num_images // 4)}
    return phantom_dataset(num_images, config, seed, num_proc=num_proc, cache_dir=str(cache_dir))
