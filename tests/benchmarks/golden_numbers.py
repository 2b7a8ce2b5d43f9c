"""Hashes and summary numbers of everything that a change of structure must leave as it is.

    export PYTHONPATH=src
    python tests/benchmarks/golden_numbers.py --record     # writes golden_numbers.json beside this file
    python tests/benchmarks/golden_numbers.py              # computes again and compares; status 1 if anything differs
    python tests/benchmarks/golden_numbers.py --only training/cft --tolerance 1e-4

In float32 on one thread: the bundled models on the example radiographs, both evaluations on 40 phantoms, and of every
training stage the loss, the gradients and the weights after one step, on a batch of phantoms and seeded generators.
Hashes are those of one kind of processor; elsewhere record anew at the old commit, or give a tolerance. What knows how
a stage or a command looks inside stands under "adapters": mend those when it moves, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import io
import json
import math
import os
import platform
import random
import runpy
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, pipeline
from transformers.utils import logging

import cf_cxr
from cf_cxr.examples import example_images

FILE, ROOT = Path(__file__).with_suffix(".json"), Path(__file__).resolve().parents[2]
PRETRAINED = ROOT / "src" / "cf_cxr" / "pretrained"
MODEL = PRETRAINED / "cf-cxr-nih-128"
SIDE, IMAGES, SEED = 32, 8, 5  # of the phantoms
INTERVENTIONS = [
    {}, *({"age": years} for years in (25, 50, 85)), {"sex": "Male"}, {"sex": "Female"}, {"view": "PA"}, {"view": "AP"},
    {"finding": "No Finding"}, {"finding": "Effusion"}, {"age": 80, "finding": "Effusion"},
    {"sex": "Female", "view": "AP", "finding": "No Finding"},
]  # fmt: skip
Entry = dict[str, Any]  # quantity -> array, tensor, JSON, or Numbers
Entries = Iterator[tuple[str, Entry]]


@dataclass
class Numbers:
    """JSON of which the numbers count, all of which are kept by name."""

    content: Any


def summarise(value: Any) -> dict[str, Any]:
    """SHA-256 of a value and, in float64, a few numbers about it."""
    if isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value.detach().numpy() if isinstance(value, Tensor) else value)
        data, numbers = f"{array.dtype}{array.shape}".encode() + array.tobytes(), statistics(array)
    elif isinstance(value, Numbers):
        numbers = dict(leaves(value.content))
        data = json.dumps(numbers, sort_keys=True).encode()
    else:
        data = json.dumps(value, sort_keys=True).encode()
        numbers = statistics(np.array([number for _, number in leaves(value)]))
    return {"sha256": hashlib.sha256(data).hexdigest(), **{k: float(f"{v:.9g}") for k, v in numbers.items()}}


def statistics(array: np.ndarray) -> dict[str, float]:
    x = array.astype(np.float64).ravel()
    if x.size < 2:
        return {f"value {i}": v for i, v in enumerate(x)}
    return {"mean": x.mean(), "std": x.std(), "min": x.min(), "max": x.max(), "norm": np.linalg.norm(x)}


def leaves(content: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in JSON, with their places."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from leaves(value, f"{path}/{key}" if path else str(key))
    elif isinstance(content, int | float):
        yield path, float(content)


def compare(old: dict[str, dict], new: dict[str, dict]) -> tuple[bool, float, str]:
    """Whether two entries have the same hashes; the largest |a - b| / max(1, |a|) of their numbers; and where it is."""
    different = [q for q in old | new if old.get(q, {}).get("sha256") != new.get(q, {}).get("sha256")]
    worst, place = 0.0, ", ".join(different)
    for quantity in different:
        a, b = old.get(quantity, {}), new.get(quantity, {})
        for name in sorted((a.keys() | b.keys()) - {"sha256"}):
            x, y = a.get(name, math.nan), b.get(name, math.nan)
            difference = math.inf if math.isnan(x) or math.isnan(y) else abs(x - y) / max(1, abs(x))
            if difference > worst:
                worst, place = difference, f"{quantity}: {name} {x:g} -> {y:g}"
    return not different, worst, place


def seed_all(seed: int = SEED) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


# ------------------------------------------------------------------------------------------------ the bundled models


@functools.cache
def counterfactual_pipeline(mechanism: str) -> Any:
    """The bundled pipeline, or that of the bundled model with the bundled flow."""
    if mechanism == "hvae":
        return pipeline("chest-xray-counterfactual", device="cpu")
    landed = cf_cxr.DeepSCMModel.from_pretrained(MODEL)
    image = AutoModel.from_pretrained(PRETRAINED / "causal-flow-nih-128")
    model = cf_cxr.DeepSCMModel.from_parts(landed.attribute_scm, image, landed.classifier)
    processor = cf_cxr.CXRImageProcessor.from_pretrained(MODEL)
    return pipeline("chest-xray-counterfactual", model=model, image_processor=processor, device="cpu")


def counterfactuals(mechanism: str, interventions: list, **options: Any) -> Entries:
    """What the pipeline gives back for the four examples, per seed, number of draws and intervention."""
    pipe, examples = counterfactual_pipeline(mechanism), example_images()
    known = [e.attributes for e in examples]
    calls = {"inferred": {"seed": 0}}  # the attributes
    for seed in (0, 1):
        calls[f"seed{seed}"] = {"attributes": known, "seed": seed}
        if mechanism == "hvae":
            calls[f"seed{seed}-2draws"] = {"attributes": known, "seed": seed, "num_samples": 2}
    for call, settings in calls.items():
        found = pipe([e.path for e in examples], do=interventions, **settings, **options)
        for do, records in zip(interventions, zip(*found, strict=True), strict=True):
            arrays = [name for name in ("image", "difference", "std") if name in records[0]]
            entry: Entry = {name: np.stack([np.asarray(r[name]) for r in records]) for name in arrays}
            entry["attributes"] = [[r["attributes"], r["factual_attributes"]] for r in records]
            entry["posteriors"] = [r["predictions"] for r in records]
            yield f"{call}/do({','.join(f'{k}={v}' for k, v in do.items())})", entry


@torch.no_grad()
def mechanism(name: str) -> Entries:
    """The model under the pipeline: pixels, losses, reconstruction and difference map, counterfactuals."""
    pipe, examples = counterfactual_pipeline(name), example_images()
    pixels = pipe.image_processor([e.path for e in examples], return_tensors="pt")["pixel_values"]
    attributes = pipe.model.schema.to_tensor([e.attributes for e in examples])
    yield "pixels", {"pixels": pixels}
    generator = torch.Generator().manual_seed(SEED)
    output = pipe.model(pixels, attributes, generator=generator)
    losses = {n: output[n] for n in ("image_loss", "attribute_loss", "classifier_loss", "logits")}
    image = output.reconstruction
    yield "forward", losses | ({} if image is None else {"image": image, "difference": image - pixels})
    out = pipe.model.counterfactual(pixels, attributes, INTERVENTIONS[::5], generator=generator)
    yield "counterfactual", {"image": out.pixel_values, "difference": out.pixel_values - pixels[:, None]}


def explanations(**model: Any) -> Entries:
    """The explanation pipeline on the four examples, with its defaults and with few steps to a target."""
    pipe = pipeline("chest-xray-explanation", device="cpu", **model)
    for call, options in (("defaults", {}), ("4steps", {"steps": 4, "target": 0.3})):
        for example in example_images():
            why = pipe(example.path, class_name="finding" if model else None, **options)
            entry: Entry = {"images": np.stack([np.asarray(image) for image in why.images])}
            entry |= {
                n: np.asarray(why[n]) for n in ("difference", "targets", "posteriors", "source_posterior")
            }
            yield f"{call}/{example.image_id}", entry | {"flip": [why.counterfactual_index, why.valid]}


# --------------------------------------------------------------------------------------- tiny models of the phantom


@functools.cache
def phantoms(count: int = IMAGES, unknown: bool = False) -> dict[str, Tensor]:
    """Drawn chests with masks; with `unknown` every third lacks an attribute."""
    from cf_cxr.data.phantom import ChestPhantom, PhantomConfig

    chest = ChestPhantom(PhantomConfig(resolution=SIDE, device_rate=0.5))
    attributes = chest.attributes_at(SEED, range(count))
    images = chest.render(attributes, chest.noise_at(SEED, range(count)))
    for row in range(0, count if unknown else 0, 3):
        attributes[row, row % attributes.shape[1]] = math.nan
    masks = torch.cat([images.lung_mask, images.heart_mask, images.device_mask], dim=1)
    return {"pixel_values": images.pixel_values, "attributes": attributes, "masks": masks}


def tiny(kind: str, seed: int = SEED, noise: float = 0.02, **settings: Any) -> nn.Module:
    """A random model `cf_cxr.<kind>Model`, with noise on every weight since some layers start at zero."""
    seed_all(seed)
    config = {"image_size": SIDE} if "SCM" not in kind else {}
    model = getattr(cf_cxr, f"{kind}Model")(getattr(cf_cxr, f"{kind}Config")(**config, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * torch.randn_like(parameter)
    return model.eval()


SCHEMA, GRAPH = cf_cxr.cxr_schema("phantom")
BACKBONE = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
scm = functools.partial(
    tiny, "AttributeSCM", attributes=SCHEMA.to_list(), graph=GRAPH.to_dict(), hidden_sizes=[8]
)
classifier = functools.partial(
    tiny, "AttributeClassifier", attributes=SCHEMA.to_list(), backbone_config=BACKBONE, initializer_range=1.0
)
hvae = functools.partial(
    tiny, "CausalHVAE", context_dim=SCHEMA.dim, encoder_blocks="32b1d4,8b1d2,4b1d4,1b1", widths=[8, 8, 12, 12],
    decoder_blocks="1b1,4b1,8b1,32b1", z_dim=4, bottleneck=2, z_max_res=8, bias_max_res=8,
)  # fmt: skip
flow = functools.partial(
    tiny, "CausalFlow", attribute_names=list(SCHEMA.names), attribute_sizes=[a.size for a in SCHEMA],
    patch_size=2, block_out_channels=[16, 32],
)  # fmt: skip
segmenter = functools.partial(tiny, "AnatomySegmenter", widths=[8, 16])
explainer = functools.partial(tiny, "ProgressiveExplainer", widths=[8, 16])

# --------------------------------------------------------------------------------- adapters: explainers and commands


def latent_shift() -> Entries:
    """Latent shift of the bundled causal model, which no pipeline offers."""
    from cf_cxr.explaining.latent_shift import LatentShiftExplainer, MechanismAutoencoder

    pipe = counterfactual_pipeline("hvae")
    pixels = pipe.image_processor([e.path for e in example_images()], return_tensors="pt")["pixel_values"]
    explained = cf_cxr.as_image_classifier(pipe.model.classifier, "finding")
    for steps in (1, 3):
        shift = LatentShiftExplainer(MechanismAutoencoder(pipe.model), steps=steps, halvings=4, bisections=4)
        images, reached = shift.series(pixels, explained, torch.tensor([0.1, 0.4]))
        yield f"{steps}steps", {"images": images, "posteriors": reached}


def two_sample() -> Entries:
    """The critic of the evaluation, which needs more than 40 films, on phantoms and darkened phantoms."""
    from cf_cxr.metrics.two_sample import two_sample_auc

    drawn, patients = phantoms(240), [str(i) for i in range(240)]
    images, sex = drawn["pixel_values"], drawn["attributes"][:, 1]
    changed = (images * 0.9 - 0.05).clamp(-1, 1)
    results = two_sample_auc(
        images, changed, sex, sex, patients, patients, seed=SEED, steps=20, n_resamples=50
    )
    yield "", {"results": Numbers(json.loads(json.dumps(results)))}


class GreySegmenter:
    """Organs by grey level: a stand-in that depends on the image alone."""

    def segment(self, pixel_values: Tensor) -> dict[str, Tensor]:
        x, side = pixel_values[:, 0], pixel_values.shape[2]
        rows, columns = torch.arange(side)[:, None] / side, torch.arange(side) / side
        inside = (rows > 0.1) & (rows < 0.8) & (columns > 0.1) & (columns < 0.9)
        heart = (rows > 0.45) & (rows < 0.8) & (columns > 0.3) & (columns < 0.75)
        return {"lungs": inside & (x < -0.2), "heart": heart & (x > 0), "devices": x > 0.85}


def run_command(script: str, words: str) -> Entries:
    """The numbers of results.json that a script of training/ writes, without run times, paths and dates."""
    argv, cwd = sys.argv, os.getcwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        model = cf_cxr.DeepSCMModel.from_parts(scm(), hvae(), classifier())
        model.save_pretrained(f"{folder}/deep_scm")
        classifier(SEED + 1).save_pretrained(f"{folder}/judge")
        words += (
            " --output_dir DIR/out --cache_dir DIR/cache --dataset phantom --num_images 40 --n_resamples 50"
        )
        words += " --batch_size 16 --cpu --no_plots --disable_tqdm --debug"
        sys.argv = [script, *words.replace("DIR", folder).replace("PRETRAINED", str(PRETRAINED)).split()]
        os.chdir(Path(__file__).parent)  # where golden_numbers:GreySegmenter is
        try:
            runpy.run_path(str(ROOT / "training" / script), run_name="__main__")
            results = json.loads(Path(folder, "out", "results.json").read_text())
        finally:
            sys.argv = argv
            os.chdir(cwd)
    described = ("identity", "run", "schema_version")
    yield "", {"results": Numbers({k: v for k, v in results.items() if k not in described})}


TINY = "--explainer DIR/deep_scm --classifier DIR/deep_scm --judge DIR/judge"
BUNDLED = (
    "--explainer PRETRAINED/explainer-nih-128 --classifier PRETRAINED/cf-cxr-nih-128 --judge PRETRAINED/judge-nih-128 "
    '--classifier_options {"operating_point":0.1}'
)
EXPLAINERS = {
    "progressive": BUNDLED, "causal": f"{TINY} --method causal", "latent_shift": f"{TINY} --method latent_shift"
}  # fmt: skip

# --------------------------------------------------------------------------------------- adapters: training stages


@dataclass
class Stage:
    """A stage before its first step.

    Args:
        model: what learns, in training mode.
        loss: of the stored batch, a scalar with gradient; draws from the global generators, seeded before.
        optimizer: with the stage's own settings and no warm-up.
        clip: norm that the gradient is clipped to; 0: not at all.
    """

    model: nn.Module
    loss: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer
    clip: float


@dataclass
class Rows:
    """A batch as a data set."""

    batch: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.batch["pixel_values"])

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {name: value[indices] for name, value in self.batch.items()}


def stage(
    kind: type, model: nn.Module, batch: dict[str, Tensor], optimiser: str, config: type, **settings: Any
) -> Stage:
    """A stage of `transformers.Trainer`. optimiser: learning rate, two betas, weight decay, norm to clip to."""
    names = ("learning_rate", "adam_beta1", "adam_beta2", "weight_decay", "max_grad_norm")
    settings |= dict(zip(names, map(float, optimiser.split()), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        args = config(
            output_dir=folder, use_cpu=True, per_device_train_batch_size=IMAGES, max_steps=100, warmup_steps=0,
            report_to="none", **settings,
        )  # fmt: skip
        trainer = kind(model, args, Rows(batch), schema=SCHEMA)
    model.train()
    loss = functools.partial(trainer.batch_loss, model, batch)
    return Stage(model, lambda: loss()[0], trainer.create_optimizer(), args.max_grad_norm)


# package, prefix of its classes, model, whether attributes are unknown, optimiser
PLAIN = {
    "scm": ("attribute_scm", "SCM", scm, True, "5e-3 0.9 0.999 0 100"),
    "classifier": ("attribute_classifier", "Classifier", classifier, True, "1e-3 0.9 0.999 0.05 5"),
    "hvae": ("causal_hvae", "HVAE", hvae, True, "1e-3 0.9 0.9 0.05 100"),
    "flow": ("causal_flow", "Flow", flow, True, "3e-4 0.9 0.99 0.01 1"),
    "segmenter": ("anatomy_segmenter", "Segmenter", segmenter, False, "2e-3 0.9 0.99 0.01 5"),
}


def plain_stage(name: str, **settings: Any) -> Stage:
    """A stage with nothing but a model and a batch."""
    package, prefix, model, unknown, optimiser = PLAIN[name]
    module = importlib.import_module(f"cf_cxr.training.{package}.trainer")
    kind, config = (getattr(module, f"{prefix}{part}") for part in ("Trainer", "Config"))
    return stage(kind, model(), phantoms(unknown=unknown), optimiser, config, **settings)


def cft_stage(target_labels: str, **settings: Any) -> Stage:
    """With two classifiers, and a free energy (7.3) that the bound pulls at."""
    from cf_cxr.training.counterfactual_finetuning.arguments import CFTConfig
    from cf_cxr.training.counterfactual_finetuning.command import make_targets
    from cf_cxr.training.counterfactual_finetuning.trainer import CFTTrainer

    def trainer(*args: Any, schema: Any) -> CFTTrainer:
        judges, gain = [classifier(), classifier(SEED + 1)], args[1].matching_gain
        targets = make_targets(target_labels, judges, Rows(phantoms(64)), gain)
        made = CFTTrainer(*args, attribute_scm=scm(), classifiers=judges, targets=targets, bound=7.2)
        made.constraint.multiplier = 0.5
        return made

    parts = (hvae(), phantoms(), "1e-4 0.9 0.9 0.05 100", CFTConfig)
    return stage(trainer, *parts, target_labels=target_labels, **settings)


def explainer_stage(network: str, model: dict[str, Any], **settings: Any) -> Stage:
    """One network of the explainer, the other as it was initialised."""
    from cf_cxr.training.progressive_explainer.arguments import ExplainerConfig
    from cf_cxr.training.progressive_explainer.caches import ExplainerBatches
    from cf_cxr.training.progressive_explainer.losses import MahalanobisPrior
    from cf_cxr.training.progressive_explainer.trainer import ExplainerTrainer

    generator, explained = explainer(**model), cf_cxr.as_image_classifier(classifier(), "finding")
    posterior = explained.posterior(phantoms()["pixel_values"])
    rows = ExplainerBatches(Rows(phantoms()), posterior, labels=("lungs", "heart", "devices"))
    seed_all()
    critic = cf_cxr.ExplainerDiscriminator(
        cf_cxr.ExplainerDiscriminatorConfig.for_explainer(generator.config)
    )
    args = ExplainerConfig(
        output_dir="unused", use_cpu=True, per_device_train_batch_size=IMAGES, max_steps=100, learning_rate=2e-4,
        report_to="none", segmenter="own", **settings,
    )  # fmt: skip
    parts = {"discriminator": critic, "prior": MahalanobisPrior(phantoms(64)["pixel_values"])}
    trainer = ExplainerTrainer(generator, args, rows, classifier=explained, **parts)
    batch = rows.__getitems__(list(range(IMAGES)))
    generator.train()
    if network == "generator":
        return Stage(generator, lambda: trainer.generator_loss(batch)[0], trainer.optimizer, 0)
    return Stage(critic, lambda: trainer.discriminator_loss(batch)[0], trainer.critic_optimizer, 0)


# phantom_64/finetune.yaml and nih_cxr14_128/finetune_*.yaml in training/
CFT_PAPER = {
    "do_values": "permute", "interventions_per_step": 1, "augmentation": "light", "exposure_weight": 0.0,
    "parents_lr_scale": 1.0,
}  # fmt: skip
CFT_NIH = {"augmentation": "strong", "exposure_weight": 50.0, "parents_lr_scale": 1.0}
EXPLAINER = {"model": {"residual_output": True, "change_stride": 4}}  # the rest are the defaults
EXPLAINER_PAPER = {
    "model": {}, "discriminator_steps": 1, "augmentation": "none", "classifier_weight": 1, "reconstruction_weight": 100,
    "embedding_weight": 100, "mahalanobis_weight": 0, "preservation_warmup_steps": 0,
}  # fmt: skip
STAGES: dict[str, tuple] = {
    **{name: (plain_stage, {"name": name}) for name in PLAIN},
    "classifier-smoothed": (plain_stage, {"name": "classifier", "label_smoothing": 0.1}),
    "hvae-augmented": (plain_stage, {"name": "hvae", "augmentation": "light", "beta_warmup_steps": 10}),
    "flow-augmented": (plain_stage, {"name": "flow", "augmentation": "geometry"}),
    **{
        f"cft/{labels}": (cft_stage, {"target_labels": labels, "matching_gain": 1.0})
        for labels in ("hard", "soft", "matched")
    },
    "cft/soft-paper": (cft_stage, {"target_labels": "soft", **CFT_PAPER}),
    "cft/soft-nih": (
        cft_stage,
        {"target_labels": "soft", "do_values": "balanced", "interventions_per_step": 1, **CFT_NIH},
    ),
    "cft/matched-nih": (cft_stage, {"target_labels": "matched", "matching_gain": 1.5, **CFT_NIH}),
    "explainer/generator": (explainer_stage, {"network": "generator", **EXPLAINER_PAPER}),
    "explainer/discriminator": (explainer_stage, {"network": "discriminator", **EXPLAINER_PAPER}),
    "explainer/generator-recipe": (explainer_stage, {"network": "generator", **EXPLAINER}),
}


def first_step(build: Callable[..., Stage], settings: dict[str, Any] | None = None) -> Entries:
    """Loss, gradients and weights (buffers included) before and after one step."""
    stage = build(**settings or {})
    entry = {"before": flat(stage.model.state_dict().values())}
    seed_all()
    entry["loss"] = loss = stage.loss()
    loss.backward()
    learning = [p for p in stage.model.parameters() if p.requires_grad]
    entry["gradients"] = flat(torch.zeros_like(p) if p.grad is None else p.grad for p in learning)
    nn.utils.clip_grad_norm_(learning, stage.clip or math.inf)
    stage.optimizer.step()
    yield "", entry | {"after": flat(stage.model.state_dict().values())}


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten().float() for tensor in tensors])


# -------------------------------------------------------------------------------------------------------- the command

SECTIONS: dict[str, Callable[[], Entries]] = {
    "phantoms": lambda: iter([("", phantoms())]),
    **{f"mechanism/{name}": functools.partial(mechanism, name) for name in ("hvae", "flow")},
    "counterfactual/hvae": lambda: counterfactuals("hvae", INTERVENTIONS),
    "counterfactual/flow": lambda: counterfactuals("flow", INTERVENTIONS[::3], guidance_scale=2, num_inference_steps=8),
    "explanation/progressive": explanations,
    "explanation/causal": lambda: explanations(model=str(MODEL)),
    "explanation/latent_shift": latent_shift,
    **{f"training/{name}": functools.partial(first_step, *stage) for name, stage in STAGES.items()},
    "evaluation/counterfactuals": lambda: run_command(
        "evaluate_counterfactuals.py", "--model DIR/deep_scm --judge DIR/judge --num_cycle_images 8"
    ),
    **{
        f"evaluation/explainer/{name}": functools.partial(
            run_command, "evaluate_explainer.py", f"--segmenter golden_numbers:GreySegmenter --class_name finding {words}"
        )
        for name, words in EXPLAINERS.items()
    },
    "evaluation/two_sample": two_sample,
}  # fmt: skip


def environment() -> dict[str, str]:
    """Commit, torch and processor."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(": ", 1)[1] for line in info.splitlines() if line.startswith("model name")]
    changed = "+changes" if git("status", "--porcelain", "--", "src", "training") else ""
    commit = git("rev-parse", "HEAD") + changed
    return {"commit": commit, "torch": torch.__version__, "cpu": [*models, platform.processor()][0]}


