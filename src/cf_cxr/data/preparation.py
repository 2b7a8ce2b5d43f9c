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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import IDENTIFIERS, SPLITS, SourceTable, cxr_features
from .encoding import ImageEncoder
from .errors import CXRDataError, UnreadableImageError
from .report import LoadReport, write_text

if TYPE_CHECKING:
    import datasets
    import pandas as pd

    from ..images.image_processing_cxr import CXRImageProcessor

FORMAT_VERSION = 2
SHARD_ROWS = 1024
logger = logging.getLogger(__name__)

BATCH_ROWS = 64  # rows that are encoded before they go to disk
SIDECAR = ".json"


@dataclass(frozen=True)
class Shard:
    """One piece of work: some rows of one split, and the Arrow file they become."""

    path: Path
    rows: pd.DataFrame
    schema: tuple[dict[str, Any], ...]
    resolution: int | None
    processor: dict[str, Any]
    on_error: str

    @property
    def sidecar(self) -> Path:
        """The file that marks the shard as whole and says which of its images were skipped."""
        return self.path.with_suffix(SIDECAR)

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

    def open(self, outcome: dict[str, Any]) -> datasets.Dataset:
        """The shard's images; raises CXRDataError if the file is damaged or holds other images."""
        import pyarrow as pa
        from datasets import Dataset, NamedSplit

        own = set(zip(self.rows["image_id"].astype(str), self.rows["patient_id"].astype(str)))
        fault = "it holds other images or columns"
        try:
            data = Dataset.from_file(str(self.path), split=NamedSplit(self.path.name.split("-")[0]))
            same = data.features == self.features() and len(data) == outcome["images"]
            if same and own.issuperset(zip(data["image_id"], data["patient_id"])):
                return data
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            fault = str(error) or type(error).__name__
        raise CXRDataError(
            f"{self.path} is not as it was written ({fault}). Delete it, and its images are prepared again."
        )

    def features(self) -> datasets.Features:
        """The columns of the Arrow file."""
        from ..attributes import AttributeSchema

        return cxr_features(AttributeSchema(self.schema), study_id="study_id" in self.rows.columns)


def prepare(
    table: SourceTable,
    *,
    resolution: int | None,
    processor: CXRImageProcessor,
    cache_dir: Path,
    num_proc: int | None = None,
    max_skipped: float = 0.5,
    overwrite_cache: bool = False,
) -> datasets.DatasetDict:
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
    from filelock import FileLock

    _check_fraction(table.report, len(table.rows), max_skipped)
    folder = Path(cache_dir) / f"{table.report.source}-{cache_key(table, resolution, processor)}"
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_shards(table, folder, resolution, processor))
    lock = FileLock(folder / ".lock")  # a second process, for instance of accelerate, waits and then reads
    if overwrite_cache or any(shard.outcome() is None for shard in shards):
        with lock:
            for leftover in folder.glob(".*.tmp"):  # of a process that was killed
                leftover.unlink()
            if overwrite_cache:
                for shard in shards:
                    shard.sidecar.unlink(missing_ok=True)
            _work(shards, num_proc)
    outcomes = [shard.outcome() for shard in shards]
    data = _open(shards, outcomes)
    try:
        _complete_report(table.report, shards, outcomes, max_skipped)
    except CXRDataError:
        _forget_skipped(shards)
        raise
    _report_copies(table.report, data, [digest for outcome in outcomes for digest in outcome["digests"]])
    if not table.report.is_saved(folder):  # a finished cache may be read-only
        with lock:
            table.report.save(folder)
    table.report.announce(folder, logging.WARNING if table.inferred else logging.INFO)
    return data


