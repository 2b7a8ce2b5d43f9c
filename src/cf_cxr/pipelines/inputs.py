"""Everything a pipeline may be given, as a stream of items: one image with what is known about it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..attributes import AttributeSchema, AttributeValueError
from ..images.dicom import header_attributes
from ..images.errors import CXRImageError
from ..images.image_processing_cxr import is_single_image
from ..images.out_of_distribution import OutOfDistributionWarning, describe_unusual


@dataclass
class PipelineItem:
    """One input of the pipeline.

    Attributes:
        image: anything the image processor reads.
        attributes: known human values, possibly partial.
        name: what to call the image in a report: its path, its `image_id`, or its position.
        index: position in the call; seeds its draws.
        error: what went wrong with it so far.
        report: whether the error is an answer, rather than raised.
        from_file: names of the attributes that the image's file says.
        unusual: what `CXRImageProcessor.examine` says about it.
    """

    image: Any
    attributes: Mapping[str, Any] | None = None
    name: str = "the image"
    index: int = 0
    error: Exception | None = None
    report: bool = False
    from_file: tuple[str, ...] = ()
    unusual: dict[str, Any] | None = None


def as_item(
    value: Any, names: Sequence[str], index: int | None = None, attributes: Mapping | None = None
) -> PipelineItem:
    """Makes an item of an image, of `{"image": ..., "attributes": {...}}`, or of a row of a data set.

    Args:
        value: an image; a mapping with `image` and optionally `attributes`, where other keys that are attribute
            names count as attributes and the rest is ignored; or an undecoded image of a data set
            (`{"bytes": ..., "path": ...}`).
        names: the attributes that the model knows.
        index: position in the call; None for a single image.
        attributes: values given beside the images; those in the mapping win.

    Raises:
        ValueError: a mapping in which there is no image.
        CXRImageError: several images in the place of one.
    """
    known = dict(attributes or {})
    title = None
    if isinstance(value, Mapping) and "image" in value:
        known |= {name: value[name] for name in names if name in value}
        known |= value.get("attributes") or {}
        title = value.get("image_id") or value.get("file")
        value = value["image"]
    if isinstance(value, Mapping):
        if not {"bytes", "path"} & set(value):
            raise ValueError(
                f"A dictionary without an image was given: it has {', '.join(map(str, value)) or 'no keys'}. "
                'Give {"image": ..., "attributes": {...}}, or the image itself.'
            )
        title = title or value.get("path")
    title = title or _file_name(value) or _position(index)
    if not is_single_image(value):
        size = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise CXRImageError(
            f"{title}: a {type(value).__name__}{size} in the place of one image. Give every image as an item of its "
            "own, in one list: [a, b, c]."
        )
    return PipelineItem(value, known, str(title), index or 0)


def _position(index: int | None) -> str:
    return "the image" if index is None else f"image {index}"


def kept_item(
    fetch: Callable[[], Any], names: Sequence[str], index: int | None, attributes: Mapping | None
) -> PipelineItem:
    """`as_item` of what `fetch` gives; an exception is kept in the item, for the pipeline to raise or to report."""
    try:
        return as_item(fetch(), names, index, attributes)
    except Exception as error:
        return PipelineItem(None, attributes, _position(index), index or 0, error)


def _file_name(image: Any) -> str | None:
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    name = getattr(image, "filename", None) or getattr(image, "name", None)
    return os.fspath(name) if isinstance(name, (str, os.PathLike)) else None


def is_sized_collection(inputs: Any) -> bool:
    """Whether these are several images that can be indexed."""
    if isinstance(inputs, Dataset) and not isinstance(inputs, IterableDataset):
        return True
    return isinstance(inputs, (list, tuple)) or (_is_of_datasets(inputs) and hasattr(inputs, "__len__"))


def is_stream(inputs: Any) -> bool:
    """Whether these are several images that can only be iterated."""
    if isinstance(inputs, IterableDataset):
        return True
    return _is_of_datasets(inputs) or (isinstance(inputs, Iterator) and not hasattr(inputs, "read"))


def _is_of_datasets(inputs: Any) -> bool:
    """Whether this is a data set or a column of the library `datasets`, which need not be loaded."""
    return any(kind.__module__.split(".")[0] == "datasets" for kind in type(inputs).__mro__)


class SizedItems(Dataset):
    """Items of an indexable collection, made on demand."""

    def __init__(self, source: Any, names: Sequence[str], attributes: Sequence[Mapping] | Mapping | None):
        self.source, self.names, self.attributes = source, tuple(names), attributes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> PipelineItem:
        if not 0 <= index < len(self):
            raise IndexError(index)
        given = self.attributes
        if given is not None and not isinstance(given, Mapping):
            given = given[index]
        return kept_item(lambda: _with_class_names(self.source[index], self.source), self.names, index, given)


def undecoded(inputs: Any) -> Any:
    """A data set, or a column of images, with the image files as they are stored; other inputs as they come.

    The image processor then reads them: a damaged one is reported like any other file, by its name, and 16-bit
    images keep their depth. A data set that has been given a format or a transform is left alone.
    """
    if (datasets := sys.modules.get("datasets")) is None:
        return inputs
    table, column = getattr(inputs, "source", inputs), getattr(inputs, "column_name", "image")
    if not isinstance(table, (datasets.Dataset, datasets.IterableDataset)):
        return inputs
    feature = (table.features or {}).get(column)
    formatted = isinstance(table, datasets.Dataset) and table.format["type"] is not None
    if formatted or not isinstance(feature, datasets.Image) or not feature.decode:
        return inputs
    stored = table.cast_column(column, datasets.Image(decode=False))
    return stored if inputs is table else stored[column]


def _with_class_names(row: Any, source: Any) -> Any:
    """A row of a data set with class labels as names, so that their order need not be the model's; -1 is unknown."""
    features = getattr(source, "features", None)
    if not isinstance(row, Mapping) or not isinstance(features, Mapping):
        return row
    labels = {key for key in row if hasattr(features.get(key), "int2str")}
    return {
        key: value if key not in labels else None if value in (None, -1) else features[key].int2str(value)
        for key, value in row.items()
    }


