"""Unselected films and their counterfactuals, to look at.

    python tests/benchmarks/contact_sheet.py --model FOLDER --data_dir PARQUET_FOLDER --output sheet.jpg

FOLDER holds a DeepSCMModel. The films are drawn by the seed from the test split, without a look. Two films a row: the
film, then one counterfactual per attribute in the order of the schema: the far side of the range, the other class.
"""

from __future__ import annotations

import argparse
import json

import torch
from PIL import Image

from cf_cxr import CXRImageProcessor, DeepSCMModel, load_cxr
from cf_cxr.data import CXRCollator
from cf_cxr.images.grey_levels import image_grid
from cf_cxr.training.causal_flow.trainer import opposite
from cf_cxr.training.loop.run_folder import git_commit


@torch.no_grad()
def main() -> None:
    """Writes the sheet and prints what it shows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--dataset", default="parquet")
    parser.add_argument("--cache_dir")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", type=json.loads, default={}, help="e.g. '{\"guidance_scale\": 2}'")
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    model = DeepSCMModel.from_pretrained(args.model)
    schema, size = model.schema, model.config.image_config.image_size
    rows = load_cxr(args.dataset, data_dir=args.data_dir, resolution=size, cache_dir=args.cache_dir)["test"]
    generator = torch.Generator().manual_seed(args.seed)
    batch = CXRCollator(schema, CXRImageProcessor(size=size))(
        [rows[int(i)] for i in torch.randperm(len(rows), generator=generator)[: args.images]]
    )
    pixels, attributes = batch["pixel_values"], batch["attributes"]
    attributes = torch.where(attributes.isnan(), model.infer_attributes(pixels), attributes)
    pictures = []
    for image, raw in zip(pixels, attributes):
        noise = model.abduct(image[None], raw[None], **args.options)
        dos = [{a.name: a.format(opposite(raw[None], schema, a.name)[0, i])} for i, a in enumerate(schema)]
        found = model.counterfactual(None, None, dos, noise=noise, **args.options).pixel_values[0]
        pictures.append(torch.cat([image[None], found]))
    pairs = [torch.cat(pictures[i : i + 2]) for i in range(0, len(pictures), 2)]
    Image.fromarray(image_grid(pairs)).save(args.output, quality=90)
    print(f"commit {git_commit()}, seed {args.seed}, options {args.options}")
    for number, record in enumerate(schema.to_records(attributes)):
        print(number, record)


if __name__ == "__main__":
    main()
