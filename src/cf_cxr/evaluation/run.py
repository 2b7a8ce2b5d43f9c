"""The course of an evaluation, of whatever kind: its arguments, records in any number of processes, results, pictures.

A kind is an `Evaluation`: what is loaded, measured per batch, summarised and drawn. `run` does the rest.
"""

from __future__ import annotations

import io
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from tqdm.auto import tqdm

from ..files import write_atomically
from ..training.loop.arguments import _option, _require, parse_arguments
from ..training.loop.launch import refuse_missing_processes
from ..training.loop.run_folder import git_commit, library_versions
from .images import EvaluationImages
from .records import RecordStore

RESULTS_FILE, TABLE_FILE, SAMPLES_FILE = OUTPUTS = "results.json", "results.md", "samples.npz"
RECORDS, PLOTS = "records", "plots"
Samples = dict[str, np.ndarray]


@dataclass
class EvaluationArguments:
    """What every evaluation is told: which images, how many at a time, where to."""

    phantom_images: ClassVar[int] = 1000
    mixed_precision = "no"

    dataset: str = _option("parquet", "Source, as for the training scripts; phantom has ground truth.")
    data_dir: str | None = _option(None, "Folder of the source.")
    split: str = _option("test", "Split to evaluate on; the training split is refused.")
    finding: str | None = _option(None, "Finding set against 'No Finding', if not the source's default.")
    num_images: int | None = _option(
        None, "Images of the split to render (phantom only; default 1000, or 500 to explain)."
    )
    device_rate: float | None = _option(
        None, "Share of images with a pacemaker, and of those with a tube (phantom only; default 0.15)."
    )
    data_seed: int = _option(42, "Seed of the split by patient and of the phantom, as in training.")
    num_proc: int | None = _option(None, "Processes that prepare images the first time.")
    cache_dir: str | None = _option(None, "Cache of prepared data.")
    max_images: int | None = _option(
        None, "Only the first N images; counterfactuals: of those fully labelled."
    )
    batch_size: int = _option(16, "Images per batch and process.")
    seed: int = _option(0, "Seed of all draws, of critics and of the bootstrap.")
    n_resamples: int = _option(1000, "Bootstrap resamples of patients.")
    output_dir: str = _option("outputs/evaluation", "Where records, results.json, results.md and plots go.")
    overwrite_output_dir: bool = _option(False, "Delete earlier records and results of the folder.")
    resume: bool = _option(
        False,
        "Go on with the folder's records although results are there: they are computed anew from the records. "
        "An interrupted run is continued without this, if it was the same evaluation.",
    )
    cpu: bool = _option(False, "Use the CPU although an accelerator is present.")
    no_plots: bool = _option(False, "Write no plots.")
    disable_tqdm: bool = _option(False, "No progress bar.")

    def __post_init__(self) -> None:
        self._require_integers(1, "batch_size", "n_resamples", "num_images", "max_images")
        self._require_integers(0, "seed", "data_seed")
        _require(
            not (self.overwrite_output_dir and self.resume), "overwrite_output_dir", True,
            "left out together with --resume: one deletes what the other needs",
        )  # fmt: skip
        for name in ("num_images", "device_rate"):
            value = getattr(self, name)
            words = f"left out for {self.dataset!r}, whose images are there already; --max_images takes the first ones"
            _require(value is None or self.dataset == "phantom", name, value, words)

    def _require_integers(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            words = "a positive integer" if least else "0 or a positive integer"
            _require(value is None or value >= least, name, value, words)


class Evaluation(ABC):
    """One kind of evaluation; the methods are called in the order in which they stand here.

    Args:
        args: of the class `arguments`. The constructor loads the models, onto the device.
        accelerator: of this run.

    `images` are there from `identity` on.
    """

    arguments: ClassVar[type[EvaluationArguments]]
    description: ClassVar[str]
    images: EvaluationImages

    def __init__(self, args: Any, accelerator: Accelerator) -> None:
        self.args, self.accelerator, self.device = args, accelerator, accelerator.device

    @abstractmethod
    def load_images(self) -> EvaluationImages:
        """The images, checked against the models; the main process comes first."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All on which records depend, but the images, their batches and the seed (nor processes, nor the bootstrap)."""

    @abstractmethod
    def collector(self) -> Callable[[int, int, Mapping[str, Any]], dict[str, np.ndarray]]:
        """From the number of a batch, that of its first image, and the batch, to its records."""

    @abstractmethod
    def summarise(self, records: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], Samples]:
        """Results in JSON's types, and the bootstrap samples behind them, if they are to be kept."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The results' identity, beyond images and seed: what was evaluated by what."""

    @abstractmethod
    def markdown(self, results: Mapping[str, Any]) -> str:
        """The results as tables."""

    @abstractmethod
    def plot(self, folder: Path, records: Mapping[str, np.ndarray], results: Mapping[str, Any]) -> None:
        """Writes pictures."""


