"""How readable is every attribute of the phantom? The ideal observer of its factors against a small CNN.

    OMP_NUM_THREADS=1 nice -n 10 python tests/benchmarks/phantom_ambiguity.py

The first row is computed from the simulator and bounds every judge of images; the second is a judge trained for
a few minutes. A judge above the bound (beyond sampling error) would mean that the picture leaks an attribute.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cf_cxr.attributes import AttributeSchema
from cf_cxr.data.phantom import ChestPhantom, PhantomConfig
from cf_cxr.metrics.bootstrap import interval, patient_weights, score_samples

AGE_CENTRE, AGE_SCALE = 57.0, 17.0


def judge() -> nn.Module:
    """A plain convolutional network; outputs age, sex, three sites, finding."""
    layers: list[nn.Module] = []
    for out, stride in ((16, 2), (32, 1), (32, 2), (64, 1), (64, 2), (96, 1), (128, 2)):
        kernel = 3 if layers else 5
        convolution = nn.LazyConv2d(out, kernel, stride, kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(out), nn.GELU()]
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


def show(title: str, schema: AttributeSchema, attributes: Tensor, predictions: Sequence[Tensor]) -> None:
    """One printed line: error of age in years, AUC times 100 of the others, with 95 % bootstrap intervals."""
    weights = patient_weights(None, 200, 0, len(attributes))
    print(f"{title:<22}", end="")
    for attribute, value, prediction in zip(schema, attributes.T, predictions):
        score, low, high = interval(score_samples(attribute.kind, prediction, value, weights))
        print(f"  {attribute.name} {score:.2f} [{low:.2f}, {high:.2f}]", end="")
    print(flush=True)


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
    best = (ideal.age_median, ideal.sex, ideal.site, ideal.finding)
    show("ideal observer", phantom.schema, attributes, best)
    if options.train == 0:
        return
    start = time.perf_counter()
    labels, exogenous = phantom.sample_attributes(options.train, 2), phantom.sample_noise(options.train, 2)
    images = phantom.render(labels, exogenous).pixel_values
    print(f"rendered {options.train} images in {time.perf_counter() - start:.0f} s", flush=True)
    start, model = time.perf_counter(), judge()
    train(model, images, labels, options.epochs)
    print(f"trained in {time.perf_counter() - start:.0f} s", flush=True)
    read = predict(model, phantom.render(attributes, noise).pixel_values)
    show("small CNN", phantom.schema, attributes, read)


if __name__ == "__main__":
    main()
