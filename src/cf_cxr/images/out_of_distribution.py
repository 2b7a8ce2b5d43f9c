"""Whether a radiograph is like those a model was trained on, and what it looks like instead; no model is asked.

Of a film two things are looked at, in units of its own contrast: its layout, 16 x 16 mean grey levels, and how much fine
detail there is in 4 x 4 fields. Two numbers come of them. The distance is the root mean square z-score against the films
of the training (about 1 for those): noise, drawings, other pictures. The log odds, of a linear classifier, are those of the
film being inverted, rotated or within a frame, against its being as it should: the distance cannot see these well, because
they are made of the same grey levels. Both limits are high quantiles over held-out films. A kind is only named where
putting it right (a frame stays) gives a film at a usual distance.

`CXRImageProcessor.usual_films` holds the record, in JSON's types; `training.loop.usual_films` measures it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

KINDS = ("inverted", "rotated by 90°", "rotated by 180°", "rotated by 270°", "framed")  # anticlockwise
_FINE, _LAYOUT, _FIELDS = 32, 16, 4  # sides in pixels and fields
NUM_FEATURES = _LAYOUT**2 + _FIELDS**2
_LEAST_CONTRAST = 1e-3  # of pixel values in [-1, 1]: less is taken for this
_LEAST_DETAIL = 0.02  # in units of the contrast
_UNUSUAL = "unlike those that the model was trained on"


class OutOfDistributionWarning(UserWarning):
    """The image is unlike those that the model was trained on, so what is made of it may mean little."""


def film_features(pixel_values: Tensor) -> Tensor:
    """What is looked at, `(B, 272)` float32, of films `(B, 1, S, S)` of any range and contrast."""
    fine = F.adaptive_avg_pool2d(pixel_values.float(), _FINE)
    centred = fine - fine.mean((2, 3), keepdim=True)
    fine = centred / fine.std((2, 3), keepdim=True).clamp_min(_LEAST_CONTRAST)
    around = F.pad(fine, (1, 1, 1, 1), mode="replicate")
    detail = 4 * fine - sum(
        around[..., y : y + _FINE, x : x + _FINE] for y, x in ((0, 1), (2, 1), (1, 0), (1, 2))
    )
    detail = F.adaptive_avg_pool2d(detail.square(), _FIELDS).sqrt().add(_LEAST_DETAIL).log()
    return torch.cat([F.adaptive_avg_pool2d(fine, _LAYOUT).flatten(1), detail.flatten(1)], dim=1)


def of_every_kind(pixel_values: Tensor) -> list[Tensor]:
    """Films `(B, 1, S, S)` in [-1, 1], inverted and rotated as `KINDS` says; a frame is not made here."""
    return [-pixel_values, *(pixel_values.rot90(quarters, (2, 3)) for quarters in (1, 2, 3))]


def put_right(pixel_values: Tensor, kind: str) -> Tensor:
    """The inverse of `of_every_kind`; what cannot be undone is left as it is."""
    quarters = KINDS.index(kind)
    if kind == "inverted":
        return -pixel_values
    return pixel_values.rot90(-quarters, (2, 3)) if quarters < 4 else pixel_values


@dataclass(frozen=True)
class UsualFilms:
    """A record of usual films.

    Args:
        mean, std: of `film_features` over the films of the training, 272 numbers each.
        weight: of the linear classifier, 272 numbers for each of `KINDS`: log odds of the kind against a film as it
            should be, from z-scores.
        bias: of the classifier, a number for each of `KINDS`.
        distance_limit, log_odds_limit: from where on a film is called unusual.
    """

    mean: list[float]
    std: list[float]
    weight: list[list[float]]
    bias: list[float]
    distance_limit: float
    log_odds_limit: float

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> UsualFilms:
        """Of the entry in a `preprocessor_config.json`, which may come from anybody.

        Raises:
            ValueError: it is incomplete, or cannot be.
        """
        names = tuple(cls.__dataclass_fields__)
        shapes = ((NUM_FEATURES,), (NUM_FEATURES,), (len(KINDS), NUM_FEATURES), (len(KINDS),), (), ())
        try:
            values = [torch.tensor(record[name], dtype=torch.float32) for name in names]
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(f"usual_films cannot be read ({error!r}); it has {', '.join(names)}.") from error
        for name, value, shape in zip(names, values, shapes):
            if tuple(value.shape) != shape or not value.isfinite().all():
                raise ValueError(
                    f"usual_films: {name} must hold finite numbers of the shape {shape}, it has {tuple(value.shape)}. "
                    "Measure it again (cf_cxr.training.loop.usual_films), or remove it: then no film is called unusual."
                )
        if not (values[1] > 0).all() or values[4] <= 0:
            raise ValueError("usual_films: every std and distance_limit must be positive.")
        return cls(*(value.tolist() for value in values))

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types, every number to four digits."""
        return {name: _rounded(value) for name, value in asdict(self).items()}

    def measure(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Distances `(B,)` and log odds of every kind `(B, 5)` of films `(B, 1, S, S)`."""
        z = (film_features(pixel_values) - torch.tensor(self.mean)) / torch.tensor(self.std)
        return z.square().mean(1).sqrt(), z @ torch.tensor(self.weight).T + torch.tensor(self.bias)

    def unusual(self, pixel_values: Tensor) -> dict[str, Any] | None:
        """What is unusual about one film `(1, 1, S, S)` in [-1, 1]; None for a usual one.

        Returns:
            `distance` and its `limit`; `looks`, one of `KINDS`, or None where none of them explains it; and
            `corrected`, False.
        """
        [distance], [odds] = self.measure(pixel_values)
        best = int(odds.argmax())
        is_kind = bool(odds[best] > self.log_odds_limit)
        if not is_kind and distance <= self.distance_limit:
            return None
        looks = KINDS[best] if is_kind else None
        if looks and self.measure(put_right(pixel_values, looks))[0] > self.distance_limit:
            looks = None
        return {
            "distance": float(f"{distance:.4g}"),
            "limit": float(f"{self.distance_limit:.4g}"),
            "looks": looks,
            "corrected": False,
        }


def describe_unusual(finding: Mapping[str, Any]) -> str:
    """What `UsualFilms.unusual` found, as a sentence about "the image"."""
    if finding["corrected"]:
        still = (
            f", but it still looks {finding['looks'] or _UNUSUAL}" if finding["looks"] != "inverted" else ""
        )
        return f"the image looked inverted and was inverted back{still}."
    if finding["looks"] == "inverted":
        return f"the image looks inverted, {_UNUSUAL}; the result may mean little. invert='auto' (--invert auto) puts it right."
    if finding["looks"] == "framed":
        return (
            f"the image looks framed, as in a photograph or a screenshot, {_UNUSUAL}; the result may mean little. "
            "Crop it to the film."
        )
    if finding["looks"]:
        return f"the image looks {finding['looks']} (anticlockwise), {_UNUSUAL}; the result may mean little."
    return (
        f"the image is {_UNUSUAL} (distance {finding['distance']:.2f}, usual up to {finding['limit']:.2f}); "
        "the result may mean little."
    )


def _rounded(value: Any) -> Any:
    return [_rounded(v) for v in value] if isinstance(value, list) else float(f"{value:.4g}")


__all__ = ["KINDS", "OutOfDistributionWarning", "UsualFilms", "film_features"]
