"""Settings of the chest phantom: what is rendered and how readable every attribute is."""

from __future__ import annotations

import sys
from dataclasses import dataclass

FINDINGS = ("Effusion", "Cardiomegaly")
_LEAST, _MOST = sys.float_info.min, sys.float_info.max
_SEPARATIONS = ("sex_separation", "site_separation", "finding_separation")
_RANGES = (
    (16, 1024, "give a number of pixels from 16 to 1024", ["resolution"]),
    (0.0, 1.0, "it is a probability, from 0 to 1", ["device_rate"]),
    (_LEAST, _MOST, "give a finite number above 0", ["age_noise", "photons"]),
    (0.0, _MOST, "give a finite number of at least 0", _SEPARATIONS),
)


@dataclass(frozen=True)
class PhantomConfig:
    """Settings of :class:`~cf_cxr.data.phantom.ChestPhantom`.

    Args:
        resolution: side of the square image in pixels, 16 to 1024.
        finding: the pathology, ``"Effusion"`` or ``"Cardiomegaly"``.
        device_rate: probability of a pacemaker, and independently of a tube, in ``[0, 1]``.
        age_noise: error, in years (standard deviation), of the best unbiased reading of age from the image.
        sex_separation: distance between the two sexes in image-factor space, in standard deviations
            (d'); the best possible AUC is Phi(d' / sqrt 2).
        site_separation: distance between any two sites in image-factor space, in standard deviations.
        finding_separation: as ``sex_separation``, for the finding, before age is taken into account.
        photons: mean detected quanta per pixel of the open beam at 128 x 128; fewer is noisier.

    Raises:
        ValueError: for a setting outside its range.
    """

    resolution: int = 128
    finding: str = "Effusion"
    device_rate: float = 0.15
    age_noise: float = 6.5
    sex_separation: float = 2.5
    site_separation: float = 2.3
    finding_separation: float = 2.1
    photons: float = 60_000.0

    def __post_init__(self) -> None:
        if self.finding not in FINDINGS:
            raise ValueError(f"finding is {self.finding!r}; choose one of {', '.join(FINDINGS)}.")
        for low, high, meaning, names in _RANGES:
            for name in names:
                if not low <= (value := getattr(self, name)) <= high:
                    raise ValueError(f"{name} is {value}; {meaning}.")
