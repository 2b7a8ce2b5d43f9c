"""One image file to the bytes that an Arrow file stores."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from ..images.image_processing_cxr import CXRImageProcessor
from .errors import CXRDataError, UnreadableImageError


class ImageEncoder:
    """A file, or an image inside a parquet file, to what a `datasets.Image` column stores.

    Args:
        resolution: side in pixels, or None to keep images as they are.
        processor: squares and resizes those that are not grey images of that size already.
    """

    def __init__(self, resolution: int | None, processor: CXRImageProcessor):
        self.resolution = resolution
        self.processor = processor
        self._parquet: ParquetImages | None = None

    def __call__(self, file: str, row: int = -1) -> dict[str, Any]:
        """`{"bytes", "path"}`; raises UnreadableImageError naming the file."""
        try:
            if row < 0:
                return self._encode({"bytes": None, "path": file})
            if self._parquet is None or self._parquet.file != file:
                self._parquet = ParquetImages(file)
            return self._encode(self._parquet[row])
        except MemoryError:
            raise
        except Exception as error:  # decoders raise many types; all become one that names the file
            reason = str(error) or type(error).__name__
            where = file if row < 0 else f"{file}, row {row}"
            message = reason if row < 0 and Path(file).name in reason else f"{where}: {reason}"
            raise UnreadableImageError(message) from error

    def _encode(self, source: dict[str, Any]) -> dict[str, Any]:
        if self.resolution is None:
            self._check_as_it_is(source)
            return source
        if (stored := self._as_it_is(source)) is not None:
            return stored
        pixels = self.processor(source, return_tensors="np")["pixel_values"][0, 0]
        buffer = io.BytesIO()
        Image.fromarray(np.rint((pixels + 1) * 127.5).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
        return {"bytes": buffer.getvalue(), "path": f"{Path(source['path'] or 'image').stem}.png"}

    def _check_as_it_is(self, source: dict[str, Any]) -> None:
        """Refuses a file whose grey values `datasets` would not read as the processor does."""
        pixels = self.processor.load(source)
        try:
            grey = np.asarray(datasets.Image(mode="L").decode_example(source))
        except UnidentifiedImageError:  # DICOM
            grey = None
        if grey is None or np.abs(grey / 255 - pixels).max() > 1.5 / 255:
            raise CXRDataError(
                "not 8-bit grey, so it cannot be used as it is: pass resolution=... to prepare the images."
            )

    def _as_it_is(self, source: dict[str, Any]) -> dict[str, Any] | None:
        """The encoded bytes themselves, if they are a grey PNG or JPEG of the wanted size."""
        if not source["bytes"] and not os.path.isfile(source["path"]):
            return None  # missing, or a pipe, which the processor refuses without opening it
        try:
            with Image.open(io.BytesIO(source["bytes"]) if source["bytes"] else source["path"]) as image:
                wanted = (self.resolution, self.resolution)
                if image.size != wanted or image.mode != "L" or image.format not in ("PNG", "JPEG"):
                    return None
                if image.getexif().get(0x0112, 1) != 1:  # rotated by its EXIF orientation
                    return None
                image.load()
        except (UnidentifiedImageError, Image.DecompressionBombError):
            return None  # DICOM, or an error that the processor explains
        data = source["bytes"] or Path(source["path"]).read_bytes()
        return {"bytes": data, "path": Path(source["path"] or "image").name}


class ParquetImages:
    """The column `image` of a parquet file, one row group in memory at a time."""

    def __init__(self, file: str):
        self.file = file
        self._data = pq.ParquetFile(file, memory_map=True)
        lengths = [self._data.metadata.row_group(i).num_rows for i in range(self._data.num_row_groups)]
        self._starts = np.cumsum([0, *lengths])
        self._group, self._column = -1, None

    def __getitem__(self, row: int) -> dict[str, Any]:
        """`{"bytes", "path"}`; raises CXRDataError where the row holds no bytes."""
        group = int(self._starts.searchsorted(row, side="right")) - 1
        if group != self._group:
            self._group = group
            self._column = self._data.read_row_group(group, columns=["image"])["image"]
        value = self._column[int(row - self._starts[group])].as_py()
        if not isinstance(value, Mapping) or not value.get("bytes"):
            raise CXRDataError("the image column holds no image bytes in this row.")
        return {"bytes": value["bytes"], "path": value.get("path") or f"row{row}"}