def run(kind: type[Evaluation], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluates from command-line arguments; writes records, results.json, results.md, samples.npz and plots.

    Every process returns the results.

    Raises:
        RecordsError: the folder holds the records of another evaluation.
        FileExistsError: the folder holds results.
        ValueError: arguments, models or data do not fit.
    """
    (args,) = parse_arguments((kind.arguments,), argv, description=kind.description)
    started, folder = time.perf_counter(), Path(args.output_dir)
    refuse_missing_processes()
    accelerator = Accelerator(
        cpu=args.cpu or not torch.accelerator.is_available(),
        mixed_precision=args.mixed_precision,
        # The main process prepares data and summarises while the others wait, for longer than the default.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],
    )
    if (folder / RESULTS_FILE).exists() and not (args.overwrite_output_dir or args.resume):
        raise FileExistsError(
            f"{folder / RESULTS_FILE} exists; use another --output_dir, --resume to compute the results anew from the "
            "records, or --overwrite_output_dir to begin again."
        )
    evaluation, device = kind(args, accelerator), accelerator.device
    with accelerator.main_process_first():
        images = evaluation.images = evaluation.load_images()
    chosen = ("dataset", "split", "finding", "device_rate", "seed", "batch_size")
    facts = {name: getattr(args, name) for name in chosen}
    facts |= {"resolution": images.collator.resolution, "images": len(images.patients)}
    store = RecordStore(folder / RECORDS, {**evaluation.identity(), **facts, "data": images.fingerprint()})
    if accelerator.is_main_process:
        if args.overwrite_output_dir:
            for name in OUTPUTS:
                (folder / name).unlink(missing_ok=True)
        store.prepare(args.overwrite_output_dir)
    accelerator.wait_for_everyone()
    collector, computed = evaluation.collector(), 0
    share = range(accelerator.process_index, len(images), accelerator.num_processes)
    quiet = args.disable_tqdm or not accelerator.is_main_process
    for index in tqdm(share, desc="Evaluating", disable=quiet):
        if store.read(index) is None:
            store.write(index, collector(index, images.span(index).start, images[index]))
            computed += 1
    accelerator.wait_for_everyone()
    computed = int(accelerator.gather(torch.tensor([computed], device=device)).sum())
    if accelerator.is_main_process:
        records = store.read_all(len(images))
        results, samples = evaluation.summarise(records)
        results["identity"] = {
            **evaluation.describe(),
            **facts,
            "data_seed": args.data_seed,
            "patients": len(set(images.patients)),
            "data_fingerprint": store.identity["data"],
            "n_resamples": args.n_resamples,
            "commit": git_commit(),
        }
        results["run"] = {
            "commit": git_commit(),
            "versions": library_versions(),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "wall_seconds": round(time.perf_counter() - started, 1),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            "processes": accelerator.num_processes,
            "batches_computed": computed,
            "batches_kept": len(images) - computed,
        }
        if samples:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **samples)
            write_atomically(folder / SAMPLES_FILE, buffer.getvalue())
        write_atomically(folder / RESULTS_FILE, json.dumps(results, indent=1, allow_nan=False).encode())
        table = evaluation.markdown(results)
        write_atomically(folder / TABLE_FILE, table.encode())
        if not args.no_plots:
            evaluation.plot(folder / PLOTS, records, results)
        print(table)
    accelerator.wait_for_everyone()
    return json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))


def aligned(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its weights in memory of torch's own allocation, which starts at multiples of 64 bytes.

    A loaded weight lies wherever the reader's buffer put it, and matrix products of the CPU round differently by
    address: without this, two processes would not give the same numbers to the last bit.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model
