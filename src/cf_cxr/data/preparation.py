"""Reading, squaring and resizing all images of a source once, into Arrow files that training maps into memory.

The images are worked on in shards of `SHARD_ROWS`. A shard is written beside its final name and renamed when
it is whole, so an interrupted preparation goes on with the shards it has; no more than a few images per process
are in memory at a time. The folder's name is a hash of everything that the result depends on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, NamedSplit, concatenate_datasets
from datasets.arrow_writer import ArrowWriter
from datasets.utils import tqdm
from filelock import FileLock

from ..files import write_atomically
from ..images.image_processing_cxr import CXRImageProcessor
from .base import SPLITS, SourceTable, cxr_features
from .encoding import ImageEncoder
from .errors import CXRDataError, UnreadableImageError
from .report import HINT, LoadReport

FORMAT_VERSION = 2
SHARD_ROWS = 1024
BATCH_ROWS = 64  # rows that are encoded before they go to disk
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """One piece of work: some rows of one split, and the Arrow file they become."""

    path: Path
    split: str
    rows: pd.DataFrame
    features: Features
    resolution: int | None
    processor: CXRImageProcessor
    on_error: str

    @property
    def sidecar(self) -> Path:
        """The file that marks the shard as whole and says which of its images were skipped."""
        return self.path.with_suffix(".json")

    def outcome(self) -> dict[str, Any] | None:
        """The sidecar's content, or None if there is work to do (also: a skipped file has changed since)."""
        if not (self.path.is_file() and self.sidecar.is_file()):
            return None
        try:
            outcome = json.loads(self.sidecar.read_text(encoding="utf-8"))
            unchanged = all(entry["stamp"] == _stamp(entry["file"]) for entry in outcome["skipped"])
            whole = len(outcome["digests"]) == outcome["images"] == len(self.rows) - len(outcome["skipped"])
            named = all(e["image"] and e["reason"] for e in (*outcome["skipped"], *outcome["suspicious"]))
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("%s is damaged (%s): its images are prepared again.", self.sidecar, error)
            return None
        return outcome if unchanged and whole and named else None

    def open(self, images: int) -> Dataset:
        """The shard's images; raises CXRDataError if the file is damaged or holds other images."""
        own = set(zip(self.rows["image_id"].astype(str), self.rows["patient_id"].astype(str)))
        fault = "it holds other images or columns"
        try:
            data = Dataset.from_file(str(self.path), split=NamedSplit(self.split))
            same = data.features == self.features and len(data) == images
            if same and own.issuperset(zip(data["image_id"], data["patient_id"])):
                return data
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            fault = str(error) or type(error).__name__
        raise CXRDataError(
            f"{self.path} is not as it was written ({fault}). Delete it, and its images are prepared again."
        )


def prepare(
    table: SourceTable,
    *,
    resolution: int | None,
    processor: CXRImageProcessor,
    cache_dir: Path,
    num_proc: int | None = None,
    max_skipped: float = 0.5,
    overwrite_cache: bool = False,
) -> DatasetDict:
    """Makes a table's images into a DatasetDict on disk, or opens it where that is done already.

    Args:
        table: rows and images; its report is completed and saved next to the data.
        resolution: side in pixels; None keeps the files as they are (each is still decoded once as a test).
        processor: squares and resizes.
        cache_dir: gets one folder per combination of settings.
        num_proc: processes; None or 1 works in this one.
        max_skipped: part of the images that may be skipped, from 0 to 1, before this is an error.
        overwrite_cache: prepare again even what is there.

    Raises:
        UnreadableImageError: an image cannot be read and the report's `on_error` is "raise".
        CXRDataError: there is nothing to load, or more than `max_skipped` was skipped.
    """
    report = table.report
    _check_fraction(report, len(table.rows), max_skipped)
    folder = cache_dir / f"{report.source}-{cache_key(table, resolution, processor)}"
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_shards(table, folder, resolution, processor))
    lock = FileLock(folder / ".lock")  # a second process, for instance of accelerate, waits and then reads
    if overwrite_cache or any(shard.outcome() is None for shard in shards):
        with lock:
            for leftover in folder.glob(".incomplete-*"):  # of a process that was killed
                leftover.unlink()
            if overwrite_cache:
                for shard in shards:
                    shard.sidecar.unlink(missing_ok=True)
            _work(shards, num_proc)
    outcomes = [shard.outcome() for shard in shards]
    parts = [(shard, shard.open(outcome["images"])) for shard, outcome in zip(shards, outcomes)]
    try:
        for shard, outcome in zip(shards, outcomes):
            report.images[shard.split] = report.images.get(shard.split, 0) + outcome["images"]
            for entry in outcome["skipped"]:
                report.refuse(entry["image"], entry["reason"], UnreadableImageError)
            report.suspicious.extend(outcome["suspicious"])
        _check_fraction(report, sum(report.images.values()), max_skipped)
    except CXRDataError:
        for shard, outcome in zip(shards, outcomes):
            if outcome["skipped"]:  # the next call tries these again
                shard.sidecar.unlink(missing_ok=True)
        raise
    data = DatasetDict()
    for split in SPLITS:
        if own := [part for shard, part in parts if shard.split == split and len(part)]:
            data[split] = concatenate_datasets(own, split=NamedSplit(split)) if own[1:] else own[0]
    _report_copies(report, data, [digest for outcome in outcomes for digest in outcome["digests"]])
    if not report.is_saved(folder):  # a finished cache may be read-only
        with lock:
            report.save(folder)
    report.announce(folder, logging.WARNING if table.inferred else logging.INFO)
    return data


