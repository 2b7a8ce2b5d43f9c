"""Read one image, whatever holds it, as a grey array (H, W), float32 in [0, 1], at native resolution."""

import io
import os
import queue
import re
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from ..files import DICOM_SUFFIXES, MAX_BYTES, special_file
from .errors import CXRImageError, CXRImageNotFoundError, NotAChestRadiographWarning, check_image_size

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "JPEG2000", "PPM", "GIF")
MIN_SIDE = 16
MAX_PIXELS = 80_000_000  # five times the largest radiographs; below the limit at which Pillow starts to warn
SILENCE = 20.0  # seconds for a server to connect, and between two packets
TIMEOUT = 120.0  # seconds for a download from first to last: 256 MiB at some 18 Mbit/s
LUMA = (0.299, 0.587, 0.114)  # red, green, blue: ITU-R BT.601, as Pillow's convert("L")
COLOUR_DIFFERENCE = 20 / 255  # largest minus smallest channel, above which a pixel counts as coloured
COLOUR_SHARE = 0.05  # share of coloured pixels above which a picture counts as a colour photograph
RANGE_TOLERANCE = 1e-4  # overshoot forgiven (and clipped), as a share of the range
PHOTOMETRIC_INTERPRETATION = 262  # TIFF's tag: 0 is "white is zero"


def load_grayscale(
    image: Any,
    *,
    input_range: tuple[float, float] | None = None,
    min_side: int = MIN_SIDE,
    max_pixels: int = MAX_PIXELS,
    timeout: float = TIMEOUT,
) -> np.ndarray:
    """Read `image`, of any kind that `CXRImageProcessor.load` takes, as a grey-scale array.

    Args:
        image: the image.
        input_range, min_side, max_pixels: as `CXRImageProcessor` has them.
        timeout: seconds that a download may take, however the server spends them; one that is silent for 20
            seconds is given up before.

    Returns:
        float32 array (H, W) in [0, 1], 0 = black (air), 1 = white. 8-bit images come back as value / 255.

    Raises:
        CXRImageError: the image cannot be read or used, or is a file of more than 256 MiB; the message names it
            and the remedy.
        CXRImageNotFoundError: there is no such file.
    """
    name, given = describe(image), image
    limits = {"min_side": min_side, "max_pixels": max_pixels}
    if isinstance(image, Mapping) and not is_dicom_dataset(image):
        image = next((image[key] for key in ("bytes", "path") if image.get(key) is not None), None)
        if image is None:
            raise CXRImageError(
                f"an image dictionary needs 'bytes' or 'path', got the keys {sorted(map(str, given))} with no value "
                "in either. Give the image itself; of a datasets row or Dataset, its column of images."
            )
    elif hasattr(image, "read"):
        if isinstance(image, io.TextIOBase):
            raise CXRImageError(f"{name} is open as text. Open it with mode 'rb', or give its path.")
        image = image.read()
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        image = _download(image, timeout)
    if isinstance(image, str | os.PathLike):
        path = Path(image).expanduser()
        pixels = _read(path, _head(path, name), name, limits, input_range)
    elif isinstance(image, bytes | bytearray):
        pixels = _read(bytes(image), image[:132], name, limits, input_range)
    elif is_dicom_dataset(image):
        pixels = _read_dicom(image, name, limits)
    elif isinstance(image, PIL.Image.Image):
        pixels = _from_pil(image, name, limits, input_range)
    elif isinstance(image, np.ndarray | torch.Tensor):
        pixels = _from_array(_as_numpy(image), name, limits, input_range)
    else:
        raise CXRImageError(
            f"{name} is not an image. Give a path, an address, a PIL image, a numpy array, a torch tensor or "
            "a pydicom Dataset."
        )
    return _checked(pixels, name)


def describe(image: Any) -> str:
    """A short name for `image` in messages: its path or address if it has one, else what it is."""
    if isinstance(image, str | os.PathLike):
        text = str(image)
        return repr(text if len(text) <= 400 else f"{text[:200]}...{text[-100:]}")
    if isinstance(image, bytes | bytearray):
        return f"{len(image)} bytes"
    if is_dicom_dataset(image):
        return repr(str(image.filename)) if getattr(image, "filename", None) else "DICOM data set"
    if isinstance(image, Mapping):
        return repr(str(image["path"])) if image.get("path") else "image dictionary"
    if isinstance(image, PIL.Image.Image):
        filename = getattr(image, "filename", "")
        return repr(str(filename)) if filename else f"PIL image of mode {image.mode}"
    if isinstance(image, np.ndarray | torch.Tensor):
        return f"array of shape {tuple(image.shape)} and type {str(image.dtype).removeprefix('torch.')}"
    if hasattr(image, "read") and getattr(image, "name", None):
        return repr(str(image.name))
    return f"{type(image).__name__} object"


def is_dicom_dataset(image: Any) -> bool:
    """Whether `image` is a pydicom `Dataset`; does not import pydicom."""
    pydicom = sys.modules.get("pydicom")
    return pydicom is not None and isinstance(image, pydicom.Dataset)


