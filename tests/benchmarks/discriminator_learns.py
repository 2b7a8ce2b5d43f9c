"""After how many steps does the discriminator see what any reader sees? The numbers of docs/explaining.md.

    OMP_NUM_THREADS=1 python tests/benchmarks/discriminator_learns.py

Real images are phantoms of 64 x 64 (attributes and noise of seed 5). Generated ones are other such phantoms with a dark
spot of 60 grey levels and 4 pixels (standard deviation) at one place of the left apex. The discriminator of the slim
explainer learns on 8 of either per step (Adam, 1e-3, betas 0 and 0.9; bins at random, so that they do not help), and is
asked about 200 images of either kind that it has not seen: hinge loss (2: knows nothing) and AUC.
"""

from __future__ import annotations

import torch
from sklearn.metrics import roc_auc_score

from cf_cxr.data.phantom import ChestPhantom, PhantomConfig
from cf_cxr.models.progressive_explainer import (
    ExplainerDiscriminator,
    ExplainerDiscriminatorConfig,
    ProgressiveExplainerConfig,
)
from cf_cxr.training.progressive_explainer.losses import discriminator_hinge_loss

SEED, IMAGES, HELD_OUT, BATCH = 5, 3000, 400, 8
REPORTED = (100, 250, 500)


def main() -> None:
    phantom = ChestPhantom(PhantomConfig(resolution=64))
    attributes, noise = phantom.sample_attributes(IMAGES, SEED), phantom.sample_noise(IMAGES, SEED)
    images = torch.as_tensor(phantom.render(attributes, noise).pixel_values).float()
    rows = torch.arange(64.0)
    spot = torch.exp(-((rows[:, None] - 14) ** 2 + (rows[None] - 42) ** 2) / (2 * 4**2)) * 60 / 127.5
    test, train = images[:HELD_OUT], images[HELD_OUT:]
    real, fake = test[: HELD_OUT // 2], (test[HELD_OUT // 2 :] - spot).clamp(-1, 1)
    torch.manual_seed(SEED)
    config = ExplainerDiscriminatorConfig.for_explainer(
        ProgressiveExplainerConfig(image_size=64, widths=[16, 32, 64, 128])
    )
    model = ExplainerDiscriminator(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, 0.9))
    for step in range(1, max(REPORTED) + 1):
        chosen = train[torch.randperm(len(train))[: 2 * BATCH]].clone()
        chosen[BATCH:] = (chosen[BATCH:] - spot).clamp(-1, 1)
        scores = model(chosen, torch.randint(10, (2 * BATCH,))).scores
        loss = discriminator_hinge_loss(scores[:BATCH], scores[BATCH:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in REPORTED:
            with torch.no_grad():
                a, b = (model.eval()(x, 5).scores for x in (real, fake))
            model.train()
            auc = roc_auc_score([1] * len(a) + [0] * len(b), torch.cat([a, b]))
            print(f"step {step}: hinge loss {discriminator_hinge_loss(a, b):.2f}, AUC {auc:.3f}", flush=True)


if __name__ == "__main__":
    main()
