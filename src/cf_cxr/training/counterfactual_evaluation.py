"""Evaluation of a deep SCM on a test split by an independent judge.

A = Xia et al., MICCAI 2024; M = Monteiro et al., ICLR 2023. Effectiveness and amplification are A's, composition
and reversibility M's.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from ..data import CXRCollator, load_cxr
from ..image_processing_cxr import CXRImageProcessor
from ..metrics.bootstrap import bootstrap_interval, patient_weights
from ..metrics.discrimination import attribute_score
from ..metrics.exposure import exposure_share
from ..metrics.soundness import image_distance
from ..models.attribute_classifier import AttributeClassifierModel
from ..models.deep_scm import DeepSCMModel
from ..reports import markdown_table
from .arguments import parse_arguments
from .manifest import git_commit


@dataclass
class EvaluationArguments:
    """What is evaluated, by whom, on which images."""

    _argument_group_name = "Evaluation"

    model: str = field(default="outputs/deep_scm", metadata={"help": "DeepSCM: folder or Hub name."})
    judge: str = field(default="outputs/judge", metadata={"help": "Independent attribute classifier."})
    dataset: str = field(default="parquet", metadata={"help": "Source, as for the training scripts."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the source."})
    split: str = field(default="test", metadata={"help": "Split to evaluate on."})
    cache_dir: str | None = field(default=None, metadata={"help": "Cache of prepared data."})
    max_images: int | None = field(default=None, metadata={"help": "Only the first N fully labelled images."})
    batch_size: int = field(default=16, metadata={"help": "Images per batch."})
    seed: int = field(default=0, metadata={"help": "Seed of interventions, latents and bootstrap."})
    n_resamples: int = field(default=1000, metadata={"help": "Bootstrap resamples of patients."})
    output_dir: str = field(default="outputs/evaluation", metadata={"help": "Where results.json and .md go."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace earlier results."})
    allow_training_judge: bool = field(
        default=False, metadata={"help": "Accept the model's own classifier as judge (marked in the tables)."}
    )


class SameJudgeError(ValueError):
    """The judge is the classifier that the model was trained with or carries."""


def weights_fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights in float32, independent of where they are stored."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def draw_interventions(values: np.ndarray, marginal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Intervened values drawn from the training marginal, one per row (A, section 3)."""
    return rng.choice(marginal, size=len(values))


