"""How many solver steps a causal flow takes: its counterfactuals against those of a fine solver.

    python tests/benchmarks/flow_solver.py --model FOLDER --data_dir PARQUET_FOLDER

FOLDER holds a CausalFlowModel, PARQUET_FOLDER films of its resolution, of which the first of `--split` are looked at. The reference is Heun's method,
50 steps from image to noise and 50 back, which carries nothing but the noise. Columns, all mean |difference| in grey
levels of 255:

- counterfactual: to the reference, mean over interventions on every attribute;
- null: the null intervention to the image;
- without drift: the same, had the solver's state not been carried: what a carried residual would have to make up for;
- Heun, Heun + residual: the counterfactual by Heun's method with as many passes of the network, without and with the
  residual of its reconstruction added to the counterfactual;
- passes, s: of the network there and back for one image and one intervention, and seconds for the whole batch.
"""

from __future__ import annotations

import argparse
import time

import torch

from cf_cxr import CausalFlowModel, CXRImageProcessor, cxr_schema, load_cxr
from cf_cxr.data import CXRCollator
from cf_cxr.training.causal_flow.trainer import opposite
from cf_cxr.training.loop.run_folder import git_commit


def heun(field, x, times):
    """The classical second-order method, two looks at the field per step."""
    for t, following in zip(times, times[1:]):
        h = following - t
        slope = field(x, t)
        x = x + h / 2 * (slope + field(x + h * slope, following))
    return x


def grey_levels(first, second) -> float:
    """Mean |difference| of images in [-1, 1], in grey levels."""
    return 127.5 * float((first - second).abs().mean())


@torch.no_grad()
def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--cache_dir")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--split", default="test")
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 12, 16, 24])
    args = parser.parse_args()
    model = CausalFlowModel.from_pretrained(args.model)
    schema, _ = cxr_schema("parquet")
    size = model.config.image_size
    rows = load_cxr("parquet", data_dir=args.data_dir, resolution=size, cache_dir=args.cache_dir)[args.split]
    collate = CXRCollator(schema, CXRImageProcessor(size=size))
    batch = collate([rows[i] for i in range(args.images)])
    x, raw = batch["pixel_values"], batch["attributes"]
    parents = schema.encode(raw, keep_unknown=True)
    targets = [schema.encode(opposite(raw, schema, name), keep_unknown=True) for name in schema.names]
    fields, factual = [model._field(target) for target in targets], model._field(parents)

    def by_heun(steps):
        times = model.times(steps)
        noise = heun(factual, x, times)
        images = torch.stack([heun(field, noise, times[::-1]) for field in fields])
        return images.clamp(-1, 1), heun(factual, noise, times[::-1])

    reference, _ = by_heun(50)
    print(f"commit {git_commit()}, {args.images} {args.split} images, {torch.get_num_threads()} threads")
    print(f"mean change of the reference {grey_levels(reference, x):.2f}/255\n")
    print("| steps | passes | counterfactual | null | without drift | Heun | Heun + residual | s |")
    print("|---|---|---|---|---|---|---|---|")
    for steps in args.steps:
        started = time.process_time()
        noise = model.abduct(x, parents, num_inference_steps=steps)
        images = torch.stack([model.decode(noise, target) for target in targets])
        seconds = time.process_time() - started
        null = model.decode(noise, parents)
        noise.drift.zero_()
        plain, back = by_heun(steps // 2)
        numbers = [
            grey_levels(images, reference),
            grey_levels(null, x),
            grey_levels(model.decode(noise, parents), x),
            grey_levels(plain, reference),
            grey_levels((plain + x - back).clamp(-1, 1), reference),
        ]
        shown = " | ".join(f"{number:.2f}" for number in numbers)
        print(f"| {steps} | {steps + 2} + {steps + 1} | {shown} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
