"""Which embedding finds a phantom's patient again? Re-identification of TRUE counterfactuals, for docs/metrics.md.

    OMP_NUM_THREADS=1 python tests/benchmarks/identity_features.py outputs/phantom_64_explaining/judge

The argument is an attribute classifier. 300 phantoms of 64 x 64 (attributes and noise of seed 5); every patient is
rendered again, exactly, under do(finding), do(age), do(site), and looked for among all 300 by the cosine distance of
the embeddings. Only patients whose picture changes count.
"""

from __future__ import annotations

import sys

import torch

from cf_cxr import AttributeClassifierModel
from cf_cxr.data.phantom import ChestPhantom, PhantomConfig
from cf_cxr.metrics.eigen_radiographs import eigen_radiographs
from cf_cxr.metrics.identity import identity_preservation

COUNT, SEED = 300, 5
WORLDS = ({"finding": "Effusion"}, {"finding": "No Finding"}, {"age": 70}, {"site": "A"}, {"site": "B"})


def main(judge_path: str) -> None:
    judge = AttributeClassifierModel.from_pretrained(judge_path).eval()
    phantom = ChestPhantom(PhantomConfig(resolution=64))
    attributes, noise = phantom.sample_attributes(COUNT, SEED), phantom.sample_noise(COUNT, SEED)
    pixels = as_pixels(phantom.render(attributes, noise))
    for do in WORLDS:
        other = as_pixels(phantom.counterfactual(attributes, noise, do)[1])
        changed = (other - pixels).abs().mean((1, 2, 3)) > 1e-3
        with torch.no_grad():
            pooled = [judge(images, return_dict=True).embedding.float() for images in (pixels, other)]
        pairs = {
            "judge's pooled embedding": [e.numpy() for e in pooled],
            "eigen-radiographs": eigen_radiographs(pixels[:, 0], other[:, 0]),
        }
        shares = []
        for name, (known, probes) in pairs.items():
            found = identity_preservation(known[changed], probes[changed], n_resamples=200)
            shares.append(f"{name} {found['reidentification'][0]:.3f}")
        print(f"do({do}): {int(changed.sum())} patients; " + "; ".join(shares))


def as_pixels(images) -> torch.Tensor:
    """`(N, 1, H, W)` in [-1, 1]."""
    return torch.as_tensor(images.pixel_values).float()


if __name__ == "__main__":
    main(sys.argv[1])
