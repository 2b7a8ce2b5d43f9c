"""Rows become tensors."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cf_cxr.data import CXRCollator, CXRDataError, cxr_schema, load_cxr
from cf_cxr.images.image_processing_cxr import CXRImageProcessor
from tests.data import layouts

SCHEMA, _ = cxr_schema("nih_cxr14")


def row(seed, size=(32, 32), **attributes):
    image = Image.fromarray(layouts.pixels(seed, *size))
    return {"image": image, "age": 50.0, "sex": 0, "view": 1} | attributes


def test_known_values_in_schema_order():
    image = Image.fromarray(np.array([[0, 255], [51, 204]], dtype=np.uint8))
    batch = CXRCollator(SCHEMA)([{"finding": 1, "view": 0, "sex": 1, "age": 63.5, "image": image}])
    assert batch["pixel_values"].dtype == batch["attributes"].dtype == torch.float32
    torch.testing.assert_close(batch["pixel_values"], torch.tensor([[[[-1.0, 1.0], [-0.6, 0.6]]]]))
    assert batch["attributes"].tolist() == [[63.5, 1.0, 0.0, 1.0]]


def test_unknown_is_nan_and_class_names_are_understood():
    rows = [
        row(0, finding=None),
        row(1),
        row(2, finding=0, age=None),
        row(3, sex="Female", finding="Effusion"),
    ]
    nan = torch.nan
    expected = [[50, 0, 1, nan], [50, 0, 1, nan], [nan, 0, 1, 0], [50, 1, 1, 1]]
    attributes = CXRCollator(SCHEMA)(rows)["attributes"]
    torch.testing.assert_close(attributes, torch.tensor(expected), equal_nan=True)


def test_fitting_and_other_images_agree_with_the_processor():
    processor = CXRImageProcessor(size=16)
    rows = [row(0, (16, 16)), row(1, (16, 16))]
    fast = CXRCollator(SCHEMA, processor)(rows)["pixel_values"]
    torch.testing.assert_close(fast, processor([r["image"] for r in rows])["pixel_values"])
    mixed = CXRCollator(SCHEMA, processor)([*rows, row(2, (48, 40))])["pixel_values"]
    assert mixed.shape == (3, 1, 16, 16)
    alone = processor(Image.fromarray(layouts.pixels(2, 48, 40)))["pixel_values"]
    torch.testing.assert_close(mixed, torch.cat([fast, alone]))


def test_resolution_without_a_processor_and_beside_its_other_settings():
    assert CXRCollator(SCHEMA, resolution=16)([row(0, (40, 40))])["pixel_values"].shape == (1, 1, 16, 16)
    processor = CXRImageProcessor(size=64, crop_mode="pad")
    collator = CXRCollator(SCHEMA, processor, resolution=16)
    expected = CXRImageProcessor(size=16, crop_mode="pad")([layouts.pixels(0, 40, 20)])["pixel_values"]
    torch.testing.assert_close(collator.pixel_values([layouts.pixels(0, 40, 20)]), expected)
    assert processor.size == {"height": 64, "width": 64}


def test_errors():
    with pytest.raises(CXRDataError, match="zero rows"):
        CXRCollator(SCHEMA)([])
    with pytest.raises(CXRDataError, match="resolution"):
        CXRCollator(SCHEMA)([row(0, (20, 30))])


def test_a_batch_of_prepared_rows_trains_from_a_data_loader(place):
    data = load_cxr(layouts.folder(place), resolution=16)["train"]
    batches = list(DataLoader(data, batch_size=3, collate_fn=CXRCollator(cxr_schema(place)[0])))
    assert sum(len(batch["attributes"]) for batch in batches) == len(data)
    assert batches[0]["pixel_values"].shape == (3, 1, 16, 16)
