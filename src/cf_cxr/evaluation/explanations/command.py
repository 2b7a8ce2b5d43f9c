"""The evaluation command: collect records in any number of processes, then summarise and draw them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...black_box import ImageClassifier
from ...black_box.adapters import load_black_box
from ...files import write_atomically
from ...model_cards.explanation_results import results_markdown
from ...models.attribute_classifier import AttributeClassifierModel
from ...models.progressive_explainer.posterior_bins import PosteriorBins
from ...training.loop.arguments import parse_arguments
from ...training.loop.run_folder import git_commit
from ...training.progressive_explainer.command import load_segmenter
from ..counterfactuals.command import (
    RECORDS,
    RESULTS_FILE,
    TABLE_FILE,
    aligned,
    build_accelerator,
    check_folder,
    collect,
    delete_outputs,
    run_facts,
)
from ..judges import weights_fingerprint
from ..records import RecordStore
from .arguments import ExplanationEvaluationArguments
from .collecting import ExplanationCollector
from .data import ExplanationData, load_explanation_data
from .explainers import load_explainer, object_fingerprint
from .summary import SummarySettings, summarise

PLOTS = "plots"
_CHECKED_IMAGES = 16


@dataclass
class Embedder:
    """Where identity and Fréchet distances are measured.

    Args:
        function: images `(N, 1, H, W)` in [-1, 1] to features `(N, D)`.
        words: what it is, for the reader. fingerprint: of its weights.
        warning: a reason for doubt, or None.
    """

    function: Callable[[Tensor], Tensor]
    words: str
    fingerprint: str
    warning: str | None = None


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluates from command-line arguments; writes records, results.json, results.md and plots.

    Every process returns the results.

    Raises:
        ExplainerMismatchError: the explainer was trained for another classifier.
        BlackBoxError: the classifier's answers are no posteriors, all the same, or others each time.
        RecordsError: the folder holds the records of another evaluation.
        FileExistsError: the folder holds results.
        ValueError: arguments, models or data do not fit.
    """
    (args,) = parse_arguments(
        (ExplanationEvaluationArguments,),
        argv,
        description="Evaluate explanations of a black-box classifier.",
    )
    started = time.perf_counter()
    accelerator = build_accelerator(args)
    device, folder = accelerator.device, Path(args.output_dir)
    check_folder(folder, args)
    classifier = aligned(load_black_box(args.classifier, args.class_name, args.classifier_options).to(device))
    explainer, size, described = load_explainer(args, classifier, device)
    segmenter = _on_device(load_segmenter(args.segmenter), device)
    embedder = build_embedder(args, explainer, classifier, size, device)
    with accelerator.main_process_first():
        data = load_explanation_data(args, size)
    check_answers(classifier, data.some_images(_CHECKED_IMAGES).to(device))
    identity = records_identity(args, classifier, described, segmenter, embedder, data, size)
    store = RecordStore(folder / RECORDS, identity)
    if accelerator.is_main_process:
        if args.overwrite_output_dir:
            delete_outputs(folder, store)
        store.prepare()
    accelerator.wait_for_everyone()
    collector = ExplanationCollector(
        explainer,
        classifier,
        PosteriorBins(args.num_bins).centres,
        segmenter=segmenter,
        embedding=None if embedder is None else embedder.function,
        device=device,
    )
    computed = collect(collector, data, store, accelerator, progress=not args.disable_tqdm)
    computed = int(accelerator.gather(torch.tensor([computed], device=device)).sum())
    if accelerator.is_main_process:
        records = store.read_all(len(data))
        settings = SummarySettings(
            threshold=classifier.threshold,
            num_bins=args.num_bins,
            size=(size, size),
            minimum_overlap=args.minimum_overlap,
            minimum_device_area=args.minimum_device_area,
            num_distractors=args.num_distractors,
            feature_extractor=None if embedder is None else embedder.words,
            seed=args.seed,
            n_resamples=args.n_resamples,
        )
        results = summarise(records, data.patients, settings)
        warnings = [described["warning"], None if embedder is None else embedder.warning]
        results["identity"] = {
            **describe(args, classifier, described, data, store.identity),
            "warnings": [warning for warning in warnings if warning],
        }
        results["run"] = run_facts(accelerator, started, computed, len(data))
        write_atomically(folder / RESULTS_FILE, json.dumps(results, indent=1, allow_nan=False).encode())
        write_atomically(folder / TABLE_FILE, results_markdown(results).encode())
        if not args.no_plots:
            from ..plots.explanations import write_explanation_plots

            write_explanation_plots(folder / PLOTS, records, results, args.num_examples)
        print((folder / TABLE_FILE).read_text(encoding="utf-8"))
    accelerator.wait_for_everyone()
    return json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))


