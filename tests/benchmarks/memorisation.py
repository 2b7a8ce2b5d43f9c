"""Does a causal flow repeat its training films? Distances to the nearest training film.

    python tests/benchmarks/memorisation.py --model FOLDER --data_dir PARQUET_FOLDER --picture pairs.png

FOLDER holds a CausalFlowModel. Films are compared after reduction to 32 x 32 pixels (area average) and standardisation
to zero mean and unit variance, by root mean square difference, so that exposure does not count. Rows:

- test films: films of patients whom nobody trained on; what a model that repeats nothing should look like;
- samples: new films of the model, under the attributes of these test films;
- counterfactuals: of these test films, one under a change of every attribute; they resemble their own film, which is
  no training film.

`closer` is the share of a row below the 1st percentile of the test films' distances: 1 % if nothing is repeated. The
picture shows the samples that lie closest to a training film (upper row) above that film.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from cf_cxr import CausalFlowModel, CXRImageProcessor, cxr_schema, load_cxr
from cf_cxr.data import CXRCollator
from cf_cxr.images.grey_levels import image_grid
from cf_cxr.training.causal_flow.trainer import opposite
from cf_cxr.training.loop.batches import CXRBatches
from cf_cxr.training.loop.run_folder import git_commit


def features(images: torch.Tensor) -> np.ndarray:
    """`(N, 1, S, S)` to standardised 32 x 32 pixels `(N, 1024)`, scaled so that distances are root mean squares."""
    small = F.adaptive_avg_pool2d(images.float(), 32).flatten(1)
    small = (small - small.mean(1, keepdim=True)) / small.std(1, keepdim=True).clamp(min=1e-6)
    return (small / small.shape[1] ** 0.5).numpy()


@torch.no_grad()
def main() -> None:
    """Prints the table as Markdown and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--cache_dir")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--picture")
    args = parser.parse_args()
    model = CausalFlowModel.from_pretrained(args.model)
    size, (schema, _) = model.config.image_size, cxr_schema("parquet")
    splits = load_cxr("parquet", data_dir=args.data_dir, resolution=size, cache_dir=args.cache_dir)
    collate = CXRCollator(schema, CXRImageProcessor(size=size))
    train = CXRBatches(splits["train"], collate, cache=True).images.float() / 127.5 - 1
    chosen = torch.randperm(len(splits["test"]), generator=torch.Generator().manual_seed(0))[: args.images]
    generator, samples, counterfactuals, films = torch.Generator().manual_seed(1), [], [], []
    for start in range(0, len(chosen), args.batch_size):
        batch = collate([splits["test"][int(i)] for i in chosen[start : start + args.batch_size]])
        parents = schema.encode(batch["attributes"], keep_unknown=True)
        films.append(batch["pixel_values"])
        samples.append(model.sample(parents, generator=generator))
        noise = model.abduct(batch["pixel_values"], parents)
        for name in schema.names:
            target = schema.encode(opposite(batch["attributes"], schema, name), keep_unknown=True)
            counterfactuals.append(model.decode(noise, target))
    rows = {"test films": films, "samples": samples, "counterfactuals": counterfactuals}
    search = NearestNeighbors(n_neighbors=1).fit(features(train))
    found = {name: search.kneighbors(features(torch.cat(images))) for name, images in rows.items()}
    limit = np.quantile(found["test films"][0], 0.01)
    print(f"commit {git_commit()}, {len(train)} training films, {len(chosen)} test films\n")
    print("| | films | minimum | 1 % | 10 % | median | closer |\n|---|---|---|---|---|---|---|")
    for name, (distance, _) in found.items():
        shown = " | ".join(f"{q:.3f}" for q in np.quantile(distance, [0, 0.01, 0.1, 0.5]))
        print(f"| {name} | {len(distance)} | {shown} | {100 * (distance < limit).mean():.1f} % |")
    if args.picture:
        distance, nearest = found["samples"]
        closest = np.argsort(distance[:, 0])[:10]
        pairs = [torch.cat(samples)[closest], train[nearest[closest, 0]]]
        Image.fromarray(image_grid(pairs)).save(args.picture)


if __name__ == "__main__":
    main()
