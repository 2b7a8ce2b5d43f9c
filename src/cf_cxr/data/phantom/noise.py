"""Exogenous noise: a fixed row of numbers per image, from a counter-based generator.

Row ``i`` of seed ``s`` is the same whatever the number of rows drawn with it: Philox (Salmon et al., 2011)
is a function of (key, counter), and row ``i`` owns a fixed range of counters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .factors import FACTORS

NUISANCES = (
    "shift_x", "shift_y", "zoom", "tilt", "depth", "girth", "inspiration", "thorax_width", "apex",
    "dome_right", "dome_left", "dome_drop", "heart_size", "heart_tilt", "heart_shift", "mediastinum",
    "trachea", "spine_width", "scoliosis", "rib_phase", "rib_spacing", "rib_slope", "rib_size",
    "clavicle_right", "clavicle_left", "scapula", "arm", "neck", "breast_height", "breast_asymmetry",
    "lung_density", "vessel_tree", "vessel_flip", "vessel_strength", "vessel_scale", "gas_size", "gas_x",
    "exposure", "scatter", "fluid_side", "fluid_balance", "marker_side", "marker_height", "shutter_balance",
    "pacemaker", "pacemaker_side", "pacemaker_x", "pacemaker_y", "tube", "tube_kind", "tube_depth", "lead_sway",
)  # fmt: skip
RANK, GRAIN = "finding_rank", "grain"
NOISE_COLUMNS = (*FACTORS, *NUISANCES, RANK, GRAIN)
_GRAINS = 2**24  # every integer below is exact in float32
_ATTRIBUTE_STREAM, _NOISE_STREAM, _GRAIN_STREAM = 1, 2, 3


def seed_from(generator: int | np.random.Generator | torch.Generator | None) -> int:
    """A 63-bit seed: an integer is itself, a generator is asked for one, None takes fresh entropy."""
    if isinstance(generator, torch.Generator):
        return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    if isinstance(generator, np.random.Generator):
        return int(generator.integers(2**63 - 1))
    if generator is None:
        return int(np.random.default_rng().integers(2**63 - 1))
    if isinstance(generator, (int, np.integer)) and not isinstance(generator, bool):
        if not 0 <= int(generator) < 2**63:
            raise ValueError(f"seed is {generator}; give an integer from 0 to 2**63 - 1.")
        return int(generator)
    raise TypeError(
        f"generator is {type(generator).__name__}; give an integer seed, a torch or numpy Generator."
    )


def _uniform_rows(seed: int, stream: int, indices: Sequence[int] | np.ndarray, width: int) -> torch.Tensor:
    """Uniforms in (0, 1), ``(len(indices), width)`` float64; row ``i`` depends on (seed, stream, index) only."""
    indices = np.asarray(indices, dtype=np.int64)
    if indices.ndim != 1 or (indices < 0).any():
        raise ValueError("indices must be a list of integers of at least 0.")
    counters = -(-width // 4)  # one Philox counter gives four 64-bit words
    rows = np.empty((len(indices), 4 * counters))
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    for run in np.split(np.arange(len(indices)), breaks):
        if len(run):
            bits = np.random.Philox(key=[seed, stream]).advance(int(indices[run[0]]) * counters)
            rows[run] = np.random.Generator(bits).random((len(run), 4 * counters))
    return torch.from_numpy(rows[:, :width] + 2.0**-54)


def attribute_uniforms(seed: int, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
    """Uniforms ``(n, 4)`` behind the attributes of images ``indices``."""
    return _uniform_rows(seed, _ATTRIBUTE_STREAM, indices, 4)


def noise_rows(seed: int, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
    """Exogenous noise ``(n, len(NOISE_COLUMNS))`` float32 of images ``indices``.

    Standard normal columns, then ``finding_rank`` uniform in (0, 1) and ``grain``, an integer below 2**24
    that keys the image's photon noise and fine texture.
    """
    uniform = _uniform_rows(seed, _NOISE_STREAM, indices, len(NOISE_COLUMNS))
    normal = torch.special.ndtri(uniform[:, :-2])
    rank = uniform[:, -2:-1].clamp(1e-6, 1.0 - 1e-6)
    grain = torch.floor(uniform[:, -1:] * _GRAINS).clamp(max=_GRAINS - 1)
    return torch.cat([normal, rank, grain], dim=1).float()


def grain_fields(grain: torch.Tensor, count: int) -> torch.Tensor:
    """``count`` standard normals per image, ``(n, count)`` float32, keyed by the ``grain`` column ``(n,)``."""
    fields = np.empty((len(grain), count), dtype=np.float32)
    for row, key in zip(fields, grain.tolist(), strict=True):
        generator = np.random.Generator(np.random.Philox(key=[int(key), _GRAIN_STREAM]))
        generator.standard_normal(out=row, dtype=np.float32)
    return torch.from_numpy(fields)
