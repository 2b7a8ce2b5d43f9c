"""Settings of the chest phantom: what is rendered and how readable every attribute is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

FINDINGS = ("Effusion", "Cardiomegaly")


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
        if not 16 <= int(self.resolution) <= 1024:
            raise ValueError(f"resolution is {self.resolution}; give a number of pixels from 16 to 1024.")
        if self.finding not in FINDINGS:
            raise ValueError(f"finding is {self.finding!r}; choose one of {', '.join(FINDINGS)}.")
        if not 0.0 <= self.device_rate <= 1.0:
            raise ValueError(f"device_rate is {self.device_rate}; it is a probability, from 0 to 1.")
        for name in ("age_noise", "photons"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; give a finite number above 0.")
        for name in ("sex_separation", "site_separation", "finding_separation"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; give a finite number of at least 0.")

    def to_dict(self) -> dict:
        """The settings as a JSON-able dictionary."""
        return asdict(self)
