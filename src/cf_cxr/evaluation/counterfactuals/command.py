"""The evaluation command: collect records in any number of processes, then summarise and draw them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from tqdm.auto import tqdm

from ...attributes import AttributeSchema
from ...causal_graph import CausalGraph
from ...files import write_atomically
from ...model_cards.counterfactual_results import markdown_table
from ...models.attribute_classifier import AttributeClassifierModel
from ...models.deep_scm import DeepSCMModel
from ...training.loop.arguments import parse_arguments
from ...training.loop.launch import start_missing_processes
from ...training.loop.run_folder import git_commit, library_versions
from ..judges import SameJudgeError, check_judge, weights_fingerprint
from ..records import RecordStore
from .arguments import EvaluationArguments
from .collecting import Collector
from .data import EvaluationData, load_evaluation_data
from .phantom_truth import TrueCounterfactuals
from .summary import Samples, summarise
from .two_sample import read_films, suspicious_films

RESULTS_FILE, TABLE_FILE, SAMPLES_FILE, RECORDS, PLOTS = (
    "results.json", "results.md", "samples.npz", "records", "plots",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluates from command-line arguments; writes records, results.json, results.md, samples.npz and plots.

    Every process returns the results.

    Raises:
        SameJudgeError: the judge took part in training.
        RecordsError: the folder holds the records of another evaluation.
        FileExistsError: the folder holds results.
        ValueError: arguments, models or data do not fit.
    """
    (args,) = parse_arguments(
        (EvaluationArguments,), argv, description="Evaluate counterfactuals by an independent judge."
    )
    started = time.perf_counter()
    accelerator = build_accelerator(args)
    folder = Path(args.output_dir)
    check_folder(folder, args)
    model = aligned(DeepSCMModel.from_pretrained(args.model).eval().to(accelerator.device))
    judge = aligned(AttributeClassifierModel.from_pretrained(args.judge).eval().to(accelerator.device))
    if args.channels_last:
        model.image_mechanism.to(memory_format=torch.channels_last)
    who = check_judge(model, judge, {"model": args.model, "judge": args.judge}, args.allow_training_judge)
    with accelerator.main_process_first():
        data = load_evaluation_data(args, model.schema, model.config.image_config.image_size)
    store = RecordStore(folder / RECORDS, records_identity(args, who, data, model, accelerator))
    if accelerator.is_main_process:
        if args.overwrite_output_dir:
            delete_outputs(folder, store)
        store.prepare()
    accelerator.wait_for_everyone()
    collector = Collector(
        model,
        judge,
        seed=args.seed,
        num_cycle_images=args.num_cycle_images,
        num_reversibility_images=args.num_reversibility_images,
        keep_images=not args.no_two_sample,
        autocast=accelerator.autocast,
        truth=None if data.phantom is None else TrueCounterfactuals(data.phantom),
        options=args.mechanism_options,
    )
    computed = collect(collector, data, store, accelerator, progress=not args.disable_tqdm)
    computed = int(accelerator.gather(torch.tensor([computed], device=accelerator.device)).sum())
    if accelerator.is_main_process:
        records = store.read_all(len(data))
        critics = read_films(records, model.schema, data.patients, args.seed, not args.disable_tqdm)
        results, samples = summarise(
            records, model.schema, model.graph, data.patients, args.seed, args.n_resamples, critics
        )
        results["identity"] = describe(args, who, data, store, model.schema)
        results["run"] = run_facts(accelerator, started, computed, len(data))
        pictures = None if args.no_plots else suspicious_films(records, critics)
        write_outputs(folder, results, samples, records, model.schema, model.graph, pictures)
        print((folder / TABLE_FILE).read_text(encoding="utf-8"))
    accelerator.wait_for_everyone()
    return json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))