def _download(url: str, timeout: float) -> bytes:
    """The body of `url`. Its thread is left behind if it is late: no other way ends a header that drips in."""
    answer: queue.SimpleQueue = queue.SimpleQueue()

    def fetch() -> None:
        try:
            answer.put(_fetch(url, timeout))
        except BaseException as error:
            answer.put(error)

    threading.Thread(target=fetch, name=f"download of {url}", daemon=True).start()
    try:
        data = answer.get(timeout=timeout)
    except queue.Empty:
        raise CXRImageError(
            f"{url!r}: not complete after {timeout:g} seconds; the download was given up. Download the image "
            "yourself, and give its path."
        ) from None
    if isinstance(data, BaseException):
        raise data
    return data


def _fetch(url: str, timeout: float) -> bytes:
    import requests

    end = time.monotonic() + timeout
    chunks, size = [], 0
    try:
        with requests.get(url, stream=True, timeout=min(SILENCE, timeout)) as response:
            if response.status_code == 404:
                raise CXRImageNotFoundError(f"{url!r}: the server has no such file (404). Check the address.")
            response.raise_for_status()
            for chunk in response.iter_content(2**14):
                size += len(chunk)
                if size > MAX_BYTES:
                    raise CXRImageError(
                        f"{url!r}: more than {MAX_BYTES // 2**20} MiB; the download was stopped. "
                        "Download and reduce the image yourself, and give its path."
                    )
                if time.monotonic() > end:  # nobody waits any more
                    break
                chunks.append(chunk)
    except requests.RequestException as error:
        raise CXRImageError(
            f"{url!r}: the download failed ({error}). Check the address and the network, or download the "
            "image and give its path."
        ) from error
    return b"".join(chunks)


def _head(path: Path, name: str) -> bytes:
    """The beginning of a regular file that is not too large."""
    if not os.path.exists(path):
        raise CXRImageNotFoundError(f"{name}: no such file. Check the path (now in {os.getcwd()!r}).")
    if kind := special_file(path):
        raise CXRImageError(f"{name} is {kind}, not a file; it was not opened. Give the path of one image.")
    if not path.is_file():
        raise CXRImageError(f"{name} is a folder, not a file. Give the path of one image.")
    if (size := os.path.getsize(path)) > MAX_BYTES:
        raise CXRImageError(
            f"{name}: {size // 2**20:,} MiB is more than an image has ({MAX_BYTES // 2**20} MiB); it was not read. "
            "Reduce the image yourself."
        )
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError as error:
        raise CXRImageError(f"{name}: cannot be opened ({error}). Check its permissions.") from error


def _read(source: Path | bytes, head: bytes, name: str, limits: dict, input_range) -> np.ndarray:
    if not head:
        raise CXRImageError(f"{name} is empty (0 bytes). Copy or download the image again.")
    if head[128:132] == b"DICM":
        return _read_dicom(source, name, limits)
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    elif source.suffix.lower() in DICOM_SUFFIXES:
        return _read_dicom(source, name, limits, force=True)
    with _open_pil(source, name) as image:
        return _from_pil(image, name, limits, input_range)


def _read_dicom(source: Any, name: str, limits: dict, force: bool = False) -> np.ndarray:
    try:
        from .dicom import read_dicom
    except ImportError as error:
        raise CXRImageError(
            f"{name}: reading DICOM needs the package pydicom. Install it: pip install pydicom"
        ) from error
    return read_dicom(source, name=name, force=force, **limits)


def _open_pil(source: Any, name: str) -> PIL.Image.Image:
    try:
        return PIL.Image.open(source, formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        raise CXRImageError(
            f"{name} is not an image, or its beginning is damaged. Readable are DICOM, {', '.join(FORMATS)}."
        ) from error
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        count = re.search(r"\((\d+) pixels\)", str(error))
        raise CXRImageError(
            f"{name}: {f'{int(count[1]):,}' if count else 'too many'} pixels is too large; it was not decoded. "
            "Reduce the image first (a radiograph has at most some 20 million pixels)."
        ) from error
    except Exception as error:  # Pillow's format plugins raise many types on a damaged header
        raise CXRImageError(f"{name}: damaged header ({error}). Copy or download the image again.") from error


def _from_pil(image: PIL.Image.Image, name: str, limits: dict, input_range) -> np.ndarray:
    check_image_size(image.height, image.width, name, **limits)
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    try:
        # An MPO file holds a photograph and its preview.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        image.load()
        if image.getexif().get(0x0112, 1) != 1:  # the EXIF orientation of a rotated photograph
            image = PIL.ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise many types on damaged data
        raise CXRImageError(
            f"{name} is truncated or damaged ({error}). Copy or download the image again."
        ) from error
    if frames > 1:
        raise CXRImageError(f"{name} holds {frames} pictures. Save the one you mean to a file of its own.")
    pixels = _from_array(_pil_to_numpy(image, name, input_range), name, limits, input_range)
    return 1 - pixels if white_is_zero and image.mode not in ("1", "L") else pixels  # these Pillow inverts


def _pil_to_numpy(image: PIL.Image.Image, name: str, input_range) -> np.ndarray:
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("L", "RGB", "RGBA", "F"):
        return np.asarray(image)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode == "I":
        pixels = np.asarray(image)
        if input_range is None and (pixels.min() < 0 or pixels.max() > 65535):
            raise CXRImageError(
                f"{name}: 32-bit integers from {pixels.min()} to {pixels.max()} do not fit 16 bits, so black "
                "and white are unknown. Give input_range=(black, white)."
            )
        return pixels if input_range is not None else pixels.astype(np.uint16)
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _as_numpy(image: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image if image.dtype.isnative else image.astype(image.dtype.newbyteorder("="))
    image = image.detach().cpu()
    return (image.float() if image.dtype == torch.bfloat16 else image).numpy()


def _from_array(array: np.ndarray, name: str, limits: dict, input_range) -> np.ndarray:
    array = _channels_last(array, name)
    check_image_size(array.shape[0], array.shape[1], name, **limits)
    pixels = _to_unit_range(array, name, input_range)
    return pixels if pixels.ndim == 2 else _to_grey(pixels, name)


def _channels_last(array: np.ndarray, name: str) -> np.ndarray:
    """(H, W) or (H, W, 3 or 4), from those, (H, W, 1) and channels first."""
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)):
        return array
    raise CXRImageError(
        f"{name}: an image has the shape (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4. "
        "Give several images as a list, or as one array (B, C, H, W)."
    )