@torch.no_grad()
def collect(
    model: DeepSCMModel,
    judge: AttributeClassifierModel,
    batches: Sequence[dict],
    dos: dict[str, np.ndarray],
    seed: int,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Runs all interventions; returns arrays by name, one row per image (see the keys below).

    `nll`, `kl`, `composition`; per variable k: `do/k`, `counterfactual/k` (raw attributes `(N, n)`),
    `change/k`, `exposure/k`, `reversibility/k`; per variable j and image kind: `judge/real/j`, `judge/do k/j`,
    and the same with `model/` for the model's own classifier.
    """
    store: dict[str, list[np.ndarray]] = {}
    schema, device = model.schema, model.device

    def put(name: str, value: Any) -> None:
        value = value.detach().float().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        store.setdefault(name, []).append(value)

    def ask(name: str, images: Tensor) -> None:
        for who, classifier in (("judge", judge), ("model", model.classifier)):
            for attribute, value in classifier.predict(images).items():
                put(f"{who}/{name}/{attribute}", value[0] if isinstance(value, tuple) else value)

    start = 0
    for index, batch in enumerate(tqdm(batches, desc="Evaluating", disable=not progress)):
        pixels, factual = batch["pixel_values"].to(device), batch["attributes"].to(device)
        rows = slice(start, start + len(pixels))
        start += len(pixels)
        generator = torch.Generator(device=device).manual_seed(seed + index)
        parents = schema.encode(factual)
        for image, parent in zip(pixels.split(1), parents.split(1)):
            out = model.image_mechanism(image, parent, sample_posterior=True, generator=generator)
            put("nll", out.nll.reshape(1))
            put("kl", out.kl.reshape(1))
        noise = model.abduct(pixels, factual, generator=generator)
        interventions = [{k: torch.as_tensor(v[rows], device=device)} for k, v in dos.items()]
        result = model.counterfactual(None, None, [{}, *interventions], noise=noise)
        ask("real", pixels)
        put("factual", factual)
        put("composition", image_distance(result.pixel_values[:, 0], pixels))
        for k, name in enumerate(dos, start=1):
            images, attributes = result.pixel_values[:, k], result.attributes[:, k]
            ask(f"do {name}", images)
            put(f"counterfactual/{name}", attributes)
            put(f"change/{name}", image_distance(images, pixels))
            put(f"exposure/{name}", exposure_share(pixels, images))
            back = model.image_mechanism.abduct(images, schema.encode(attributes))
            put(f"reversibility/{name}", image_distance(model.image_mechanism.decode(back, parents), pixels))
    return {name: np.concatenate(parts) for name, parts in store.items()}


def summarise(
    data: dict[str, np.ndarray], schema, graph, patients, seed: int, n_resamples: int
) -> dict[str, Any]:
    """All metrics with 95 % bootstrap intervals by patient, as nested dictionaries of [estimate, low, high].

    AUC in points (0 to 100), MAE in units, images in grey levels of 0 to 255, likelihoods per dimension.
    """
    weights = patient_weights(patients, n_resamples, seed)

    def interval(statistic) -> list[float]:
        return [round(v, 4) for v in bootstrap_interval(statistic, weights)]

    def mean(values) -> list[float]:
        return interval(lambda w: float(np.average(values, weights=w)) if w.sum() else math.nan)

    def score(who, kind, j, value, keep=None):
        a, prediction = schema[j], data[f"{who}/{kind}/{j}"]
        keep = np.ones(len(value)) if keep is None else keep
        return lambda w: attribute_score(a.kind, prediction, value, w * keep)

    factual = {j: data["factual"][:, schema.index(j)] for j in schema.names}
    bits = (data["nll"] + data["kl"]) / math.log(2)
    out: dict[str, Any] = {
        "nelbo_bits_per_dim": mean(bits),
        "composition": mean(data["composition"]),
        "composition_max": round(float(data["composition"].max()), 6),
        "real": {j: interval(score("judge", "real", j, factual[j])) for j in schema.names},
        "real_model_classifier": {j: interval(score("model", "real", j, factual[j])) for j in schema.names},
        "do": {},
    }
    for k in schema.names:
        if f"counterfactual/{k}" not in data:
            continue
        value = data[f"counterfactual/{k}"][:, schema.index(k)]
        changed = (value != factual[k]).astype(float)
        share = np.where(np.isnan(data[f"exposure/{k}"]), 0, data[f"exposure/{k}"])
        row = {
            "effectiveness": interval(score("judge", f"do {k}", k, value)),
            "effectiveness_changed_only": interval(score("judge", f"do {k}", k, value, changed)),
            "effectiveness_model_classifier": interval(score("model", f"do {k}", k, value)),
            "changed_share": round(float(changed.mean()), 4),
            "reversibility": mean(data[f"reversibility/{k}"]),
            "change": mean(data[f"change/{k}"]),
            "exposure_share_median": round(float(np.median(share[changed > 0])), 4),
            "amplification": {},
            "posterior_drift": {},
        }
        for j in schema.names:
            if j == k or j in graph.descendants(k):
                continue
            after, before = score("judge", f"do {k}", j, factual[j]), score("judge", "real", j, factual[j])
            row["amplification"][j] = interval(lambda w, f=after, g=before: f(w) - g(w))
            drift = np.abs(data[f"judge/do {k}/{j}"] - data[f"judge/real/{j}"])
            row["posterior_drift"][j] = round(float(drift.mean()), 4)
        out["do"][k] = row
    return out


def _load_batches(args: EvaluationArguments, model: DeepSCMModel):
    size = model.config.image_config.image_size
    splits = load_cxr(args.dataset, data_dir=args.data_dir, resolution=size, cache_dir=args.cache_dir)
    if args.split not in splits:
        raise ValueError(f"There is no split {args.split!r}, only {', '.join(splits)}.")
    collator = CXRCollator(model.schema, CXRImageProcessor(size=size))
    names = list(model.schema.names)
    train = collator.attributes(list(splits["train"].select_columns(names))).numpy()
    rows = splits[args.split]
    attributes = collator.attributes(list(rows.select_columns(names)))
    known = (~attributes.isnan().any(1)).nonzero()[:, 0].tolist()[: args.max_images]
    if not known:
        raise ValueError(f"No image of {args.split!r} has all of {', '.join(names)}.")
    rows = rows.select(known)
    batches = [
        collator([rows[i] for i in range(s, min(s + args.batch_size, len(rows)))])
        for s in range(0, len(rows), args.batch_size)
    ]
    return batches, attributes[known].numpy(), train, list(rows["patient_id"])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluates from command-line arguments; writes results.json and results.md, returns the results."""
    (args,) = parse_arguments(
        (EvaluationArguments,), argv, description="Evaluate counterfactuals by an independent judge."
    )
    folder = Path(args.output_dir)
    if (folder / "results.json").exists() and not args.overwrite_output_dir:
        raise FileExistsError(
            f"{folder / 'results.json'} exists; use another --output_dir or --overwrite_output_dir."
        )
    device = Accelerator().device
    model = DeepSCMModel.from_pretrained(args.model).eval().to(device)
    judge = AttributeClassifierModel.from_pretrained(args.judge).eval().to(device)
    if judge.schema != model.schema:
        raise ValueError(f"The judge knows {judge.schema}, the model {model.schema}.")
    prints = {"judge": weights_fingerprint(judge), "model_classifier": weights_fingerprint(model.classifier)}
    used = {prints["model_classifier"], *(model.config.training_classifiers or [])}
    if prints["judge"] in used and not args.allow_training_judge:
        raise SameJudgeError(
            f"The judge {args.judge!r} is a classifier that {args.model!r} was trained with or carries; it cannot grade "
            "itself. Train another (architecture, seed), or pass --allow_training_judge to see its opinion."
        )
    batches, factual, train, patients = _load_batches(args, model)
    rng = np.random.default_rng(args.seed)
    dos = {}
    for column, name in enumerate(model.schema.names):
        marginal = train[:, column][~np.isnan(train[:, column])]
        dos[name] = draw_interventions(factual[:, column], marginal, rng).astype(np.float32)
    data = collect(model, judge, batches, dos, args.seed)
    results = summarise(data, model.schema, model.graph, patients, args.seed, args.n_resamples)
    results["identity"] = {
        "model": args.model,
        "judge": args.judge,
        "fingerprints": prints,
        "judge_is_training_classifier": prints["judge"] in used,
        "dataset": args.dataset,
        "split": args.split,
        "images": len(factual),
        "patients": len(set(patients)),
        "seed": args.seed,
        "n_resamples": args.n_resamples,
        "commit": git_commit(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("results.json", json.dumps(results, indent=2)),
        ("results.md", markdown_table(results, model.schema)),
    ):
        temporary = folder / f".{name}.incomplete"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / name)
    print(markdown_table(results, model.schema))
    return results
