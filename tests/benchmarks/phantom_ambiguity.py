"""How readable is every attribute of the phantom? The ideal observer of its factors against a small CNN.

    OMP_NUM_THREADS=1 nice -n 10 python tests/benchmarks/phantom_ambiguity.py

The first row is computed from the simulator and bounds every judge of images; the second is a judge trained for
a few minutes. A judge above the bound (beyond sampling error) would mean that the picture leaks an attribute.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from cf_cxr.data.phantom import ChestPhantom, PhantomConfig

AGE_CENTRE, AGE_SCALE = 57.0, 17.0


def scores(attributes: Tensor, age: Tensor, sex: Tensor, site: Tensor, finding: Tensor) -> dict[str, float]:
    """AUC of sex, site (macro one-versus-rest) and finding, and the mean absolute error of age in years."""
    age_true, sex_true, site_true, finding_true = attributes.unbind(1)
    return {
        "age MAE": (age - age_true).abs().mean().item(),
        "sex AUC": roc_auc_score(sex_true, sex),
        "site AUC": roc_auc_score(site_true, site, multi_class="ovr", average="macro"),
        "finding AUC": roc_auc_score(finding_true, finding),
    }


def bootstrap(
    attributes: Tensor, *predictions: Tensor, rounds: int = 200
) -> dict[str, tuple[float, float, float]]:
    """Each score with its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(rounds):
        rows = torch.from_numpy(rng.integers(0, len(attributes), len(attributes)))
        draws.append(scores(attributes[rows], *(p[rows] for p in predictions)))
    centre = scores(attributes, *predictions)
    bounds = {name: np.quantile([d[name] for d in draws], [0.025, 0.975]) for name in centre}
    return {name: (centre[name], *bounds[name]) for name in centre}


def judge() -> nn.Module:
    """A plain convolutional network; outputs age, sex, three sites, finding."""
    layers, width = [], 1
    for out, stride in ((16, 2), (32, 1), (32, 2), (64, 1), (64, 2), (96, 1), (128, 2)):
        kernel = 5 if width == 1 else 3
        layers += [
            nn.Conv2d(width, out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(out),
            nn.GELU(),
        ]
        width = out
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(128), nn.GELU(), nn.Linear(128, 6)
    )


def loss_function(output: Tensor, attributes: Tensor) -> Tensor:
    """Sum of the four losses."""
    age, sex, site, finding = attributes.unbind(1)
    return (
        nn.functional.smooth_l1_loss(output[:, 0], (age - AGE_CENTRE) / AGE_SCALE, beta=0.3)
        + nn.functional.binary_cross_entropy_with_logits(output[:, 1], sex)
        + nn.functional.cross_entropy(output[:, 2:5], site.long())
        + nn.functional.binary_cross_entropy_with_logits(output[:, 5], finding)
    )


def train(model: nn.Module, images: Tensor, attributes: Tensor, epochs: int, batch: int = 64) -> None:
    """AdamW with a one-cycle schedule and shifts of up to two pixels."""
    steps = epochs * (len(images) // batch)
    model(images[:2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: len(images) // batch * batch].view(-1, batch):
            shift = torch.randint(-2, 3, (2,)).tolist()
            loss = loss_function(model(torch.roll(images[rows], shift, dims=(2, 3))), attributes[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Age in years, P(Female), P(site), P(finding)."""
    model.eval()
    output = torch.cat([model(block) for block in images.split(256)])
    age = output[:, 0] * AGE_SCALE + AGE_CENTRE
    return age, output[:, 1].sigmoid(), output[:, 2:5].softmax(1), output[:, 5].sigmoid()


def show(title: str, result: dict[str, tuple[float, float, float]]) -> None:
    """One printed line."""
    cells = (f"{name} {value:.3f} [{low:.3f}, {high:.3f}]" for name, (value, low, high) in result.items())
    print(f"{title:<22}", "  ".join(cells), flush=True)


def main() -> None:
    """Print both rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--finding", default="Effusion", choices=("Effusion", "Cardiomegaly"))
    parser.add_argument("--train", type=int, default=12_000, help="training images; 0: ideal observer only")
    parser.add_argument("--test", type=int, default=3_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    phantom = ChestPhantom(PhantomConfig(resolution=options.resolution, finding=options.finding))

    attributes, noise = phantom.sample_attributes(options.test, 1), phantom.sample_noise(options.test, 1)
    ideal = phantom.bayes_posterior(attributes, noise)
    show("ideal observer", bootstrap(attributes, ideal.age_median, ideal.sex, ideal.site, ideal.finding))
    if options.train == 0:
        return
    start = time.perf_counter()
    labels, exogenous = phantom.sample_attributes(options.train, 2), phantom.sample_noise(options.train, 2)
    images = phantom.render(labels, exogenous).pixel_values
    print(f"rendered {options.train} images in {time.perf_counter() - start:.0f} s", flush=True)
    start, model = time.perf_counter(), judge()
    train(model, images, labels, options.epochs)
    print(f"trained in {time.perf_counter() - start:.0f} s", flush=True)
    show("small CNN", bootstrap(attributes, *predict(model, phantom.render(attributes, noise).pixel_values)))


if __name__ == "__main__":
    main()
