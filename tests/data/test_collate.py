import math

import numpy as np
import pytest
import torch
from PIL import Image

from cf_cxr.data import CXRCollator, CXRDataError, cxr_schema
from cf_cxr.images.image_processing_cxr import CXRImageProcessor
from tests.data import layouts

SCHEMA, _ = cxr_schema("nih_cxr14")


def row(seed, size=(32, 32), **attributes):
    return {
        "image": Image.fromarray(layouts.pixels(seed, *size)),
        "age": 50.0,
        "sex": 0,
        "view": 1,
    } | attributes


def test_known_values_in_schema_order():
    image = Image.fromarray(np.array([[0, 255], [51, 204]], dtype=np.uint8))
    batch = CXRCollator(SCHEMA)([{"finding": 1, "view": 0, "sex": 1, "age": 63.5, "image": image}])
    assert batch["pixel_values"].dtype == batch["attributes"].dtype == torch.float32
    expected = torch.tensor([[[[-1.0, 1.0], [-0.6, 0.6]]]])
    torch.testing.assert_close(batch["pixel_values"], expected)
    assert batch["attributes"].tolist() == [[63.5, 1.0, 0.0, 1.0]]


def test_unknown_is_nan_whether_none_or_absent():
    batch = CXRCollator(SCHEMA)([row(0, finding=None), row(1), row(2, finding=0, age=None)])
    attributes = batch["attributes"]
    assert math.isnan(attributes[0, 3]) and math.isnan(attributes[1, 3]) and math.isnan(attributes[2, 0])
    assert attributes[2, 3] == 0
    assert torch.isfinite(attributes[:, 1:3]).all()


def test_class_names_are_understood_too():
    attributes = CXRCollator(SCHEMA)([row(0, sex="Female", view="PA", finding="Effusion")])["attributes"]
    assert attributes.tolist() == [[50.0, 1.0, 0.0, 1.0]]


def test_fitting_and_other_images_agree_with_the_processor():
    processor = CXRImageProcessor(size=16)
    rows = [row(0, (16, 16)), row(1, (16, 16))]
    fast = CXRCollator(SCHEMA, processor)(rows)["pixel_values"]
    torch.testing.assert_close(fast, processor([r["image"] for r in rows])["pixel_values"])
    mixed = CXRCollator(SCHEMA, processor)([*rows, row(2, (48, 40))])["pixel_values"]
    assert mixed.shape == (3, 1, 16, 16)
    torch.testing.assert_close(mixed[:2], fast)
    alone = processor(Image.fromarray(layouts.pixels(2, 48, 40)))["pixel_values"]
    torch.testing.assert_close(mixed[2:], alone)


def test_resolution_without_a_processor():
    batch = CXRCollator(SCHEMA, resolution=16)([row(0, (40, 40))])
    assert batch["pixel_values"].shape == (1, 1, 16, 16)


def test_resolution_keeps_the_processor_s_other_settings():
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


def test_a_batch_of_prepared_rows_trains_from_a_data_loader(tmp_path):
    from torch.utils.data import DataLoader

    from cf_cxr.data import load_cxr

    root = layouts.folder(tmp_path / "data")
    data = load_cxr(root, resolution=16, cache_dir=tmp_path / "cache")["train"]
    schema, _ = cxr_schema(root)
    batches = list(DataLoader(data, batch_size=3, collate_fn=CXRCollator(schema)))
    assert sum(len(batch["attributes"]) for batch in batches) == len(data)
    assert batches[0]["pixel_values"].shape == (3, 1, 16, 16)