def write(entries: dict[str, dict]) -> None:
    """The file, one quantity a line."""
    blocks = [
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f" {json.dumps(q)}: {json.dumps(n)}" for q, n in e.items())
        + "}"
        for name, e in entries.items()
    ]
    head = json.dumps({"environment": environment()})[:-1]
    FILE.write_text(head + ', "entries": {\n' + ",\n".join(blocks) + "\n}}\n")


def main() -> int:
    """Records or compares; the exit status is 1 if an entry differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--record", action="store_true", help="write the file (with --only: those entries of it)"
    )
    parser.add_argument("--only", default="", metavar="NAME", help="entries whose names begin so")
    parser.add_argument(
        "--tolerance", type=float, default=-1.0, help="largest |a - b| / max(1, |a|) to accept"
    )
    args = parser.parse_args()
    if ROOT not in Path(cf_cxr.__file__).resolve().parents:
        parser.error(
            f"cf_cxr comes from {Path(cf_cxr.__file__).parent}, not from this checkout: set PYTHONPATH=src."
        )
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    stored = json.loads(FILE.read_text()) if FILE.exists() else {"environment": {}, "entries": {}}
    old = {name: e for name, e in stored["entries"].items() if name.startswith(args.only)}
    print("recorded:", *stored["environment"].values(), "\nhere:    ", *environment().values())
    new, failed = {}, 0
    for section, compute in SECTIONS.items():
        if not (section.startswith(args.only) or args.only.startswith(section)):
            continue
        started = time.process_time()
        try:
            found = {f"{section}/{name}".removesuffix("/"): entry for name, entry in compute()}
        except (
            Exception,
            SystemExit,
        ) as error:  # an adapter to mend; the others still say what they have to say
            if args.record:
                raise
            print(f"{section:32} FAILED, {type(error).__name__}: {error}")
            failed += 1
            continue
        found = {name: e for name, e in found.items() if name.startswith(args.only)}
        found = {name: {q: summarise(value) for q, value in e.items()} for name, e in found.items()}
        new, lines = new | found, []
        for name in [] if args.record else found:
            equal, worst, place = compare(old.get(name, {}), found[name])
            if not equal:
                failed += worst > args.tolerance
                lines.append(f"    {name}: {worst:.2g} ({place})")
        result = "recorded" if args.record else f"{len(found) - len(lines)} equal"
        seconds = time.process_time() - started
        print(f"{section:32} {len(found):3} entries {seconds:6.1f} s  {result}", *lines, sep="\n", flush=True)
    if args.record:
        write({n: e for n, e in stored["entries"].items() if n not in old} | new)
        return 0
    gone = [name for name in old if name not in new]
    print(*(f"    {name}: not computed any more" for name in gone), sep="\n", end="\n" if gone else "")
    print(
        f"{len(new)} entries, {failed + len(gone)} beyond the tolerance"
        if new or gone
        else f"no entry begins with {args.only}"
    )
    return int(failed + len(gone) > 0 or not new)


if __name__ == "__main__":
    sys.exit(main())
