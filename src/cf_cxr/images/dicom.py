"""Read a DICOM radiograph as it is meant to be displayed: (H, W) float32 in [0, 1], air black.

The grey-scale pipeline of DICOM PS3.3 C.11 and PS3.4 N.2: stored values -> modality LUT or rescale -> VOI
LUT or window -> inversion of MONOCHROME1. pydicom parses, decodes and windows; tables are looked up here, because
pydicom's functions fail on 8-bit tables with more than 256 entries and on modality tables of 12 bits.
"""

import io
import os
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.pixels import apply_windowing, get_decoder, pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ..files import DICOM_SUFFIXES, MAX_BYTES
from .errors import CXRImageError, NotAChestRadiographWarning, check_image_size

PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2")
RADIOGRAPHY = ("CR", "DX", "DR", "RG", "RF", "PX", "OT", "SC")
CHEST = ("CHEST", "THORAX", "TORAX", "LUNG", "HEART")
NOT_FRONTAL = "LATERAL LAT LL RL LLD RLD LLO RLO LAO RAO LPO RPO OBLIQUE".split()
# Lateral, right and left lateral, in SNOMED's old and new codes.
LATERAL_CODES = ("R-102CD", "R-10232", "R-10236", "399067008", "399198007", "399173006")
LATERAL_WORD = re.compile(
    r"[LR]?LAT|[LR]?LATERAL[A-Z]*|OBL|OBLIQU[A-Z]*|PROFILE?|PERFIL|SEITL(ICH)?|SAGITTAL"
)
FRONTAL_WORDS = {"PA", "AP", "FRONTAL", "FACE"}
MAX_VALUE = 2.0**53  # after the modality step: the last up to which float64 tells whole numbers apart
YEARS = {"Y": 1, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
MAX_AGE = 120  # years
SEXES = {"F": "Female", "M": "Male"}
VIEWS = ("AP", "PA")
# What shapes the grey levels: the elements of each step in order of precedence, those of one row together.
Steps = tuple[tuple[str, ...], ...]
PADDING: Steps = (("PixelPaddingValue", "PixelPaddingRangeLimit"), ("BitsStored",))
MODALITY: Steps = (("ModalityLUTSequence",), ("RescaleSlope", "RescaleIntercept"))
DISPLAY: Steps = (("VOILUTSequence",), ("WindowCenter", "WindowWidth"), *PADDING)
PERCENTILES = (0.5, 99.5)  # become black and white where the file says nothing about display
DECODERS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg pyjpegls"


def read_dicom(
    source: Path | bytes | pydicom.Dataset, *, name: str, min_side: int, max_pixels: int, force: bool = False
) -> np.ndarray:
    """Read one single-frame monochrome DICOM image.

    Black and white come from, in this order: the VOI LUT, the (first) window, the full range of the stored
    bits where these are 8 or fewer, the 0.5 and 99.5 percentiles of the image. Padding pixels are black.

    Args:
        source: path or bytes of a file, or a data set with its pixels.
        name: what to call it in messages.
        min_side: smallest side accepted, in pixels.
        max_pixels: most pixels accepted, checked in the header before decoding.
        force: also try files without the DICOM preamble.

    Returns:
        float32 (H, W) in [0, 1], 0 = black.

    Raises:
        CXRImageError: not DICOM, damaged, without pixels, multi-frame, colour, too small or large,
            compressed in a way for which no decoder is installed, or with a rescaling, table, window or
            padding that leaves no picture; the message names the element and its value.

    Warns:
        NotAChestRadiographWarning: the header names a lateral view, another body part or modality.
        UserWarning: the window is of no width, or all pixels lie beside it; the percentiles are used.
    """
    try:
        with np.errstate(all="ignore"):  # what overflows is refused
            is_dataset = isinstance(source, pydicom.Dataset)
            header = source if is_dataset else _read(source, name, force, stop_before_pixels=True)
            check_header(header, name, min_side, max_pixels)
            return _grey_levels(source if is_dataset else _read(source, name, force), name)
    except (CXRImageError, Warning):
        raise
    except Exception as error:  # pydicom converts values as they are read; damaged ones raise many types
        raise CXRImageError(
            f"{name} is damaged DICOM ({type(error).__name__}: {error}). Copy or export the file again."
        ) from error


def _grey_levels(dataset: pydicom.Dataset, name: str) -> np.ndarray:
    """float32 (H, W) in [0, 1]."""
    if "PixelData" not in dataset:
        raise CXRImageError(f"{name} is DICOM without pixel data. Export the image itself from the archive.")
    warn_unless_frontal_chest(dataset, name)
    stored = _decode(dataset, name)
    if np.ptp(stored) == 0:
        raise CXRImageError(
            f"{name} is blank: every stored pixel has the value {stored.flat[0]}. Export the image again."
        )
    padding = _padding_mask(stored, dataset)
    if dataset.get("ModalityLUTSequence"):
        values = _look_up(stored, dataset.ModalityLUTSequence[0], dataset).astype(np.float64)
    else:
        slope, intercept = _rescale(dataset)
        values = stored.astype(np.float64) * slope + intercept
    check_range(values, -MAX_VALUE, MAX_VALUE, dataset, name, MODALITY)
    pixels = apply_display(values, dataset, name, padding)
    check_range(pixels, 0, 1, dataset, name, DISPLAY)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 1 - pixels
    if padding is not None:
        pixels[padding] = 0
        check_range(pixels, 0, 1, dataset, name, PADDING)
    return pixels.astype(np.float32)


def header_attributes(
    source: str | os.PathLike | bytes | pydicom.Dataset | Mapping[str, Any],
) -> dict[str, Any]:
    """What the header of a DICOM radiograph says of patient and view; no pixels are read.

    Args:
        source: path or bytes of a file, a data set, or the dictionary `{"bytes", "path"}` of an undecoded
            `datasets.Image`.

    Returns:
        Those of `age` (float, years in (0, 120]; PatientAge in years, months, weeks or days, and in years where
        it has no unit; 0, which archives write for unknown, is left out), `sex` ("Female" or "Male") and `view`
        ("AP" or "PA") that are there and plausible. Empty for anything that is no DICOM file, addresses
        included; damaged elements are left out.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of values that are not used then
            dataset = _header(source)
            values = {key: _text(dataset, key) for key in ("PatientAge", "PatientSex", "ViewPosition")}
    except Exception:  # as many types as there are ways to be no DICOM file
        return {}
    attributes: dict[str, Any] = {}
    if match := re.fullmatch(r"([0-9]{1,3})([YMWD]?)", values["PatientAge"]):
        age = int(match[1]) * YEARS[match[2] or "Y"]
        if 0 < age <= MAX_AGE:
            attributes["age"] = age
    if values["PatientSex"] in SEXES:
        attributes["sex"] = SEXES[values["PatientSex"]]
    if values["ViewPosition"] in VIEWS:
        attributes["view"] = values["ViewPosition"]
    return attributes


def _header(source: Any) -> pydicom.Dataset:
    if isinstance(source, pydicom.Dataset):
        return source
    if isinstance(source, Mapping):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, bytes | bytearray):
        return _read(bytes(source), "bytes", force=False, stop_before_pixels=True)
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(path)
    force = path.suffix.lower() in DICOM_SUFFIXES
    return _read(path, str(path), force, stop_before_pixels=True)


def _text(dataset: pydicom.Dataset, key: str) -> str:
    """The value of an element in capitals; empty where there is none, or none that can be read."""
    try:
        return str(dataset.get(key) or "").strip().upper()
    except Exception:  # pydicom converts values as they are read; damaged ones raise many types
        return ""


def check_header(dataset: pydicom.Dataset, name: str, min_side: int, max_pixels: int) -> None:
    """Refuse, before decoding, what is not one monochrome image of sensible size.

    Raises:
        CXRImageError: see `read_dicom`.
    """
    missing = [key for key in ("Rows", "Columns", "BitsAllocated", "BitsStored") if dataset.get(key) is None]
    if missing:
        kind = dataset.get("SOPClassUID")
        kind = f"{kind.name}: " if getattr(kind, "name", "") else ""
        raise CXRImageError(
            f"{name} is DICOM without pixel data ({kind}no {', '.join(missing)}). Give a radiograph, not a "
            "report, directory or annotation object."
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise CXRImageError(
            f"{name} holds {frames} frames; a radiograph has one. Extract the frame you mean (pydicom's "
            "pixel_array) and give it as an array."
        )
    photometric = dataset.get("PhotometricInterpretation")
    if photometric not in PHOTOMETRIC or int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise CXRImageError(
            f"{name}: photometric interpretation {photometric!r}, {dataset.get('SamplesPerPixel')} samples "
            f"per pixel, is not a radiograph's; supported are {' and '.join(PHOTOMETRIC)}. Export the "
            "original, not a colour screenshot."
        )
    if dataset.BitsAllocated not in (8, 16) or not 1 <= dataset.BitsStored <= dataset.BitsAllocated:
        raise CXRImageError(
            f"{name}: {dataset.BitsStored} bits stored in {dataset.BitsAllocated} allocated; supported are 8 "
            "and 16 bits allocated. Convert it, or give the pixels as an array with input_range."
        )
    if dataset.get("HighBit") not in (None, dataset.BitsStored - 1):
        raise CXRImageError(
            f"{name}: HighBit {dataset.HighBit} of {dataset.BitsStored} bits stored must be {dataset.BitsStored - 1}: "
            "where the pixel values are is unknown. Export the file again."
        )
    check_image_size(int(dataset.Rows), int(dataset.Columns), name, min_side, max_pixels)


def warn_unless_frontal_chest(dataset: pydicom.Dataset, name: str) -> None:
    """Warn (`NotAChestRadiographWarning`) of a non-frontal view, another body part or another modality.

    The view is that of ViewPosition, ViewCodeSequence, PatientOrientation and SeriesDescription, each by itself.
    """
    body_part, modality = (
        str(dataset.get(key) or "").strip().upper() for key in ("BodyPartExamined", "Modality")
    )
    reasons = [f"{what}, not frontal (PA or AP)" for what in _lateral_by(dataset)]
    if body_part and not any(part in body_part for part in CHEST):
        reasons.append(f"BodyPartExamined is {body_part}, not the chest")
    if modality and modality not in RADIOGRAPHY:
        reasons.append(f"Modality is {modality}, not radiography (CR, DX)")
    if reasons:
        warnings.warn(
            f"{name}: {'; '.join(reasons)}. The models know frontal chest radiographs only; do not trust the "
            "result.",
            NotAChestRadiographWarning,
            stacklevel=2,
        )


def _lateral_by(dataset: pydicom.Dataset) -> Iterator[str]:
    """The elements that name a lateral or oblique view, each with its value."""
    view = str(dataset.get("ViewPosition") or "").strip().upper()
    if view in NOT_FRONTAL:
        yield f"ViewPosition is {view}"
    for item in dataset.get("ViewCodeSequence") or ():
        meaning = str(item.get("CodeMeaning") or "")
        if item.get("CodeValue") in LATERAL_CODES or _names_lateral(meaning):
            yield f"ViewCodeSequence is {meaning or item.CodeValue}"
    orientation = dataset.get("PatientOrientation") or ()  # where rows and columns run to: L\F of a frontal
    orientation = [orientation] if isinstance(orientation, str) else [str(part) for part in orientation]
    if any(part.strip().upper().startswith(("A", "P")) for part in orientation):
        yield "PatientOrientation is " + "\\".join(orientation)
    description = str(dataset.get("SeriesDescription") or "")
    if _names_lateral(description):
        yield f"SeriesDescription is {description}"


def _names_lateral(text: str) -> bool:
    """Whether a text speaks of a lateral or oblique view, and not of a frontal one too, as a study's does."""
    words = re.findall("[A-Z]+", text.upper().replace(".", ""))
    return any(map(LATERAL_WORD.fullmatch, words)) and not FRONTAL_WORDS.intersection(words)


def check_range(
    values: np.ndarray, low: float, high: float, dataset: pydicom.Dataset, name: str, steps: Steps
) -> None:
    """Refuse `values` (H, W) that are all the same, not finite, or outside [low, high].

    Raises:
        CXRImageError: names the elements that are to blame, the first of `steps` that the header has.
    """
    lowest, highest = values.min(), values.max()
    if not low <= lowest < highest <= high:
        raise _no_picture(dataset, name, steps, f"pixel values from {lowest:g} to {highest:g}")


def _no_picture(dataset: pydicom.Dataset, name: str, steps: Steps, outcome: str) -> CXRImageError:
    there = [[key for key in keys if key in dataset and not dataset[key].is_empty] for keys in steps]
    named = ", ".join(_with_value(dataset, key) for key in next(filter(None, there)))
    return CXRImageError(
        f"{name}: {named} leaves no picture ({outcome}). Correct the header, or give the pixels as an array "
        "with input_range."
    )


def _with_value(dataset: pydicom.Dataset, key: str) -> str:
    element = dataset[key]
    if element.VR == "SQ":
        item = element.value[0]
        table = lut_data(item, dataset)
        value = f"{len(table)} entries from {table.min()} to {table.max()} of {item.LUTDescriptor[2]} bits"
    else:
        value = element.value
    return f"{key} {element.tag} = {value}"


def apply_display(
    values: np.ndarray, dataset: pydicom.Dataset, name: str, padding: np.ndarray | None
) -> np.ndarray:
    """Modality values (H, W) to grey levels in [0, 1]; `read_dicom` says where black and white come from."""
    if dataset.get("VOILUTSequence"):
        item = dataset.VOILUTSequence[0]
        bits = min(int(item.LUTDescriptor[2]), max(8, int(lut_data(item, dataset).max()).bit_length()))
        return _look_up(np.rint(values), item, dataset) / (2.0**bits - 1)
    window = _window(dataset)
    if window is not None:
        if not np.isfinite(window).all():
            raise _no_picture(dataset, name, DISPLAY[1:], "its window must be two finite numbers")
        try:
            low, high = apply_windowing(np.array([-np.inf, np.inf]), dataset)
            pixels = np.clip((apply_windowing(values, dataset) - low) / (high - low), 0, 1)
        except ValueError:  # no width, or none that is valid for the function
            pixels = np.zeros(1)
        if np.ptp(pixels) > 0:
            return pixels
        warnings.warn(
            f"{name}: its window (centre {window[0]:g}, width {window[1]:g}) is invalid or shows nothing; "
            f"the percentiles {PERCENTILES} are used instead.",
            UserWarning,
            stacklevel=2,
        )
    elif dataset.BitsStored <= 8 and not dataset.get("ModalityLUTSequence"):
        slope, intercept = _rescale(dataset)
        low = -(2 ** (dataset.BitsStored - 1)) if dataset.get("PixelRepresentation") else 0
        low, high = (stored * slope + intercept for stored in (low, low + 2**dataset.BitsStored - 1))
        return np.clip((values - low) / (high - low), 0, 1)
    visible = values if padding is None or padding.all() else values[~padding]
    low, high = np.percentile(visible, PERCENTILES)
    if low == high:
        low, high = visible.min(), visible.max()
    return np.clip((values - low) / max(high - low, np.finfo(np.float64).tiny), 0, 1)


def _look_up(values: np.ndarray, item: pydicom.Dataset, dataset: pydicom.Dataset) -> np.ndarray:
    """`values`, whole numbers, in the table of `item`; off its ends the first or last entry holds."""
    table = lut_data(item, dataset)
    index = values.astype(np.int64) - int(item.LUTDescriptor[1])
    return table[np.clip(index, 0, len(table) - 1)]


def lut_data(item: pydicom.Dataset, dataset: pydicom.Dataset) -> np.ndarray:
    """The entries of a look-up table, int64 (N,)."""
    entries = int(item.LUTDescriptor[0]) or 2**16
    data = item["LUTData"].value
    if isinstance(data, bytes):
        little = dataset.original_encoding[1] is not False
        width = "u1" if len(data) < 2 * entries else "u2"  # 8-bit entries may be packed two to a word
        data = np.frombuffer(data, dtype=("<" if little else ">") + width)
    return np.asarray(data, dtype=np.int64).reshape(-1)[:entries]


def _read(source: Any, name: str, force: bool, stop_before_pixels: bool = False) -> pydicom.Dataset:
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        _refuse_bomb(file, name)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        dataset = pydicom.dcmread(file, force=force, stop_before_pixels=stop_before_pixels)
    except InvalidDicomError as error:
        raise CXRImageError(f"{name} is not DICOM. Give a DICOM file or an image.") from error
    if "TransferSyntaxUID" not in dataset.file_meta:  # no preamble: pydicom found out how to parse the file
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return dataset


def _refuse_bomb(file: BinaryIO, name: str) -> None:
    """pydicom inflates a deflated file as a whole, so this looks first how much that will be."""
    if file.read(132)[128:] != b"DICM":
        return
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflater.decompress(file.read(), MAX_BYTES)
        if inflater.unconsumed_tail:
            raise CXRImageError(
                f"{name} inflates to more than {MAX_BYTES // 2**20} MiB; it was not read. Export it uncompressed."
            )


def _decode(dataset: pydicom.Dataset, name: str) -> np.ndarray:
    """Stored values, integers (H, W)."""
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if syntax is not None and syntax.is_compressed:
        try:
            decoder = get_decoder(syntax)
        except NotImplementedError as error:
            raise CXRImageError(
                f"{name} has the transfer syntax {syntax.name}, which pydicom cannot decode. Export it "
                "uncompressed (Explicit VR Little Endian)."
            ) from error
        if not decoder.is_available:
            raise CXRImageError(
                f"{name} is compressed as {syntax.name}, for which no decoder is installed. Install one of "
                f"{'; '.join(decoder.missing_dependencies)} (for example: {DECODERS})."
            )
    try:
        stored = np.array(pixel_array(dataset))
    except Exception as error:  # decoders raise many types on damaged pixels
        raise CXRImageError(
            f"{name}: its pixels cannot be decoded ({error}). Export the file again, uncompressed if it was "
            f"compressed; more decoders: {DECODERS}."
        ) from error
    if stored.shape != (dataset.Rows, dataset.Columns):
        raise CXRImageError(
            f"{name}: decoded to the shape {stored.shape}, but its header says "
            f"{(dataset.Rows, dataset.Columns)}. Export the file again."
        )
    return stored


def _padding_mask(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray | None:
    """Where the image was filled up with PixelPaddingValue (or a range of values); None without padding."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    mask = (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def _rescale(dataset: pydicom.Dataset) -> tuple[float, float]:
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return (1.0, 0.0) if slope is None or intercept is None else (float(slope), float(intercept))


def _window(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """Centre and width of the first window; None if there is none."""
    elements = [dataset.get(key) for key in ("WindowCenter", "WindowWidth")]
    if any(value is None or value == "" for value in elements):
        return None
    centre, width = (float(np.atleast_1d(value)[0]) for value in elements)
    return centre, width
