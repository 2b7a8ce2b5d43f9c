"""A small network that learns to tell one set of films from another, and where it sees it.

Made to learn quickly from a few hundred films on a processor: it looks at fixed high-pass and contrast-normalised
copies of a film besides the film itself, so that weak grids, halos and textures are there from the first step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_SIZE = 32  # pixels of a film's shorter side
STEPS = 120
_PAIRS = 16  # per step, of one film of either set
_LEARNING_RATE, _WEIGHT_DECAY = 3e-3, 0.05
_BLUR = 7  # pixels of the local mean
_FLOOR = 0.02  # local contrast below which a patch counts as flat, in units of [-1, 1]: 2.5 grey levels


def _block(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class PatchCritic(nn.Module):
    """Logit that a film is of the second set: a mean over places, each of which sees about 30 pixels.

    A second head sees the spread of the features over the film, and coarser features: exposure, and what is uneven.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.standardise = nn.BatchNorm2d(4, affine=False)
        self.local = nn.Sequential(
            _block(4, width, 5, 2),
            _block(width, width, 3, 2),
            _block(width, 2 * width, 3),
            _block(2 * width, 2 * width, 3, 2),
        )
        self.place = nn.Conv2d(2 * width, 1, 1)
        self.wide = nn.Sequential(_block(2 * width, 2 * width, 3, 2), _block(2 * width, 2 * width, 3))
        self.whole = nn.Linear(6 * width, 1)
        nn.init.zeros_(self.place.weight)
        nn.init.zeros_(self.whole.weight)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(B,)` and the map of the places' logits `(B, H / 8, W / 8)` of films `(B, 1, H, W)` in [-1, 1]."""
        features = self.local(self.standardise(views(images)))
        places, wide = self.place(features)[:, 0], self.wide(features)
        spread = features.flatten(2).std(2)
        whole = self.whole(torch.cat([spread, wide.mean((2, 3)), wide.amax((2, 3))], 1))[:, 0]
        return places.mean((1, 2)) + whole, places


def views(images: Tensor) -> Tensor:
    """A film `(B, 1, H, W)`, its fine and its coarser details, and its details over their local contrast `(B, 4, H, W)`."""
    fine = images - _mean(images, 3)
    detail = images - _mean(images, _BLUR)
    contrast = _mean(detail.square(), _BLUR).sqrt()
    return torch.cat([images, fine, detail, detail / (contrast + _FLOOR)], 1)


def _mean(images: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(F.pad(images, [size // 2] * 4, mode="reflect"), size, 1)


def train_critic(
    images: Tensor,
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]],
    seed: int,
    steps: int = STEPS,
) -> PatchCritic:
    """A critic trained on pairs of films.

    Args:
        images: `(N, 1, H, W)` in [-1, 1], at least `MIN_SIZE` pixels on a side.
        draw: (generator, n) -> rows of n films of the first and of n films of the second set.
        seed: of the initial weights, the pairs and the shifts. steps: of 2 * 16 films each.

    Returns:
        the critic in evaluation mode; the same for the same arguments, machine and number of threads.
    """
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = PatchCritic()
    critic = critic.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(critic.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, _LEARNING_RATE, total_steps=steps, pct_start=0.2
    )
    side = [size - size // 16 for size in images.shape[2:]]
    label = torch.cat([torch.zeros(_PAIRS), torch.ones(_PAIRS)])
    for _ in range(steps):
        batch = images[np.concatenate(draw(rng, _PAIRS))]
        batch = torch.stack([_shifted(film, side, rng) for film in batch])
        logits, _ = critic(batch)
        loss = F.binary_cross_entropy_with_logits(logits, label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return critic.eval()


def _shifted(film: Tensor, side: list[int], rng: np.random.Generator) -> Tensor:
    """A window of the film at a random place, mirrored half of the time."""
    top, left = (int(rng.integers(0, whole - part + 1)) for whole, part in zip(film.shape[1:], side))
    window = film[:, top : top + side[0], left : left + side[1]]
    return window.flip(2) if rng.integers(2) else window


@torch.no_grad()
def critic_logits(critic: PatchCritic, images: Tensor, batch_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(N,)` and the maps of the places' logits `(N, H / 8, W / 8)` of whole films."""
    logits, maps = zip(*(critic(batch) for batch in images.split(batch_size)))
    return torch.cat(logits).numpy(), torch.cat(maps).numpy()
