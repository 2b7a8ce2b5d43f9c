"""Writes beside a trained model which films are usual, so that its pipelines can warn about others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...images.image_processing_cxr import CXRImageProcessor
from ...images.out_of_distribution import KINDS, UsualFilms, film_features, of_every_kind

logger = logging.getLogger(__name__)

MAX_FILMS = 4000  # of either side
QUANTILE = 0.9975  # of held-out films, for each of the two limits
LEAST_LOG_ODDS = float(np.log(9))  # at least nine to one before a film is called inverted, rotated or framed
_REGULARISATION = 0.01  # sklearn's C, for z-scores
_SIDE = 64  # at which frames are made
_MARGIN = 0.2  # most of the side that a frame takes at a corner
_LEAST_MARGIN = 0.1  # that it takes somewhere


def record_usual_films(
    folder: str | Path, train: Any, held_out: Any = None, batch_size: int = 64
) -> UsualFilms | None:
    """Measures films, and adds `usual_films` to the folder's `preprocessor_config.json`.

    Args:
        folder: with a `CXRImageProcessor`, saved.
        train: the films of the training; gives `{"pixel_values": ...}` through `__getitems__`.
        held_out: such films of other patients, which set the limits; None: every fifth film of the training, left out
            of the rest.
        batch_size: films at a time.

    Returns:
        The record; None, and nothing is written, where there are too few films.
    """
    rows = _spread(len(train))
    if held_out is None:
        rows, others, held_out = [r for i, r in enumerate(rows) if i % 5], rows[::5], train
    else:
        others = _spread(len(held_out))
    if len(rows) < 2 or not others:
        text = "%d and %d films are too few to say which are usual: no image will be warned about."
        logger.warning(text, len(rows), len(others))
        return None
    usual = measure_usual_films(_films(train, rows, batch_size), _films(held_out, others, batch_size))
    processor = CXRImageProcessor.from_pretrained(folder)
    processor.usual_films = usual.to_dict()
    processor.save_pretrained(folder)
    return usual


def measure_usual_films(films: Iterator[Tensor], held_out: Iterator[Tensor]) -> UsualFilms:
    """Of batches `(B, 1, S, S)` in [-1, 1], as the pipelines will see them: of the training, two films at least, and of
    other patients.
    """
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(0)
    kinds: list[list[Tensor]] = [[] for _ in range(1 + len(KINDS))]
    for batch in films:
        for into, changed in zip(kinds, [batch, *of_every_kind(batch), framed(batch, generator)]):
            into.append(film_features(changed))
    others = [film_features(batch) for batch in held_out]
    features = [torch.cat(batches) for batches in kinds]
    mean, std = features[0].mean(0), features[0].std(0)
    # a feature that never moves says nothing; it must not turn rounding into a large distance
    std = std.clamp_min(max(0.01 * float(std.median()), 1e-4))
    z = (torch.cat(features) - mean) / std
    labels = torch.arange(len(features)).repeat_interleave(len(features[0]))
    fit = LogisticRegression(C=_REGULARISATION, max_iter=1000).fit(z.numpy(), labels.numpy())
    weight, bias = (fit.coef_[1:] - fit.coef_[:1]), (fit.intercept_[1:] - fit.intercept_[:1])
    z = (torch.cat(others) - mean) / std
    distance = z.square().mean(1).sqrt()
    log_odds = (z @ torch.from_numpy(weight).float().T + torch.from_numpy(bias).float()).amax(1)
    return UsualFilms(
        mean.tolist(),
        std.tolist(),
        weight.tolist(),
        bias.tolist(),
        float(distance.quantile(QUANTILE)),
        max(float(log_odds.quantile(QUANTILE)), LEAST_LOG_ODDS),
    )


def framed(pixel_values: Tensor, generator: torch.Generator) -> Tensor:
    """Films `(B, 1, S, S)` in [-1, 1] as somebody's photograph of them shows them, 64 x 64.

    The corners are drawn in by up to 20 % of the side, one of them by at least 10 %; around is a surface of any but
    black, brighter to one side; the film's own contrast is weaker.
    """
    count = len(pixel_values)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    drawn_in = uniform(0, 2 * _MARGIN, 8)  # of coordinates from -1 to 1
    chosen = torch.randint(8, (count, 1), generator=generator)
    least = drawn_in.gather(1, chosen).clamp_min(2 * _LEAST_MARGIN)
    drawn_in = drawn_in.scatter(1, chosen, least).view(count, 4, 2)
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    homography = _homography(corners * (1 - drawn_in), corners)
    side = torch.linspace(-1, 1, _SIDE)
    y, x = torch.meshgrid(side, side, indexing="ij")
    seen = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(1, -1, 3) @ homography.mT
    grid = (seen[..., :2] / seen[..., 2:]).view(count, _SIDE, _SIDE, 2)
    film = F.grid_sample(F.adaptive_avg_pool2d(pixel_values.float(), _SIDE), grid, align_corners=True)
    film = uniform(-1, -0.5, 1, 1, 1) + uniform(0.6, 1, 1, 1, 1) * (film + 1) / 2 * 1.5
    slope, angle = uniform(0, 0.3, 1, 1), uniform(0, 2 * torch.pi, 1, 1)
    ramp = 1 + slope * (x * angle.cos() + y * angle.sin())
    surface = (uniform(0.15, 1, 1, 1) * ramp)[:, None] * 2 - 1
    inside = (grid.abs() <= 1).all(-1)[:, None]
    return torch.where(inside, film, surface).clamp(-1, 1)


def _homography(points: Tensor, targets: Tensor) -> Tensor:
    """`(B, 3, 3)` that takes `points` (B, 4, 2) to `targets` (4, 2)."""
    (x, y), (u, v) = points.unbind(-1), targets.expand_as(points).unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows = [
        torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1),
        torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1),
    ]
    solved = torch.linalg.solve(torch.cat(rows, 1), torch.cat([u, v], 1))
    return torch.cat([solved, torch.ones_like(solved[:, :1])], 1).view(-1, 3, 3)


def _spread(count: int) -> list[int]:
    """At most `MAX_FILMS` numbers from all over 0 ... count - 1."""
    return list(range(0, count, max(1, -(-count // MAX_FILMS))))


def _films(batches: Any, rows: list[int], size: int) -> Iterator[Tensor]:
    for start in range(0, len(rows), size):
        yield batches.__getitems__(rows[start : start + size])["pixel_values"]
