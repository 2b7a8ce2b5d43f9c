"""The two-sample AUC where its answer is known; the numbers of docs/metrics.md.

    OMP_NUM_THREADS=1 python tests/benchmarks/two_sample.py --data_dir DIR

DIR is a folder in the parquet layout at 128 x 128; without it the rows of real films are left out. Phantoms: 1600
of 64 x 64, attributes and noise of seed 5. Interventions are drawn from the training marginal, as evaluation does, and
only films on which they change the value count. Every row is one call of `two_sample_auc`, seed 0.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch

import cf_cxr
from cf_cxr import DeepSCMModel
from cf_cxr.data.phantom import ChestPhantom, PhantomConfig
from cf_cxr.evaluation.counterfactuals.command import CounterfactualEvaluationArguments
from cf_cxr.evaluation.counterfactuals.data import load_counterfactual_images
from cf_cxr.metrics.two_sample import two_sample_auc
from cf_cxr.training.loop.run_folder import git_commit

PHANTOMS, DATA_SEED, SEED = 1600, 5, 0
WEIGHTS = Path(cf_cxr.__file__).parent / "pretrained" / "cf-cxr-nih-128"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", help="Folder of real films, parquet layout.")
    args = parser.parse_args()
    print(f"`python {shlex.join(sys.argv)}`, commit {git_commit()}, {torch.get_num_threads()} thread(s)\n")
    print(
        "| films | counterfactuals | two-sample AUC | real films | counterfactuals | wanted | processor s |"
    )
    print("|---|---|---|---|---|---|---|")
    phantoms()
    if args.data_dir:
        real_films(args.data_dir)
    else:
        print("\nWithout --data_dir nothing is measured on real films.")


def phantoms() -> None:
    """Planted grids, and the truth."""
    phantom, where = ChestPhantom(PhantomConfig(resolution=64)), f"{PHANTOMS} phantoms, 64²"
    attributes = phantom.sample_attributes(PHANTOMS, DATA_SEED)
    noise = phantom.sample_noise(PHANTOMS, DATA_SEED)
    marginal = phantom.sample_attributes(4000, DATA_SEED + 1).numpy()
    images, patients = phantom.render(attributes, noise).pixel_values.numpy(), np.arange(PHANTOMS)
    sex = attributes[:, phantom.schema.index("sex")].numpy()
    row(where, "the real films", "0.5", images, images, sex, sex, patients, patients)
    few = slice(0, 400)
    for name, grid in grids(64).items():
        planted = images[few] + 3 / 127.5 * grid
        row(
            "400 of them", f"{name}, ±3 grey levels", "≥ 0.95", images[few], planted.clip(-1, 1), sex[few], sex[few],
            patients[few], patients[few],
        )  # fmt: skip
    rng = np.random.default_rng(SEED)
    for column, a in enumerate(phantom.schema):
        do = torch.from_numpy(rng.choice(marginal[:, column], size=len(patients)))
        new, true = phantom.counterfactual(attributes, noise, {a.name: do})
        old, new = attributes[:, column].numpy(), new[:, column].numpy()
        moved = new != old
        row(
            where, f"true do({a.name})", "0.45 to 0.55", images, true.pixel_values.numpy()[moved], old, new[moved],
            patients, patients[moved], a.kind,
        )  # fmt: skip


def grids(size: int) -> dict[str, np.ndarray]:
    """Patterns of ±1 `(size, size)`."""
    y, x = np.mgrid[:size, :size]
    return {
        "stripes, period 4": np.where(x % 4 < 2, 1, -1),
        "stripes, period 8": np.where(y % 8 < 4, 1, -1),
        "grid, period 4": np.where((x % 4 < 2) == (y % 4 < 2), 1, -1),
        "grid, period 8": np.where((x % 8 < 4) == (y % 8 < 4), 1, -1),
    }


def real_films(data_dir: str) -> None:
    """Null interventions, a planted grid, and the bundled weights, on the test split."""
    model = DeepSCMModel.from_pretrained(WEIGHTS).eval()
    arguments = CounterfactualEvaluationArguments(data_dir=data_dir, seed=SEED)
    data = load_counterfactual_images(arguments, model.schema, model.config.image_config.image_size)
    images, new, found = counterfactuals(model, data)
    old, patients = data.attributes, np.asarray(data.patients)
    where = f"{len(old)} test films, {images.shape[-1]}²"
    column = model.schema.index("sex")
    nothing = (old[:, column], old[:, column], patients, patients)
    row(where, "the real films", "0.5", images, images, *nothing)
    some = slice(0, 400)
    for name, grid in grids(images.shape[-1]).items():
        planted = (images[some] + 3 / 127.5 * grid).clip(-1, 1)
        row(
            "400 of them", f"{name}, ±3 grey levels", "≥ 0.95", images[some], planted,
            *(part[some] for part in nothing),
        )  # fmt: skip
    for column, a in enumerate(model.schema):
        moved = new[a.name][:, column] != old[:, column]
        wanted = "≥ 0.95" if a.name in ("sex", "view") else ""
        row(
            where, f"bundled weights, do({a.name})", wanted, images, found[a.name][moved], old[:, column],
            new[a.name][moved, column], patients, patients[moved], a.kind,
        )  # fmt: skip


@torch.inference_mode()
def counterfactuals(model: DeepSCMModel, data) -> tuple[np.ndarray, dict, dict]:
    """Real images `(N, S, S)`, and by variable the new attributes `(N, n)` and images."""
    real, new, images = [], {a.name: [] for a in model.schema}, {a.name: [] for a in model.schema}
    for index in range(len(data)):
        batch, generator = data[index], torch.Generator().manual_seed(index)
        factual = batch["attributes"]
        noise = model.image_mechanism.abduct(batch["pixel_values"], model.schema.encode(factual))
        exogenous = model.attribute_scm.abduct(factual, generator=generator)
        real.append(batch["pixel_values"][:, 0])
        for k, values in batch["do"].items():
            changed = model.attribute_scm.counterfactual(factual, {k: values}, noise=exogenous)
            new[k].append(changed)
            images[k].append(model.image_mechanism.decode(noise, model.schema.encode(changed))[:, 0])
    joined = [{k: torch.cat(parts).numpy() for k, parts in group.items()} for group in (new, images)]
    return torch.cat(real).numpy(), *joined


def row(
    where: str, what: str, wanted: str, real, fake, old, new, known, others, kind: str = "binary"
) -> None:
    started = time.process_time()
    found = two_sample_auc(real, fake, old, new, known, others, kind=kind, seed=SEED)
    estimate, low, high = found["two_sample_auc"]
    counts = f"{found['real']} | {found['counterfactual']}"
    seconds = time.process_time() - started
    print(
        f"| {where} | {what} | {estimate:.3f} [{low:.3f}, {high:.3f}] | {counts} | {wanted} | {seconds:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