def cache_key(table: SourceTable, resolution: int | None, processor: CXRImageProcessor) -> str:
    """Hash of everything that the prepared data depend on: rows, schema, size, the processor's settings."""
    rows = pd.util.hash_pandas_object(table.rows, index=False).to_numpy().tobytes()
    settings = {
        "format": FORMAT_VERSION,
        "source": table.report.source,
        "columns": list(table.rows.columns),
        "rows": hashlib.sha256(rows).hexdigest(),
        "schema": table.schema.to_list(),
        "resolution": resolution,
        "processor": processor.settings(),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _shards(table: SourceTable, folder: Path, *settings) -> Iterator[Shard]:
    features = cxr_features(table.schema, study_id="study_id" in table.rows)
    for split in SPLITS:
        rows = table.rows[table.rows["split"] == split]
        count = -(-len(rows) // SHARD_ROWS)
        for i in range(count):
            path = folder / f"{split}-{i:05d}-of-{count:05d}.arrow"
            part = rows.iloc[i * SHARD_ROWS : (i + 1) * SHARD_ROWS]
            yield Shard(path, split, part, features, *settings, table.report.on_error)


def _work(shards: list[Shard], num_proc: int | None) -> None:
    todo = [shard for shard in shards if shard.outcome() is None]
    total, left = (sum(len(shard.rows) for shard in group) for group in (shards, todo))
    with tqdm(total=total, initial=total - left, unit="image", desc="Preparing radiographs") as bar:
        if not num_proc or num_proc == 1 or len(todo) <= 1:
            for shard in todo:
                prepare_shard(shard)
                bar.update(len(shard.rows))
            return
        with ProcessPoolExecutor(
            min(num_proc, len(todo)), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            futures = {pool.submit(prepare_shard, shard): shard for shard in todo}
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.update(len(futures[future].rows))
            except BaseException:  # also Ctrl-C: whole shards stay, the rest is not begun
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def prepare_shard(shard: Shard) -> None:
    """Writes one shard and its sidecar; runs in a worker process."""
    outcome: dict[str, Any] = {"images": 0, "skipped": [], "suspicious": [], "digests": []}

    def write(path: Path) -> None:
        rows = _read_rows(shard, outcome)
        with ArrowWriter(features=shard.features, path=str(path)) as writer:
            while batch := list(islice(rows, BATCH_ROWS)):
                columns = {name: [row[name] for row in batch] for name in shard.features}
                writer.write_table(pa.Table.from_pydict(columns, schema=shard.features.arrow_schema))
            writer.finalize()

    write_atomically(shard.path, write)
    write_atomically(shard.sidecar, json.dumps({**outcome, "images": len(outcome["digests"])}))


def _read_rows(shard: Shard, outcome: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows whose image can be read; `outcome` gets what is said of the images."""
    encode = ImageEncoder(shard.resolution, shard.processor)
    for row in shard.rows.to_dict("records"):
        name, file = row["image_id"], row["image"]
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                image = encode(file, int(row.get("image_row", -1)))
        except UnreadableImageError as error:
            if shard.on_error == "raise":
                raise UnreadableImageError(f"{error} {HINT}") from error
            outcome["skipped"].append(
                {"image": name, "reason": str(error), "file": file, "stamp": _stamp(file)}
            )
            continue
        messages = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
        outcome["suspicious"].extend({"image": name, "reason": message} for message in messages)
        stored = image["bytes"] or Path(file).read_bytes()  # the same for the same picture
        outcome["digests"].append(hashlib.blake2b(stored, digest_size=8).hexdigest())
        features = shard.features.items()
        yield {key: image if key == "image" else _cell(row[key], feature) for key, feature in features}


def _cell(value: Any, feature: Any) -> int | float | str | None:
    if pd.isna(value):
        return None
    return int(value) if isinstance(feature, ClassLabel) else feature.pa_type.to_pandas_dtype()(value)


def _stamp(file: str) -> list[int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _report_copies(report: LoadReport, data: DatasetDict, digests: list[str]) -> None:
    """Notes pictures that two patients share: one of them may be trained on, and the other tested."""
    first: dict[str, tuple[str, str, str]] = {}
    whose = (
        (i, p, name) for name, rows in data.items() for i, p in zip(rows["image_id"], rows["patient_id"])
    )
    for digest, (image, patient, split) in zip(digests, whose):
        other = first.setdefault(digest, (image, patient, split))
        if other[1] != patient:
            reason = "{} (patient {}, {}) is the same picture as {} (patient {}, {})."
            report.suspicious.append({"image": image, "reason": reason.format(image, patient, split, *other)})


def _check_fraction(report: LoadReport, images: int, max_skipped: float) -> None:
    skipped = len(report.skipped)
    if images == 0 or skipped > max_skipped * (images + skipped):
        first = f" The first: {report.skipped[0]['reason']}" if skipped else ""
        raise CXRDataError(
            f"{report.source}: {skipped} of {images + skipped} images cannot be used, more than the part "
            f"max_skipped={max_skipped:g} that may be missing.{first}"
        )