def stream_items(
    source: Iterable, names: Sequence[str], attributes: Iterable[Mapping] | Mapping | None
) -> Iterator[PipelineItem]:
    """Items of a generator or another stream; `attributes` runs along with it, or holds for every image.

    Raises:
        ValueError: `attributes` ends before the images do.
    """
    given = None if attributes is None or isinstance(attributes, Mapping) else iter(attributes)
    for index, value in enumerate(source):
        values = attributes
        if given is not None:
            values = next(given, None)
            if values is None:
                raise ValueError(f"attributes ended after {index} entries, but there are more images.")
        yield kept_item(partial(_with_class_names, value, source), names, index, values)


def check_attributes(schema: AttributeSchema, attributes: Any) -> Mapping | list | Iterator | None:
    """Refuses impossible values now, where they are at hand; those of an iterator are checked as they come.

    Raises:
        UnknownAttributeError, AttributeValueError: for what the model does not know.
        TypeError: for something else than a dictionary or several.
    """
    if attributes is None or isinstance(attributes, Mapping):
        schema.to_tensor([attributes or {}], allow_missing=True)
        return attributes
    if isinstance(attributes, (str, bytes)) or not isinstance(attributes, Iterable):
        raise TypeError(f"attributes must be a dictionary or a list of them, got {attributes!r}.")
    if isinstance(attributes, Iterator):
        return attributes
    records = [dict(record or {}) for record in attributes]
    schema.to_tensor(records, allow_missing=True)
    return records


def pipeline_inputs(images: Any, names: Sequence[str], attributes: Any) -> tuple[Any, bool]:
    """Whatever a pipeline is given, as what `transformers.Pipeline` takes; and whether the answer is a list.

    Args:
        images: one image or several, of any kind that `CounterfactualPipeline` describes.
        names: the attributes that the model knows.
        attributes: from `check_attributes`.

    Raises:
        ValueError: a list of attributes is not as long as the images.
        TypeError: several attributes for one image, or a stream of them for a list of images.
    """
    if getattr(images, "ndim", 0) >= 4:  # an array (B, ...)
        images = list(images)
    images = undecoded(images)
    if is_sized_collection(images):
        if isinstance(attributes, list) and len(attributes) != len(images):
            raise ValueError(f"{len(attributes)} entries in attributes for {len(images)} images.")
        if isinstance(attributes, Iterator):
            raise TypeError("Give attributes as a list when the images have a length.")
        return SizedItems(images, names, attributes), isinstance(images, (list, tuple))
    if is_stream(images):
        return stream_items(images, names, attributes), False
    if attributes is not None and not isinstance(attributes, Mapping):
        raise TypeError("One image takes one dictionary of attributes, not several.")
    return kept_item(lambda: images, names, None, attributes), False


def warn_if_unusual(item: PipelineItem) -> str | None:
    """Warns about an image that is unlike those of the training; returns what was said, without its name."""
    if item.unusual is None:
        return None
    text = describe_unusual(item.unusual)
    warnings.warn(f"{item.name}: {text}", OutOfDistributionWarning, stacklevel=3)
    return text


def add_header_attributes(raw: Tensor, image: Any, schema: AttributeSchema, name: str) -> tuple[str, ...]:
    """Writes what a DICOM header says into the places of `raw` (1, n) that are NaN; returns the names of these.

    Args:
        raw: of what was given.
        image: a path, the bytes of a file, a data set or an undecoded image; others have no header.
        schema: a value that it does not have is left out, with a warning.
        name: of the image, for the warning.
    """
    names = []
    for variable, value in header_attributes(image).items():
        if variable not in schema or not raw[0, schema.index(variable)].isnan():
            continue
        try:
            raw[0, schema.index(variable)] = schema[variable].parse(value)
            names.append(variable)
        except AttributeValueError as error:
            warnings.warn(
                f"{name}: its header cannot be used: {error} {variable} is inferred from the image.",
                UserWarning,
                stacklevel=2,
            )
    return tuple(names)
