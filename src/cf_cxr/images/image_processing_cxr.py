"""CXRImageProcessor: radiographs in, `pixel_values` (B, 1, S, S) in [-1, 1] out, and back."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import numpy as np
import PIL.Image
import torch
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from .errors import CXRImageError, CXRImageNotFoundError, NotAChestRadiographWarning
from .loading import MAX_PIXELS, MIN_SIDE, describe, is_dicom_dataset, load_grayscale
from .out_of_distribution import UsualFilms

__all__ = ["CXRImageError", "CXRImageNotFoundError", "CXRImageProcessor", "NotAChestRadiographWarning"]

CROP_MODES = ("center_crop", "pad")
OUTPUT_TYPES = ("pil", "np", "pt")
INVERT = (False, True, "auto")
MIN_LEVELS = 8  # of 256: see check_content
MAX_SIDE = 4096  # of what a model sees
OUTPUT_TOLERANCE = 1e-2  # overshoot beyond [-1, 1] that postprocess clips instead of refusing


class CXRImageProcessorKwargs(TypedDict, total=False):
    """The settings of `CXRImageProcessor`; all of them can also be given for one call."""

    size: Any
    crop_mode: str
    resample: int
    do_quantize: bool
    input_range: tuple[float, float] | list[float] | None
    min_side: int
    max_pixels: int


NAMES = tuple(CXRImageProcessorKwargs.__annotations__)


class CXRImageProcessor(BaseImageProcessor):
    r"""
    Turns chest radiographs, in whatever form they come, into the tensors the models read, and back.

    Each image is read at its native resolution (see `load`), made square, resized with an antialiasing
    filter, clipped, and mapped from [0, 1] to [-1, 1] (black to white).

    Args:
        size (`int` or `{"height": S, "width": S}`, *optional*, defaults to 128):
            Side S of the square output, in pixels.
        crop_mode (`str`, *optional*, defaults to `"center_crop"`):
            How an oblong image becomes square: `"center_crop"` cuts the longer side, equally at both ends;
            `"pad"` adds black to the shorter one.
        resample (`PIL.Image.Resampling` or `int`, *optional*, defaults to `Resampling.LANCZOS`):
            Resizing filter. All of Pillow's are antialiased but `NEAREST`, which is refused.
        do_quantize (`bool`, *optional*, defaults to `True`):
            Round the result to the 256 levels of an 8-bit image. The models' likelihood has bins of that
            width, and an image is then the same whether it was resized now or stored as 8 bits before.
        input_range (`tuple[float, float]`, *optional*):
            The values that mean black and white in arrays, tensors and files that are not 8-bit (DICOM
            excepted, whose header says so). By default floats must lie within [0, 1], or within [-1, 1] with
            a negative value somewhere, and 16-bit integers are divided by 2**n - 1 with n the number of bits
            the largest value needs (at least 8).
        min_side (`int`, *optional*, defaults to 16):
            Images with a shorter side are refused.
        max_pixels (`int`, *optional*, defaults to 80 million):
            Images with more pixels are refused before they are decoded.
        usual_films (`dict`, *optional*):
            A record of the films that the model was trained on (`cf_cxr.images.out_of_distribution`), for `examine`. Without it no
            image is called unusual.

    Example:

    ```python
    >>> from cf_cxr import CXRImageProcessor, example_images

    >>> processor = CXRImageProcessor(size=128)
    >>> pixel_values = processor("chest.dcm")["pixel_values"]  # (1, 1, 128, 128)
    >>> picture = processor.postprocess(pixel_values)[0]  # PIL image, mode L
    ```
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = CXRImageProcessorKwargs

    size = 128
    crop_mode = "center_crop"
    resample = int(PIL.Image.Resampling.LANCZOS)
    do_quantize = True
    input_range = None
    min_side = MIN_SIDE
    max_pixels = MAX_PIXELS
    usual_films = None

    def __init__(self, **kwargs):
        given = {name: kwargs.pop(name, None) for name in NAMES}
        usual_films = kwargs.pop("usual_films", None)
        saved = {"image_processor_type", "processor_class", "feature_extractor_type", "auto_map"}
        _check_names([key for key in kwargs if key not in saved and not key.startswith("_")])
        super().__init__(**kwargs)
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in _checked_settings({**self.settings(), **given}).items():
            setattr(self, name, value)
        if usual_films is not None:
            self.usual_films = UsualFilms.from_dict(usual_films).to_dict()

    def __repr__(self) -> str:
        short = {"usual_films": "..."} if self.usual_films else {}
        return f"{type(self).__name__} {json.dumps({**self.to_dict(), **short}, indent=2, sort_keys=True)}"

    def settings(self) -> dict[str, Any]:
        """What shapes `pixel_values`: the arguments but `usual_films`."""
        return {name: getattr(self, name) for name in NAMES}

    @property
    def backend(self) -> str:
        """`str`: what does the work (Pillow and NumPy)."""
        return "pil"

    def preprocess(self, images: Any, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """Prepare one image or several for a model.

        Args:
            images: one image (see `load`), a sequence or iterator of images (a list, a `datasets` column), or
                an array or tensor (B, C, H, W).
            return_tensors: `"pt"` (default), `"np"`, or None for a list of arrays (1, S, S).
            kwargs: settings of the processor to change for this call.

        Returns:
            `BatchFeature` with `pixel_values`, float32 (B, 1, S, S) in [-1, 1].

        Raises:
            CXRImageError: an image cannot be used, or shows nothing once it is square and resized (see
                `check_content`); in a batch the message says which.
        """
        _check_names(kwargs)
        settings = _checked_settings({**self.settings(), **kwargs})
        limits = {name: settings.pop(name) for name in ("input_range", "min_side", "max_pixels")}

        def process(image: Any) -> np.ndarray:
            return _as_model_input(load_grayscale(image, **limits), describe(image), **settings)

        if is_single_image(images):
            pixel_values = [process(images)]
        else:  # each image is finished before the next is read: a thousand originals need not fit into memory
            pixel_values = []
            for index, image in enumerate(images):
                try:
                    pixel_values.append(process(image))
                except CXRImageError as error:
                    raise type(error)(f"image {index} of the batch: {error}") from error
            if not pixel_values:
                raise CXRImageError("the list of images is empty. Give at least one image.")
        return BatchFeature(
            data={"pixel_values": np.stack(pixel_values) if return_tensors else pixel_values},
            tensor_type=return_tensors,
        )

    def examine(self, image: Any, invert: bool | str = False) -> tuple[torch.Tensor, dict[str, Any] | None]:
        """One image for a model, and whether it is like the films that the model was trained on.

        Args:
            image: one image of any kind that `load` reads.
            invert: True exchanges black and white; `"auto"` does so where the image looks inverted.

        Returns:
            `pixel_values`, float32 (1, 1, S, S) in [-1, 1]; and None for a usual image, or without `usual_films`, else
            what is unusual:

            - `distance` from the films of the training, and the `limit` of what is usual;
            - `looks`: `"inverted"`, `"rotated by 90°"` (180°, 270°; anticlockwise), `"framed"` (a photograph or a
              screenshot of a film), or None where none of these explains it;
            - `corrected`: whether it looked inverted and was inverted back; the rest is then about the image inverted
              back, where that is unusual too.

        Raises:
            CXRImageError: the image cannot be used.
            ValueError: another `invert`, or `"auto"` without `usual_films`.
        """
        check_invert(invert, self)
        usual = UsualFilms.from_dict(self.usual_films) if self.usual_films else None
        pixels = self.load(image)

        def result(pixels: np.ndarray) -> tuple[torch.Tensor, dict[str, Any] | None]:
            settings = {
                name: getattr(self, name) for name in ("size", "crop_mode", "resample", "do_quantize")
            }
            made = torch.from_numpy(_as_model_input(pixels, describe(image), **settings))[None]
            return made, usual.unusual(made) if usual else None

        pixel_values, finding = result(1 - pixels if invert is True else pixels)
        if invert == "auto" and finding and finding["looks"] == "inverted":
            pixel_values, again = result(1 - pixels)
            finding = {**(again or finding), "corrected": True}
        return pixel_values, finding

    def load(self, image: Any) -> np.ndarray:
        """Read one image at its native resolution, without cropping or resizing.

        Args:
            image: path, `http(s)://` address, open binary file or its bytes, `PIL.Image`, numpy array or
                torch tensor ((H, W), (H, W, C) or (C, H, W)), pydicom `Dataset`, or the dictionary
                `{"bytes", "path"}` of an undecoded `datasets.Image`.

        Returns:
            float32 array (H, W) in [0, 1], 0 = black.

        Raises:
            CXRImageError: the image cannot be used; the message names it, what is wrong and the remedy.
        """
        return load_grayscale(
            image, input_range=self.input_range, min_side=self.min_side, max_pixels=self.max_pixels
        )

    def postprocess(self, pixel_values: Any, output_type: str = "pil") -> list[PIL.Image.Image] | Any:
        """Turn model output back into pictures: the inverse of `preprocess` after its resize.

        Args:
            pixel_values: tensor or array (B, 1, H, W) in [-1, 1], of any float type and on any device.
            output_type: `"pil"`, `"np"` or `"pt"`.

        Returns:
            A list of B PIL images of mode L (rounded to the nearest of 256 levels), or a float32 array or
            tensor (B, H, W) in [0, 1] (not rounded).

        Raises:
            CXRImageError: the shape is not (B, 1, H, W), or values are NaN, infinite or outside [-1, 1].
            ValueError: unknown `output_type`.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(
                f"output_type={output_type!r} is unknown. Choose one of {', '.join(OUTPUT_TYPES)}."
            )
        pixels = (_checked_output(pixel_values) + 1) / 2
        if output_type == "pt":
            return pixels
        if output_type == "np":
            return pixels.numpy()
        levels = (pixels * 255).round().to(torch.uint8).numpy()
        return [PIL.Image.fromarray(image) for image in levels]


def check_invert(invert: Any, processor: CXRImageProcessor) -> None:
    """Refuse what `CXRImageProcessor.examine` cannot do.

    Raises:
        ValueError: an unknown `invert`, or `"auto"` with a processor that has no `usual_films`.
    """
    if not any(invert is known or invert == known == "auto" for known in INVERT):
        raise ValueError(f"invert={invert!r} is unknown. Choose one of {', '.join(map(repr, INVERT))}.")
    if invert == "auto" and not processor.usual_films:
        raise ValueError(
            "invert='auto' needs the image processor of a model that knows its usual films (usual_films in "
            "preprocessor_config.json). Give invert=True for films that are inverted."
        )


def _as_model_input(
    pixels: np.ndarray, name: str, size: Mapping[str, int], crop_mode: str, resample: int, do_quantize: bool
) -> np.ndarray:
    """(H, W) in [0, 1], called `name`, as float32 (1, S, S) in [-1, 1]; what the filter overshoots is clipped."""
    height, width = pixels.shape
    if crop_mode == "pad":  # the odd row or column at the end
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        square = np.pad(pixels, ((top, side - height - top), (left, side - width - left)))
    else:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = pixels[top : top + side, left : left + side]
    shape = (size["height"], size["width"])
    resized = square
    if square.shape != shape:
        picture = PIL.Image.fromarray(np.ascontiguousarray(square, dtype=np.float32))
        resized = np.clip(np.asarray(picture.resize(shape, resample)), 0, 1)
    check_content(square, resized, name)
    if do_quantize:
        return np.rint(resized * np.float32(255))[None] / np.float32(127.5) - np.float32(1)
    return resized[None] * np.float32(2) - np.float32(1)


def check_content(square: np.ndarray, resized: np.ndarray, name: str) -> None:
    """Refuse an image in which there is nothing to see: constant, a mask, a map of labels, a little noise.

    A radiograph has many grey levels, counted here as those of an 8-bit image. Of 12 140 films of NIH
    ChestX-ray14 at 128x128 and 224x224 pixels, the poorest spreads nine tenths of its pixels over 49 levels,
    and 1 % do so over fewer than 79; fewer than 8 are refused. So neither low contrast matters, down to a sixth
    of the poorest film's, nor black borders, as long as they fill less than nine tenths of the image.

    Args:
        square: (H, H) in [0, 1], the original after cropping or padding.
        resized: (S, S) in [0, 1], what becomes of it.
        name: what to call it in the message.

    Raises:
        CXRImageError: `square`, or nine tenths of `resized`, has fewer than 8 levels.
    """
    for pixels, share, what in ((square, 1.0, "it has"), (resized, 0.9, "nine tenths of it have")):
        counts = np.sort(PIL.Image.fromarray((pixels * 255 + 0.5).astype(np.uint8)).histogram())[::-1]
        levels = int(np.searchsorted(counts.cumsum(), share * pixels.size)) + 1
        if levels < MIN_LEVELS:
            raise CXRImageError(
                f"{name} shows nothing: of 256 grey levels, {what} {levels} ({len(pixels)} x {len(pixels)} pixels, "
                f"from {pixels.min():.4g} to {pixels.max():.4g} of 1). Give a chest radiograph, not a mask or an "
                "empty image."
            )


def is_single_image(images: Any) -> bool:
    """Whether the processor takes `images` for one image, not for several."""
    if isinstance(images, np.ndarray | torch.Tensor):
        return images.ndim != 4
    if isinstance(images, str | bytes | bytearray | Mapping | PIL.Image.Image) or hasattr(images, "read"):
        return True
    return is_dicom_dataset(images) or not isinstance(images, Iterable)


def _checked_output(pixel_values: Any) -> torch.Tensor:
    """`pixel_values` as a float32 tensor (B, H, W) on the CPU, clipped to [-1, 1]."""
    values = torch.as_tensor(pixel_values).detach()
    if values.ndim != 4 or values.shape[1] != 1:
        raise CXRImageError(
            f"pixel_values must have the shape (B, 1, H, W), got {tuple(values.shape)}. "
            "Flatten several counterfactuals (B, K, 1, H, W) with .flatten(0, 1)."
        )
    if not values.is_floating_point():
        raise CXRImageError(
            f"pixel_values must be floats in [-1, 1], got {values.dtype}. These are not model outputs."
        )
    values = values.float().cpu()[:, 0]
    if not torch.isfinite(values).all():
        bad = [i for i, image in enumerate(values) if not torch.isfinite(image).all()]
        raise CXRImageError(
            f"pixel_values {bad} of the batch hold NaN or infinite values: the model diverged, or its dtype "
            "is too narrow. Run it in float32."
        )
    if values.numel() and values.abs().max() > 1 + OUTPUT_TOLERANCE:
        raise CXRImageError(
            f"pixel_values run from {values.min():.4g} to {values.max():.4g}, but must lie in [-1, 1]. "
            "Give the model's images as they are, not differences or 0-255 levels."
        )
    return values.clamp(-1, 1)


def _check_names(names: Iterable[str]) -> None:
    if unknown := sorted(set(names) - set(NAMES)):
        raise TypeError(f"CXRImageProcessor has no setting {unknown[0]!r}. Its settings: {', '.join(NAMES)}.")


def _checked_settings(settings: dict) -> dict:
    """Settings in their canonical form, as they are stored and saved."""
    side = _square_side(settings["size"])
    resample = PIL.Image.Resampling(settings["resample"])
    if resample is PIL.Image.Resampling.NEAREST:
        raise ValueError(
            "resample=NEAREST is not antialiased: fine structures would alias. Use LANCZOS or BICUBIC."
        )
    if settings["crop_mode"] not in CROP_MODES:
        raise ValueError(f"crop_mode={settings['crop_mode']!r} is unknown. Choose one of {CROP_MODES}.")
    for name in ("min_side", "max_pixels"):
        if not isinstance(settings[name], int) or settings[name] < 1:
            raise ValueError(f"{name}={settings[name]!r} must be a positive integer.")
    return {
        **settings,
        "size": {"height": side, "width": side},
        "resample": int(resample),
        "do_quantize": bool(settings["do_quantize"]),
        "input_range": _black_and_white(settings["input_range"]),
    }


def _square_side(size: Any) -> int:
    side = size
    if not isinstance(size, int):
        try:
            side = dict(size).get("height") if len(set(dict(size).values())) == 1 else None
        except (TypeError, ValueError) as error:
            raise ValueError(f"size={size!r} is not a size. Give the side in pixels.") from error
    if not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= MAX_SIDE:
        raise ValueError(
            f"size={size!r} is not a square of at least one pixel, and at most {MAX_SIDE} a side. Give one integer, the "
            "side in pixels."
        )
    return side


def _black_and_white(input_range: Any) -> tuple[float, float] | None:
    if input_range is None:
        return None
    try:
        low, high = (float(value) for value in input_range)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"input_range={input_range!r} must be two numbers, (black, white), or None."
        ) from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"input_range={input_range!r} must be two finite numbers, black below white.")
    return low, high