def _to_unit_range(array: np.ndarray, name: str, input_range) -> np.ndarray:
    if array.dtype == np.uint8:
        return array / np.float32(255)
    if array.dtype == np.bool_:
        return array.astype(np.float32)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = array.size - int(np.isfinite(array).sum())
        raise CXRImageError(
            f"{name}: {bad} of {array.size} values are NaN or infinite. Replace them, or leave the image out."
        )
    if input_range is None:
        input_range = _implied_range(array, name)
    elif array.dtype.kind not in "iuf":
        raise CXRImageError(f"{name} holds no real numbers. Convert it with .astype(np.float32).")
    low, high = input_range
    slack = RANGE_TOLERANCE * (high - low)
    if array.min() < low - slack or array.max() > high + slack:
        raise CXRImageError(
            f"{name}: values from {array.min():.6g} to {array.max():.6g} are outside the input_range of "
            f"({low:g}, {high:g}). Give input_range=(black, white) that holds all values, or clip them."
        )
    return np.clip((array.astype(np.float32) - low) / (high - low), 0, 1, dtype=np.float32)


def _implied_range(array: np.ndarray, name: str) -> tuple[float, float]:
    """The values that mean black and white, as far as type and values tell them."""
    if array.dtype == np.uint16:
        return 0, 2 ** max(8, int(array.max()).bit_length()) - 1
    if array.dtype.kind != "f":
        raise CXRImageError(
            f"{name}: this type does not say which value is white; uint8, uint16 and floats do. Convert it, "
            "for example with .astype(np.uint8) for values from 0 to 255, or give input_range=(black, white)."
        )
    low, high = float(array.min()), float(array.max())
    if high > 1 + RANGE_TOLERANCE or low < -1 - RANGE_TOLERANCE:
        raise CXRImageError(
            f"{name}: values from {low:.6g} to {high:.6g}; floats must be within [0, 1] or [-1, 1]. Divide "
            "by the largest possible value, convert to uint8, or give input_range=(black, white)."
        )
    return (-1, 1) if low < -RANGE_TOLERANCE else (0, 1)


def _to_grey(pixels: np.ndarray, name: str) -> np.ndarray:
    """(H, W, 3 or 4) -> (H, W); transparency is laid over black, equal channels are kept exactly."""
    red, green, blue, *alpha = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
    if alpha:
        red, green, blue = red * alpha[0], green * alpha[0], blue * alpha[0]
    difference = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    if not difference.any():
        return red
    coloured = float((difference > COLOUR_DIFFERENCE).mean())
    if coloured > COLOUR_SHARE:
        warnings.warn(
            f"{name}: {coloured:.0%} of the pixels are coloured, so this is a colour picture rather than a "
            "radiograph. It is used in grey, but the result will mean little: give a frontal chest X-ray.",
            NotAChestRadiographWarning,
            stacklevel=2,
        )
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _checked(pixels: np.ndarray, name: str) -> np.ndarray:
    low, high = float(pixels.min()), float(pixels.max())
    if low == high:
        raise CXRImageError(
            f"{name} is blank: every pixel has the same value ({low:.3g} of 1). Give an image with content, "
            "or check its window or range."
        )
    long, short = max(pixels.shape), min(pixels.shape)
    if long > 2 * short:
        warnings.warn(
            f"{name}: {pixels.shape[1]} x {pixels.shape[0]} pixels is far from square, which frontal chest "
            "radiographs nearly are. Crop it to the chest.",
            NotAChestRadiographWarning,
            stacklevel=2,
        )
    return pixels