def check_answers(classifier: ImageClassifier, images: Tensor) -> None:
    """Refuses a classifier that cannot be explained before hours are spent on it.

    Raises:
        BlackBoxError: its answers to images `(N, 1, S, S)` are no posteriors, all the same, or others each time.
    """
    posterior = classifier.posterior(images)
    classifier.check_repeatable(images, posterior)
    classifier.refuse_constant(posterior, images.shape[-1])


def build_embedder(
    args: ExplanationEvaluationArguments,
    explainer: Any,
    classifier: ImageClassifier,
    size: int,
    device: torch.device,
) -> Embedder | None:
    """The judge's embedding, else the encoder of the explainer, else none.

    Raises:
        ValueError: a judge of images of another size.
    """
    if args.judge is not None:
        judge = aligned(AttributeClassifierModel.from_pretrained(args.judge).eval().to(device))
        if judge.config.image_size not in (None, size):
            raise ValueError(
                f"The judge {args.judge!r} is trained for images of {judge.config.image_size} pixels, the explanations "
                f"have {size}: give a judge of that size."
            )
        fingerprint = weights_fingerprint(judge)
        explained = [m for m in classifier.modules() if isinstance(m, AttributeClassifierModel)]
        same = any(weights_fingerprint(model) == fingerprint for model in explained)
        return Embedder(
            lambda images: judge(images, return_dict=True).embedding.float(),
            f"pooled embedding of the judge {args.judge}",
            fingerprint,
            "The judge is the explained classifier: where explanations change what it sees, its embedding moves."
            if same
            else None,
        )
    model = getattr(getattr(explainer, "autoencoder", explainer), "model", None)
    warning = "Identity and Fréchet distances are measured by a part of the explainer itself (no --judge)."
    if callable(getattr(model, "encode", None)):
        return Embedder(
            lambda images: model.encode(images).float().mean((2, 3)),
            "pooled bottleneck of the explainer itself",
            weights_fingerprint(model),
            warning,
        )
    inner = getattr(model, "classifier", None)
    if isinstance(inner, AttributeClassifierModel):
        return Embedder(
            lambda images: inner(images, return_dict=True).embedding.float(),
            "pooled embedding of the classifier inside the causal model",
            weights_fingerprint(inner),
            warning,
        )
    return None


def records_identity(
    args: ExplanationEvaluationArguments,
    classifier: ImageClassifier,
    described: Mapping[str, Any],
    segmenter: Any,
    embedder: Embedder | None,
    data: ExplanationData,
    size: int,
) -> dict[str, Any]:
    """Everything on which the records depend (and nothing else: not the number of processes, nor the bootstrap)."""
    return {
        "kind": "explanations",
        "records": 2,  # their version
        "explainer": described["fingerprint"],
        "method": described["method"],
        "student": described.get("student"),
        "shift": described.get("shift"),
        "variable": args.variable,
        "classifier": classifier.fingerprint(),
        "segmenter": None if segmenter is None else object_fingerprint(segmenter),
        "embedding": None if embedder is None else embedder.fingerprint,
        "dataset": args.dataset,
        "split": args.split,
        "finding": args.finding,
        "device_rate": args.device_rate,
        "resolution": size,
        "images": len(data.patients),
        "data": data.fingerprint(),
        "num_bins": args.num_bins,
        "seed": args.seed,
        "batch_size": args.batch_size,
    }


def describe(
    args: ExplanationEvaluationArguments,
    classifier: ImageClassifier,
    described: Mapping[str, Any],
    data: ExplanationData,
    identity: Mapping[str, Any],
) -> dict[str, Any]:
    """Identity of the evaluation: what explained which classifier on which images, measured by what."""
    return {
        "explainer": {k: v for k, v in described.items() if k != "warning"},
        "classifier": {
            "path": args.classifier,
            "class_name": classifier.class_name,
            "threshold": classifier.threshold,
            "fingerprint": identity["classifier"],
        },
        "segmenter": {"path": args.segmenter, "fingerprint": identity["segmenter"]},
        "judge": {"path": args.judge, "fingerprint": identity["embedding"]},
        "dataset": args.dataset,
        "split": args.split,
        "finding": args.finding,
        "device_rate": args.device_rate,
        "data_seed": args.data_seed,
        "resolution": identity["resolution"],
        "images": len(data.patients),
        "patients": len(set(data.patients)),
        "data_fingerprint": identity["data"],
        "num_bins": args.num_bins,
        "seed": args.seed,
        "n_resamples": args.n_resamples,
        "batch_size": args.batch_size,
        "commit": git_commit(),
    }


def _on_device(segmenter: Any, device: torch.device) -> Any:
    if isinstance(segmenter, torch.nn.Module):
        return aligned(segmenter.eval().to(device))
    return segmenter


__all__ = ["Embedder", "build_embedder", "main"]
