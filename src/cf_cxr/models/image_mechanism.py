"""What the deep SCM asks of an image mechanism, whatever it is made of.

An image mechanism turns an image and its parents into exogenous noise and back:

    noise = mechanism.abduct(pixel_values, parents)
    pixel_values = mechanism.decode(noise, parents)

The noise is opaque outside the mechanism. All it must allow is to be repeated row by row, so that one abduction
can serve many interventions. What a mechanism can be told besides (steps of a solver, guidance) are keyword arguments
of these two methods; it names them in `abduct_options` and `decode_options`, and everybody else passes them through. A
mechanism that takes NaN for an unknown parent, rather than a neutral code, sets `takes_unknown_parents`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..tensor_checks import check_pixel_values


@runtime_checkable
class ImageMechanism(Protocol):
    """p(image | parents) with abduction. Images are `(B, C, H, W)` in [-1, 1], parents `(B, context_dim)`."""

    def abduct(
        self,
        pixel_values: Tensor,
        parents: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = False,
        **options: Any,
    ) -> Any:
        """Infers the exogenous noise of images, given their factual parents."""

    def decode(self, noise: Any, parents: Tensor, **options: Any) -> Tensor:
        """The images that this noise gives under these parents."""

    def sample(
        self, parents: Tensor, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        """New images of these parents."""


def mechanism_options(mechanism: ImageMechanism) -> tuple[str, ...]:
    """Names of all options of a mechanism."""
    names = (*getattr(mechanism, "abduct_options", ()), *getattr(mechanism, "decode_options", ()))
    return tuple(dict.fromkeys(names))


def split_options(
    mechanism: ImageMechanism, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options by name, for `abduct` and for `decode`; one that both know goes to both.

    Raises:
        TypeError: for a name that the mechanism does not declare.
    """
    known = mechanism_options(mechanism)
    if unknown := [name for name in options if name not in known]:
        raise TypeError(
            f"{type(mechanism).__name__} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}."
        )
    return tuple(
        {name: options[name] for name in getattr(mechanism, part, ()) if name in options}
        for part in ("abduct_options", "decode_options")
    )


def check_mechanism_inputs(config: Any, pixel_values: Tensor, parents: Tensor) -> None:
    """Refuses what a mechanism of this configuration cannot take.

    Raises:
        ValueError: images that are not `(B, num_channels, image_size, image_size)` in [-1, 1], or parents that are not
            `(B, context_dim)`.
    """
    expected = (config.num_channels, config.image_size, config.image_size)
    if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
        raise ValueError(
            f"pixel_values must be (batch, {', '.join(map(str, expected))}), got {tuple(pixel_values.shape)}; "
            "prepare images with CXRImageProcessor."
        )
    check_pixel_values(pixel_values, config.num_channels)
    if parents.shape != (len(pixel_values), config.context_dim):
        raise ValueError(
            f"parents must be ({len(pixel_values)}, {config.context_dim}), got {tuple(parents.shape)}; make them with "
            "AttributeSchema.encode."
        )


def random_numbers(
    shape: Sequence[int], device: torch.device, generator: torch.Generator | None, law: Any = torch.randn
) -> Tensor:
    """Random numbers on a device, drawn in float32 on the generator's: a CPU generator gives the same everywhere."""
    return law(shape, generator=generator, device=device if generator is None else generator.device).to(
        device
    )


def map_noise(function: Callable[[Tensor], Tensor], noise: Any) -> Any:
    """Applies a function to every tensor of a noise structure (tensor, tuple, list, dict, dataclass or None)."""
    if noise is None:
        return None
    if isinstance(noise, Tensor):
        return function(noise)
    if is_dataclass(noise):
        return replace(noise, **{f.name: map_noise(function, getattr(noise, f.name)) for f in fields(noise)})
    if isinstance(noise, dict):
        return {k: map_noise(function, v) for k, v in noise.items()}
    if isinstance(noise, (tuple, list)):
        return type(noise)(map_noise(function, v) for v in noise)
    raise TypeError(f"Noise may hold tensors, tuples, dicts and dataclasses, not {type(noise).__name__}.")


def repeat_noise(noise: Any, repeats: int) -> Any:
    """Each row `repeats` times in a row (as `torch.repeat_interleave`), in every tensor of the noise."""
    return noise if repeats == 1 else map_noise(lambda t: t.repeat_interleave(repeats, dim=0), noise)