def run_facts(accelerator: Accelerator, started: float, computed: int, batches: int) -> dict[str, Any]:
    """What tells of this run and not of the results: code, versions, time, device, processes, batches.

    Args:
        started: `time.perf_counter()` at its start. computed: batches that it computed. batches: of the evaluation.
    """
    return {
        "commit": git_commit(),
        "versions": library_versions(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "device": device_name(accelerator),
        "processes": accelerator.num_processes,
        "batches_computed": computed,
        "batches_kept": batches - computed,
    }


def build_accelerator(args: EvaluationArguments) -> Accelerator:
    """Accelerator for these arguments, after starting the processes that `accelerate launch` did not start."""
    start_missing_processes(args.cpu)
    return Accelerator(
        cpu=args.cpu or not torch.accelerator.is_available(),
        mixed_precision=args.mixed_precision,
        # The main process prepares data and summarises while the others wait, for longer than the default.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],
    )


def aligned(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its weights in memory of torch's own allocation, which starts at multiples of 64 bytes.

    A loaded weight lies wherever the reader's buffer put it, and matrix products of the CPU round differently by
    address: without this, two processes would not give the same numbers to the last bit.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def check_folder(folder: Path, args: EvaluationArguments) -> None:
    """Refuses a folder with results that nobody asked to replace."""
    if (folder / RESULTS_FILE).exists() and not (args.overwrite_output_dir or args.resume):
        raise FileExistsError(
            f"{folder / RESULTS_FILE} exists; use another --output_dir, --resume to compute the results anew from the "
            "records, or --overwrite_output_dir to begin again."
        )


def delete_outputs(folder: Path, store: RecordStore) -> None:
    """Deletes an earlier evaluation's records and results, nothing else."""
    store.delete()
    for name in (RESULTS_FILE, TABLE_FILE, SAMPLES_FILE):
        (folder / name).unlink(missing_ok=True)


def records_identity(
    args: EvaluationArguments, who: Mapping[str, Any], data: EvaluationData, model: DeepSCMModel, accelerator
) -> dict[str, Any]:
    """Everything on which the records depend (and nothing else: not the number of processes, nor the bootstrap)."""
    return {
        "model": who["fingerprints"]["model"],
        "judge": who["fingerprints"]["judge"],
        "dataset": args.dataset,
        "split": args.split,
        "resolution": model.config.image_config.image_size,
        "images": len(data.attributes),
        "data": data.fingerprint(),
        "seed": args.seed,
        "batch_size": args.batch_size,
        "num_cycle_images": args.num_cycle_images,
        "num_reversibility_images": args.num_reversibility_images,
        "images_kept": not args.no_two_sample,
        "mixed_precision": str(accelerator.mixed_precision),
        "channels_last": args.channels_last,
        "mechanism_options": {
            name: args.mechanism_options.get(name, getattr(model.config.image_config, name, None))
            for name in model.mechanism_options
        },
    }


def collect(
    collector: Collector, data: EvaluationData, store: RecordStore, accelerator, progress: bool = True
) -> int:
    """This process's share of the batches into the store; returns how many were not there."""
    share = range(accelerator.process_index, len(data), accelerator.num_processes)
    computed = 0
    for index in tqdm(share, desc="Evaluating", disable=not (progress and accelerator.is_main_process)):
        if store.read(index) is None:
            store.write(index, collector(index, data.span(index).start, data[index]))
            computed += 1
    accelerator.wait_for_everyone()
    return computed


def describe(
    args: EvaluationArguments, who: Mapping, data: EvaluationData, store: RecordStore, schema: AttributeSchema
) -> dict[str, Any]:
    """Identity of the evaluation: who judged whom on what."""
    return {
        "model": args.model,
        "judge": args.judge,
        **who,
        "dataset": args.dataset,
        "split": args.split,
        "finding": args.finding,
        "data_seed": args.data_seed,
        "resolution": store.identity["resolution"],
        "images": len(data.attributes),
        "patients": len(set(data.patients)),
        "data_fingerprint": store.identity["data"],
        "datasets_fingerprint": getattr(data.rows, "_fingerprint", None),
        "seed": args.seed,
        "n_resamples": args.n_resamples,
        "batch_size": args.batch_size,
        "num_cycle_images": args.num_cycle_images,
        "num_reversibility_images": args.num_reversibility_images,
        "mixed_precision": store.identity["mixed_precision"],
        "attributes": json.loads(json.dumps(schema.to_list())),
        "commit": git_commit(),
    }


def device_name(accelerator) -> str:
    """The device in words."""
    if accelerator.device.type == "cuda":
        return torch.cuda.get_device_name(accelerator.device)
    return str(accelerator.device)


def write_outputs(
    folder: Path,
    results: dict[str, Any],
    samples: Samples,
    records: Mapping[str, np.ndarray],
    schema: AttributeSchema,
    graph: CausalGraph,
    suspects: Mapping[str, np.ndarray] | None,
) -> None:
    """results.json, results.md, samples.npz, and plots unless `suspects` is None."""
    write_samples(folder / SAMPLES_FILE, samples)
    write_atomically(folder / RESULTS_FILE, json.dumps(results, indent=1, allow_nan=False).encode())
    write_atomically(folder / TABLE_FILE, markdown_table(results, schema).encode())
    if suspects is not None:
        from ..plots import write_plots

        examples = {k.removeprefix("examples/"): v for k, v in records.items() if k.startswith("examples/")}
        rows = {k: v for k, v in records.items() if not k.startswith("examples/")}
        write_plots(folder / PLOTS, rows, schema, graph, results, examples, suspects)


def write_samples(path: Path, samples: Samples) -> None:
    """Bootstrap samples as a compressed npz of plain float arrays."""
    import io

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **samples)
    write_atomically(path, buffer.getvalue())


__all__ = ["EvaluationArguments", "SameJudgeError", "main", "weights_fingerprint"]
