"""Minimality of counterfactuals in a latent space (N = Melistas et al., NeurIPS 2024)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from .arrays import check_array, check_kind, check_value, ratio, to_numpy

DISTANCES = ("l1", "kl")


def latent_minimality(
    kind: str,
    latent: Any,
    counterfactual_latent: Any,
    value: Any,
    counterfactual_value: Any,
    *,
    distance: str = "l1",
    n_bins: int = 10,
    weights: tuple[float, float] = (0.8, 0.2),
    name: str = "attribute",
) -> np.ndarray:
    """N's counterfactual latent divergence of an intervention, one number per image.

    With d = D(z*, z) between the latents of counterfactual and factual image, and real images x' as a yard-stick,

        CLD = log(w1 exp P[D(z', z) <= d | x' has the counterfactual value]
                + w2 exp P[D(z', z) >= d | x' has the factual value]).

    The first probability is small when x* is closer to x than the real images of the new class are (nothing but
    the intervention changed), the second when x* is farther from x than other images of the old class (something
    did change). With w1 + w2 = 1 the divergence is between 0 (ideal) and 1. N's weights put 0.8 on the first.
    The image itself never serves as its own yard-stick.

    Args:
        kind: of the intervened attribute; values of a continuous one are "the same" within one of `n_bins` bins of
            equal width over the range of the factual values (values outside fall into the outermost bins).
        latent, counterfactual_latent: `(N, D)` features of factual and counterfactual images, e.g. a judge's
            embeddings; for `distance="kl"` `(N, 2, D)` with mean and log standard deviation of a Gaussian posterior.
        value, counterfactual_value: `(N,)` raw values of the intervened attribute.
        distance: `"l1"`, the mean absolute difference, or `"kl"`, KL(counterfactual or other image ‖ factual)
            per dimension, in nats.
        weights: w1, w2; positive.
        name: of the attribute, for messages.

    Returns:
        `(N,)`; NaN where no other real image has the counterfactual or the factual value.

    Raises:
        ValueError: for shapes that differ, no images, NaN, an unknown distance, or weights that are not positive.
    """
    check_kind(kind, name)
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}.")
    if len(weights) != 2 or min(weights) <= 0:
        raise ValueError(f"weights must be two positive numbers, got {weights}.")
    ndim = 2 if distance == "l1" else 3
    z, z_new = (
        check_array(values, f"{name}: the {which} latent", ndim=(ndim,))
        for which, values in (("factual", latent), ("counterfactual", counterfactual_latent))
    )
    if z.shape != z_new.shape or (ndim == 3 and z.shape[1] != 2):
        raise ValueError(
            f"{name}: latents must both have shape {'(N, D)' if ndim == 2 else '(N, 2, D)'} for distance={distance!r}, "
            f"got {z.shape} and {z_new.shape}."
        )
    group, group_new = _groups(kind, value, counterfactual_value, len(z), n_bins, name)
    out = np.empty(len(z))
    step = max(1, 2_000_000 // len(z))
    for start in range(0, len(z), step):
        rows = np.arange(start, min(start + step, len(z)))
        between = _DISTANCE[distance](z, z[rows])  # (rows, N): from every image to the factual one
        d = _DISTANCE[distance](z_new[rows], z[rows], paired=True)[:, None]
        others = np.arange(len(z)) != rows[:, None]
        new, old = others & (group == group_new[rows, None]), others & (group == group[rows, None])
        closer, farther = (
            ratio((hit & of).sum(1), of.sum(1)) for hit, of in ((between <= d, new), (between >= d, old))
        )
        out[rows] = np.log(weights[0] * np.exp(closer) + weights[1] * np.exp(farther))
    return out


def _groups(
    kind: str, value: Any, new: Any, length: int, n_bins: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    value, new = to_numpy(value), to_numpy(new)
    classes = 2
    if kind == "categorical":
        classes = max(2, int(np.nanmax([value, new], initial=1)) + 1) if value.shape == new.shape else 2**31
    value, new = (check_value(kind, v, length, name, classes) for v in (value, new))
    if kind != "continuous":
        return value, new
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}.")
    inner = np.linspace(value.min(), value.max(), n_bins + 1)[1:-1]
    return np.searchsorted(inner, value, side="right"), np.searchsorted(inner, new, side="right")


def _l1(of: np.ndarray, to: np.ndarray, paired: bool = False) -> np.ndarray:
    if paired:
        return np.abs(of - to).mean(1)
    return cdist(to, of, "cityblock") / of.shape[1]


def _kl(of: np.ndarray, to: np.ndarray, paired: bool = False) -> np.ndarray:
    """KL(of ‖ to) per dimension; expands the square so that all pairs are matrix products."""
    (mean, log_sd), (mean_to, log_sd_to) = of.swapaxes(0, 1), to.swapaxes(0, 1)
    if paired:
        ratio = (np.exp(2 * log_sd) + np.square(mean - mean_to)) * np.exp(-2 * log_sd_to)
        return (log_sd_to - log_sd - 0.5 + 0.5 * ratio).mean(1)
    precision = np.exp(-2 * log_sd_to)
    square = precision @ (np.exp(2 * log_sd) + np.square(mean)).T - 2 * (precision * mean_to) @ mean.T
    square += (precision * np.square(mean_to)).sum(1)[:, None]
    return (log_sd_to.sum(1)[:, None] - log_sd.sum(1) + 0.5 * square) / mean.shape[1] - 0.5


_DISTANCE = {"l1": _l1, "kl": _kl}
