"""The phantom as a data set: typed columns, and rows from which the ground truth can be rendered again."""

import numpy as np
import pytest
from datasets import Image

from cf_cxr.data.phantom import ChestPhantom, PhantomConfig, phantom_dataset
from cf_cxr.data.phantom.dataset import MASKS

CONFIG = PhantomConfig(resolution=32, device_rate=0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return phantom_dataset({"train": 70, "validation": 3, "test": 5}, CONFIG, seed=4, cache_dir=cache)


def test_columns_and_splits(data):
    assert {split: len(rows) for split, rows in data.items()} == {"train": 70, "validation": 3, "test": 5}
    features = data["train"].features
    assert features["site"].names == ["A", "B", "C"] and features["age"].dtype == "float32"
    assert all(isinstance(features[name], Image) for name in ("image", *MASKS))
    patients = [set(rows["patient_id"]) for rows in data.values()]
    assert sum(map(len, patients)) == 78 == len(set.union(*patients))


def test_a_row_gives_back_its_picture_and_its_counterfactual(data):
    phantom = ChestPhantom(CONFIG)
    for row in (data["train"][66], data["test"][2]):
        noise = phantom.noise_at(row["seed"], [row["index"]])
        attributes = phantom.attributes_at(row["seed"], [row["index"]])
        assert attributes[0].tolist() == [row["age"], row["sex"], row["site"], row["finding"]]
        images = phantom.render(attributes, noise)
        picture = ((images.pixel_values[0, 0] + 1) * 127.5).round().byte().numpy()
        assert np.array_equal(np.array(row["image"]), picture)
        for name in MASKS:
            assert np.array_equal(np.array(row[name]) > 0, getattr(images, name)[0, 0].numpy())
        assert row["cardiothoracic_ratio"] == pytest.approx(images.cardiothoracic_ratio[0].item())
        assert row["costophrenic_angles"] == pytest.approx(images.costophrenic_angles[0].tolist())


def test_first_rows_do_not_depend_on_the_number(data, tmp_path):
    fewer = phantom_dataset({"test": 2}, CONFIG, seed=4, cache_dir=str(tmp_path))["test"]
    for i in range(2):
        assert fewer[i]["image_id"] == data["test"][i]["image_id"]
        assert np.array_equal(np.array(fewer[i]["image"]), np.array(data["test"][i]["image"]))


@pytest.mark.parametrize(
    ("request_", "message"), [({"holdout": 3}, "holdout"), ({"train": 0}, "at least 1"), ({}, "empty")]
)
def test_bad_requests_are_refused(request_, message):
    with pytest.raises(ValueError, match=message):
        phantom_dataset(request_, CONFIG)
