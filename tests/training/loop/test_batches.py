"""Batches, schema files, and the identity of the data."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from cf_cxr.data import CXRCollator
from cf_cxr.training.loop.arguments import DataArguments
from cf_cxr.training.loop.batches import (
    AttributeBatches,
    CXRBatches,
    check_columns,
    describe_data,
    load_schema,
    load_splits,
    make_datasets,
)
from tests.data import layouts
from tests.training.loop.tiny import SCHEMA


def rows(size=5, **changed):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (size, 16, 16), dtype=np.uint8)
    features = {
        "image": Image(mode="L"),
        "age": Value("float32"),
        "sex": ClassLabel(names=["Male", "Female"]),
        "site": ClassLabel(names=["A", "B", "C"]),
    }
    columns = {
        "image": [PILImage.fromarray(p) for p in pixels],
        "age": [10.0 * i for i in range(size)],
        "sex": [None if i == 2 else i % 2 for i in range(size)],
        "site": [i % 3 for i in range(size)],
    }
    return Dataset.from_dict(columns, features=Features(features | changed)), pixels


@pytest.mark.parametrize("cache", [False, True])
def test_batches_have_the_rows_in_order(cache):
    table, pixels = rows()
    batches = CXRBatches(table, CXRCollator(SCHEMA, resolution=16), cache=cache, progress=False)
    batch = batches.__getitems__([3, 2])
    assert len(batches) == 5 and batch["pixel_values"].shape == (2, 1, 16, 16)
    expected = torch.from_numpy(pixels[[3, 2]].astype(np.float32) / 127.5 - 1)
    torch.testing.assert_close(batch["pixel_values"][:, 0], expected)
    assert batch["attributes"][0].tolist() == [30.0, 1.0, 0.0]
    assert batch["attributes"][1, 0] == 20 and batch["attributes"][1, 1].isnan()
    assert torch.equal(batches[3]["pixel_values"], batch["pixel_values"][:1])


def test_attribute_batches_never_read_images():
    table, _ = rows()
    table = table.map(lambda row: {"image": {"bytes": b"no image", "path": None}})
    batches = AttributeBatches(table, SCHEMA)
    assert batches.__getitems__([4])["attributes"].tolist() == [[40.0, 0.0, 1.0]]


def test_columns_must_follow_the_schema():
    table, _ = rows()
    check_columns(table, SCHEMA)
    with pytest.raises(ValueError, match="'age' is no column.*sex, site"):
        check_columns(table.remove_columns("age"), SCHEMA)
    swapped, _ = rows(sex=ClassLabel(names=["Female", "Male"]))
    with pytest.raises(ValueError, match="'sex' the classes .*'Male', 'Female'.*same order"):
        check_columns(swapped, SCHEMA)


def test_schema_file(tmp_path):
    file = tmp_path / "schema.json"
    graph = {"age": [], "sex": [], "site": ["age"]}
    file.write_text(json.dumps({"attributes": SCHEMA.to_list(), "graph": graph}))
    schema, causal = load_schema(DataArguments(schema=str(file)))
    assert schema == SCHEMA and causal.parents("site") == ("age",)
    file.write_text(json.dumps({"attributes": SCHEMA.to_list()}))
    with pytest.raises(ValueError, match="lacks graph"):
        load_schema(DataArguments(schema=str(file)))


def test_fingerprint_tells_data_apart():
    args, (table, _) = DataArguments(), rows()
    first = describe_data(args, SCHEMA, {"train": table})["data"]["splits"]["train"]
    second = describe_data(args, SCHEMA, {"train": table.select([0, 1])})["data"]["splits"]["train"]
    assert first["images"] == 5 and first["fingerprint"] != second["fingerprint"]


def test_bad_data_arguments():
    for name, value in (("resolution", 2), ("max_train_samples", 0)):
        with pytest.raises(ValueError, match=f"--{name} is {value}"):
            DataArguments(**{name: value})
    with pytest.raises(ValueError, match="--device_rate is 1.5.*probability"):
        DataArguments(dataset="phantom", device_rate=1.5)
    with pytest.raises(ValueError, match="--device_rate is 0.5.*left out for 'parquet'"):
        DataArguments(device_rate=0.5)


def test_the_phantoms_devices_are_as_frequent_as_asked_for(tmp_path):
    def rendered(rate):
        args = DataArguments(
            dataset="phantom", resolution=16, num_images=8, device_rate=rate, cache_dir=str(tmp_path)
        )
        return load_splits(args, load_schema(args)[0])["train"]

    every, none = rendered(1.0), rendered(0.0)
    assert all(np.asarray(mask).max() == 255 for mask in every["device_mask"])
    assert not any(np.asarray(mask).max() for mask in none["device_mask"])
    assert every["age"] == none["age"]  # the same patients


def test_every_stage_prints_its_attributes_and_their_values(tmp_path, capsys, monkeypatch):
    args = DataArguments(
        dataset="folder",
        data_dir=str(layouts.folder(tmp_path)),
        resolution=16,
        cache_dir=str(tmp_path / "cache"),
    )
    load_splits(args, load_schema(args)[0])
    printed = capsys.readouterr().out
    for part in ("sex: binary, Male", "age: continuous, 0 to 100 years, 3", " 0 unknown", "CausalGraph("):
        assert part in printed
    monkeypatch.setenv("RANK", "1")  # one process of several says it
    load_splits(args, load_schema(args)[0])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("limit", [".inf", ".nan", "Infinity"])
def test_a_schema_file_with_an_infinite_range(tmp_path, limit):
    text = (
        f"attributes: [{{name: age, kind: continuous, minimum: 0, maximum: {limit}}}]\ngraph: {{age: []}}\n"
    )
    (tmp_path / "schema.yaml").write_text(text)
    with pytest.raises(ValueError, match="schema.yaml.*'age' needs numbers minimum < maximum"):
        load_schema(DataArguments(schema=str(tmp_path / "schema.yaml")))


@pytest.mark.slow
def test_phantom_end_to_end(tmp_path):
    args = DataArguments(
        dataset="phantom", resolution=32, num_images=8, max_val_samples=1, cache_dir=str(tmp_path)
    )
    schema, _ = load_schema(args)
    train, validation, processor, info = make_datasets(args, schema, progress=False)
    batch = train.__getitems__([0, 7])
    assert batch["pixel_values"].shape == (2, 1, 32, 32) and len(validation) == 1
    assert batch["attributes"].shape == (2, schema.n)
    assert info["data"]["splits"]["train"]["images"] == 8
    assert processor.size["height"] == 32