def cache_key(table: SourceTable, resolution: int | None, processor: CXRImageProcessor) -> str:
    """Hash of everything that the prepared data depend on: rows, schema, size, the processor's settings."""
    import pandas as pd

    rows = pd.util.hash_pandas_object(table.rows, index=False).to_numpy().tobytes()
    settings = {
        "format": FORMAT_VERSION,
        "source": table.report.source,
        "columns": list(table.rows.columns),
        "rows": hashlib.sha256(rows).hexdigest(),
        "schema": table.schema.to_list(),
        "resolution": resolution,
        "processor": _processor_settings(processor),
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _processor_settings(processor: CXRImageProcessor) -> dict[str, Any]:
    names = type(processor).valid_kwargs.__annotations__
    return {name: getattr(processor, name) for name in names}


def _shards(table: SourceTable, folder: Path, resolution, processor) -> Iterator[Shard]:
    for split in SPLITS:
        rows = table.rows[table.rows["split"] == split]
        count = -(-len(rows) // SHARD_ROWS)
        for i in range(count):
            yield Shard(
                path=folder / f"{split}-{i:05d}-of-{count:05d}.arrow",
                rows=rows.iloc[i * SHARD_ROWS : (i + 1) * SHARD_ROWS],
                schema=tuple(table.schema.to_list()),
                resolution=resolution,
                processor=_processor_settings(processor),
                on_error=table.report.on_error,
            )


def _work(shards: list[Shard], num_proc: int | None) -> None:
    from datasets.utils import tqdm

    todo = [shard for shard in shards if shard.outcome() is None]
    if not todo:
        return
    total, left = (sum(len(shard.rows) for shard in group) for group in (shards, todo))
    with tqdm(total=total, initial=total - left, unit="image", desc="Preparing radiographs") as bar:
        if not num_proc or num_proc == 1 or len(todo) == 1:
            for shard in todo:
                prepare_shard(shard)
                bar.update(len(shard.rows))
            return
        with ProcessPoolExecutor(min(num_proc, len(todo)), initializer=_one_thread) as pool:
            futures = {pool.submit(prepare_shard, shard): shard for shard in todo}
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.update(len(futures[future].rows))
            except BaseException:  # also Ctrl-C: whole shards stay, the rest is not begun
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def prepare_shard(shard: Shard) -> None:
    """Writes one shard and its sidecar; runs in a worker process."""
    import pyarrow as pa
    from datasets.arrow_writer import ArrowWriter

    from ..images.image_processing_cxr import CXRImageProcessor

    features = shard.features()
    encode = ImageEncoder(shard.resolution, CXRImageProcessor(**shard.processor))
    skipped: list[dict[str, Any]] = []
    suspicious: list[dict[str, str]] = []
    digests: list[str] = []
    temporary = shard.path.with_name(f".{shard.path.name}.{os.getpid()}.tmp")
    try:
        with ArrowWriter(features=features, path=str(temporary)) as writer:
            for batch in _batches(_read_rows(shard, encode, skipped, suspicious)):
                digests += [_digest(row["image"]) for row in batch]
                columns = {name: [row[name] for row in batch] for name in features}
                writer.write_table(pa.Table.from_pydict(columns, schema=features.arrow_schema))
            writer.finalize()
        temporary.replace(shard.path)
    finally:
        temporary.unlink(missing_ok=True)
    outcome = {"images": len(digests), "skipped": skipped, "suspicious": suspicious, "digests": digests}
    write_text(shard.sidecar, json.dumps(outcome))


def _digest(image: dict[str, Any]) -> str:
    """Hash of what is stored, which is the same for the same picture."""
    data = image["bytes"] or Path(image["path"]).read_bytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _read_rows(shard: Shard, encode: ImageEncoder, skipped: list, suspicious: list) -> Iterator[dict]:
    discrete = {a["name"] for a in shard.schema if a["kind"] != "continuous"}
    names = {a["name"] for a in shard.schema}
    for row in shard.rows.drop(columns="split").to_dict("records"):
        file = row.pop("image")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                image = encode(file, int(row.pop("image_row", -1)))
        except UnreadableImageError as error:
            if shard.on_error == "raise":
                raise UnreadableImageError(
                    f'{error} Pass on_error="skip" to leave such images out and list them in a report.'
                ) from error
            entry = {"image": row["image_id"], "reason": str(error), "file": file, "stamp": _stamp(file)}
            skipped.append(entry)
            continue
        messages = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
        suspicious.extend({"image": row["image_id"], "reason": message} for message in messages)
        for name in names:
            row[name] = _cell(row[name], name in discrete)
        for name in row.keys() & set(IDENTIFIERS):
            row[name] = str(row[name]) if row[name] == row[name] else None
        yield row | {"image": image}


def _cell(value: float, discrete: bool) -> int | float | None:
    if value != value:  # NaN
        return None
    return int(value) if discrete else float(value)


def _batches(rows: Iterator[dict]) -> Iterator[list[dict]]:
    batch: list[dict] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _forget_skipped(shards: list[Shard]) -> None:
    """Lets the next call try the shards again that have unreadable images."""
    for shard in shards:
        if (shard.outcome() or {}).get("skipped"):
            shard.sidecar.unlink(missing_ok=True)


def _stamp(file: str) -> list[int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _complete_report(
    report: LoadReport, shards: list[Shard], outcomes: list[dict], max_skipped: float
) -> None:
    for shard, outcome in zip(shards, outcomes):
        split = shard.path.name.split("-")[0]
        report.images[split] = report.images.get(split, 0) + outcome["images"]
        for entry in outcome["skipped"]:
            report.refuse(entry["image"], entry["reason"], UnreadableImageError)
        report.suspicious.extend(outcome["suspicious"])
    _check_fraction(report, sum(report.images.values()), max_skipped)


def _report_copies(report: LoadReport, data: datasets.DatasetDict, digests: list[str]) -> None:
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


def _open(shards: list[Shard], outcomes: list[dict]) -> datasets.DatasetDict:
    from datasets import DatasetDict, NamedSplit, concatenate_datasets

    result = DatasetDict()
    for split in SPLITS:
        whole = [pair for pair in zip(shards, outcomes) if pair[0].path.name.startswith(f"{split}-")]
        parts = [part for part in (shard.open(outcome) for shard, outcome in whole) if len(part)]
        if parts:
            result[split] = concatenate_datasets(parts, split=NamedSplit(split)) if parts[1:] else parts[0]
    return result
