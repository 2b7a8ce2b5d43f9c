"""Errors of the anatomical metrics against the phantom's truth, with exact masks; the numbers of docs/metrics.md.

    OMP_NUM_THREADS=1 python tests/benchmarks/anatomy_metrics.py

200 phantoms per finding and resolution (attributes and noise of seed 5), every other one with the finding.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from cf_cxr.data.phantom import ChestPhantom, PhantomConfig
from cf_cxr.metrics.cardiothoracic import cardiothoracic_ratio
from cf_cxr.metrics.costophrenic import costophrenic_angles, costophrenic_score
from cf_cxr.metrics.masks import horizontal_width

COUNT, SEED = 200, 5


def main() -> None:
    for finding in ("Effusion", "Cardiomegaly"):
        for resolution in (64, 128):
            phantom = ChestPhantom(PhantomConfig(resolution=resolution, finding=finding, device_rate=0.5))
            attributes, noise = phantom.sample_attributes(COUNT, SEED), phantom.sample_noise(COUNT, SEED)
            attributes[::2, 3], attributes[1::2, 3] = 1, 0
            images = phantom.render(attributes, noise)
            ratio = cardiothoracic_ratio(images.heart_mask, images.lung_mask)
            error = ratio - images.cardiothoracic_ratio.numpy()
            pixels = np.abs(error) * horizontal_width(images.lung_mask[:, 0].numpy())
            print(
                f"{finding} {resolution}: CTR mean error {np.abs(error).mean():.4f}, largest {np.abs(error).max():.4f}, "
                f"bias {error.mean():+.4f}, {pixels.mean():.2f} pixels of the thorax"
            )
            if finding == "Cardiomegaly":
                continue
            well = phantom.counterfactual(attributes, noise, {"finding": "No Finding"})[1]
            change = (ratio - cardiothoracic_ratio(well.heart_mask, well.lung_mask))[::2].mean()
            angle, true = costophrenic_angles(images.lung_mask), images.costophrenic_angles.numpy()
            off, present = (angle - true).ravel(), attributes[:, 3].numpy()
            kept = np.isfinite(off)
            blunt = kept & (true.ravel() > 70)
            score = costophrenic_score(images.lung_mask)
            defined = np.isfinite(score)
            print(
                f"  effusion changes CTR by {change:+.4f}; angle: mean error {np.abs(off[kept]).mean():.1f} degrees, "
                f"correlation {np.corrcoef(angle.ravel()[kept], true.ravel()[kept])[0, 1]:.3f}, bias of blunt ones "
                f"{off[blunt].mean():+.1f}; AUC of effusion {roc_auc_score(present[defined], -score[defined]):.3f}, "
                f"by the true angle {roc_auc_score(present, true.max(1)):.3f}"
            )


if __name__ == "__main__":
    main()
