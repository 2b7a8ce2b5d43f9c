"""Costophrenic-recess score (SCP) from lung masks (B = Singla et al., Medical Image Analysis 2023).

B scores a recess by an object detector: its confidence that the recess is normal rather than blunt. That needs boxes
drawn by experts. Here the score is geometry of a lung mask, so that it can be recomputed and checked: the costophrenic
angle between chest wall and lower border of the lung, mapped to [0, 1]. A detector's confidences can be compared
before and after an explanation with the same paired tests (`paired_tests`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import theilslopes

from .arrays import to_numpy
from .masks import check_masks, horizontal_extent

_FEWEST_COLUMNS = 3


def costophrenic_angles(
    lungs: Any, *, midline: Any = None, zone: float = 0.12, wall_share: float = 0.1
) -> np.ndarray:
    """Costophrenic angle of both sides, in degrees.

    Per side: the chest wall is the outermost column in which lung fills at least *wall_share* of the rows that the
    side's lung spans (specks and the thin curve of the wall are no wall); the half thorax reaches from the midline to
    it. In the lateral *zone* of the half thorax (at least 3 columns) the lowest lung pixel of every column gives the
    lower border; its slope is the median of the slopes between all pairs of columns (Theil-Sen), so that one wrong
    column has no say. The angle is that between the upward wall, taken as vertical, and the border: below 90 degrees
    where the border falls towards the wall (a sharp recess), 90 where it is level, above where fluid climbs the wall.

    Limits: 6 columns hold the zone at 128 pixels and 3 at 64, so single angles err by several degrees (on the
    phantom's exact masks by 7 and 11 on average); a segmenter that rounds the corner off blunts every angle, so
    compare changes within one segmenter; fluid that the segmenter calls lung is invisible here, and so is what lies
    behind the diaphragm.

    Args:
        lungs: union of both lungs, `(N, H, W)` or `(N, 1, H, W)`, binary, upright, frontal.
        midline: column between the sides, a number or `(N,)`, in pixels (0 is the left edge of the image). None takes
            the centre of the lungs' extent, which is wrong where a lung is missing.
        zone: share of the half thorax, in (0, 1].
        wall_share: share of rows, in [0, 1).

    Returns:
        `(N, 2)` in (0, 180), image left (patient's right) first; NaN for a side without lung or with fewer than 3
        columns, and for both sides where no midline was given and lung fills half of the rows at the centre of the
        extent (then there is one lung, not two).

    Raises:
        ValueError: for masks that are not binary, a midline outside the image, or shares outside their range.
    """
    lungs = check_masks(lungs, "lungs")
    if not 0 < zone <= 1 or not 0 <= wall_share < 1:
        raise ValueError(f"zone must be in (0, 1] and wall_share in [0, 1), got {zone} and {wall_share}.")
    count, _, width = lungs.shape
    if midline is None:
        middle = _centre(lungs)
    else:
        middle = to_numpy(midline)
        if middle.shape not in ((), (count,)) or not ((middle > 0) & (middle < width)).all():
            raise ValueError(
                f"midline must be a column between 0 and {width}, one number or one per image ({count}), got {midline!r}."
            )
        middle = np.broadcast_to(middle, (count,))
    angles = np.full((len(lungs), 2), np.nan)
    for i in np.flatnonzero(~np.isnan(middle)):
        angles[i, 0] = _angle(lungs[i, :, ::-1], width - middle[i], zone, wall_share)
        angles[i, 1] = _angle(lungs[i], middle[i], zone, wall_share)
    return angles


def costophrenic_score(lungs: Any, *, per_side: bool = False, **options: Any) -> np.ndarray:
    """Score of the costophrenic recesses, 1 - angle / 180: near 0.8 sharp, 0.5 at a right angle, below it fluid.

    Args:
        lungs: union of both lungs, `(N, H, W)` or `(N, 1, H, W)`, binary.
        per_side: False gives the worse (blunter) side, since effusions are often on one side.
        options: `midline`, `zone`, `wall_share` of `costophrenic_angles`, which states the geometry and its limits.

    Returns:
        `(N,)`, or `(N, 2)` (image left first) with *per_side*; NaN where an angle is not defined, for the worse side
        where either is not: the missing lung might be the sick one.

    Raises:
        ValueError: as `costophrenic_angles`.
    """
    score = 1 - costophrenic_angles(lungs, **options) / 180
    return score if per_side else score.min(1)


def _centre(lungs: np.ndarray) -> np.ndarray:
    """Centre of the extent in pixels; NaN where empty, or where it cuts through lung rather than mediastinum."""
    first, last = horizontal_extent(lungs)
    centre = (first + last + 1) / 2
    rows = lungs.any(2).sum(1)
    column = np.nan_to_num(centre).astype(int).clip(max=lungs.shape[2] - 1)
    across = lungs[np.arange(len(lungs)), :, column].sum(1)
    return np.where(across < 0.5 * rows, centre, np.nan)


def _angle(lung: np.ndarray, middle: float, zone: float, wall_share: float) -> float:
    """Angle of the side to the right of *middle*, degrees; mask `(H, W)`."""
    start = int(np.ceil(middle - 0.5))  # first column whose centre is not left of the midline
    side = lung[:, start:]
    rows = np.flatnonzero(side.any(1))
    if len(rows) == 0:
        return float("nan")
    filled = side.sum(0)
    columns = np.flatnonzero(filled >= max(1.0, wall_share * (rows[-1] - rows[0] + 1)))
    if len(columns) == 0:
        return float("nan")
    wall = columns[-1] + 1
    half_thorax = start + wall - middle
    columns = np.arange(max(wall - max(_FEWEST_COLUMNS, round(zone * half_thorax)), 0), wall)
    columns = columns[filled[columns] > 0]
    if len(columns) < _FEWEST_COLUMNS:
        return float("nan")
    bottom = len(side) - side[::-1, columns].argmax(0)
    return float(np.degrees(np.arctan2(1.0, theilslopes(bottom, columns).slope)))
