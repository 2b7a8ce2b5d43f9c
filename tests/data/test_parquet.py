"""Images inside parquet files, also those in shared/data where they are."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image
from PIL import Image as PILImage

from cf_cxr.data import (
    BadRowError,
    CXRDataError,
    MissingDataError,
    UnreadableImageError,
    load_cxr,
    load_report,
)
from tests.data import layouts
from tests.data.layouts import human, read, rows_of, write_parquet

SHARED = Path(__file__).parents[3] / "shared" / "data" / "nih_cxr14_128"


@pytest.fixture
def root(place):
    return layouts.parquet(place)


def test_every_row_has_its_own_picture_in_any_size(root):
    whole, small = rows_of(load_cxr(root)), rows_of(load_cxr(root, resolution=16))
    for i in range(15):
        assert (np.asarray(whole[f"i{i}"]["image"]) == layouts.pixels(i)).all()
        assert whole[f"i{i}"]["patient_id"] == str(i) and small[f"i{i}"]["image"].size == (16, 16)


def test_numbers_whose_classes_the_file_does_not_name_are_refused(root):
    """0 is the first class here, and may be the second elsewhere."""
    path = root / "train.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(BadRowError, match="sex='0' is not possible.*give one of 'Male', 'Female'"):
        read("parquet", root)


def test_a_finding_that_nobody_has(root):
    with pytest.raises(CXRDataError, match="No image .* has the finding 'Hernia'"):
        read("parquet", root, finding="Hernia")


def test_several_files_per_split(place):
    for i in range(2):
        write_parquet(place / "data" / f"train-{i:05d}-of-00002.parquet", 10 * i)
    assert list(human(read("parquet", place))) == ["i0", "i1", "i2", "i10", "i11", "i12"]


def test_what_load_cxr_returns_can_be_exported_and_read_back(root, tmp_path):
    data = load_cxr(root)
    for name, split in data.items():
        split.to_parquet(str(tmp_path / f"{name}.parquet"))
    again = load_cxr("parquet", data_dir=tmp_path)
    assert again["train"]["finding"][:] == data["train"]["finding"][:]
    assert again["train"].features == data["train"].features


def test_missing_files_and_columns_and_a_truncated_file(root, tmp_path):
    with pytest.raises(MissingDataError, match="train.parquet, validation.parquet, test.parquet"):
        read("parquet", layouts.folder(tmp_path / "other"))
    path = root / "train.parquet"
    whole = path.read_bytes()
    Dataset.from_parquet(str(path)).remove_columns("view").to_parquet(str(path))
    with pytest.raises(MissingDataError, match="no column 'view'"):
        read("parquet", root)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CXRDataError, match="train.parquet is no readable parquet file"):
        read("parquet", root)


@pytest.mark.parametrize(
    ("column", "values", "message", "left"),
    [
        ("age", [30.0, 412.0, 40.0], "i1: age=412.0 is out of range", ["i0", "i2"]),
        ("patient_id", [0, None, None], "i1.*patient", ["i0"]),
        ("findings", [["Effusion"], ["No Effusion"], []], "No Effusion.*i1|i1.*No Effusion", ["i0", "i2"]),
    ],
)
def test_values_that_cannot_be(place, column, values, message, left):
    write_parquet(place / "train.parquet", **{column: values})
    with pytest.raises(BadRowError, match=message):
        read("parquet", place)
    assert list(human(read("parquet", place, "skip"))) == left


def test_images_that_cannot_be_used_are_named_by_file_and_row(place):
    deep = [PILImage.fromarray(layouts.pixels(i).astype(np.uint16) * 257) for i in range(3)]
    path = write_parquet(place / "train.parquet", image=deep) / "train.parquet"
    with pytest.raises(UnreadableImageError, match="row 0.*not 8-bit.*resolution="):
        load_cxr(place)
    table = Dataset.from_parquet(str(path)).cast_column("image", Image(decode=False))
    rows = [dict(row) for row in table]
    rows[2]["image"] = {"bytes": rows[2]["image"]["bytes"][:60], "path": None}
    Dataset.from_list(rows, features=table.features).cast_column("image", Image()).to_parquet(str(path))
    with pytest.raises(UnreadableImageError, match="train.parquet, row 2"):
        load_cxr(place, resolution=16)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not here")
def test_shared_nih_subset():
    data = load_cxr(SHARED, split="validation")
    assert len(data) == 857
    assert load_report(data).images == {"train": 7944, "validation": 857, "test": 1686}
    assert data[0]["image"].size == (128, 128)
    assert set(data["finding"]) == {0, 1, None}


def test_labels_in_a_text_are_whole_names_between_separators(place):
    texts = ["Effusion", "Mass|Effusion", "mass; effusion", "Mass, Pleural Effusion", "Mass", "No Finding"]
    texts += ["none", "", None, "unknown", "Effusional"]
    rows = human(read("parquet", write_parquet(place / "train.parquet", 0, len(texts), findings=texts)))
    yes, no = "Effusion", "No Finding"
    assert [row[-1] for row in rows.values()] == [yes] * 4 + [None, no, no, no, None, None, None]


@pytest.mark.parametrize(
    "text",
    ["No Effusion", "Effusion ruled out", "No pneumothorax, effusion", "small effusion", "['Effusion']"]
    + ["Heart normal.", "No Finding|Effusion", "None|Effusion"],
)
def test_free_text_is_no_label(place, text):
    write_parquet(place / "train.parquet", 0, 4, findings=["Effusion", "No Finding", text, text])
    with pytest.raises(BadRowError) as caught:
        read("parquet", place)
    said = str(caught.value).replace("\\'", "'")
    assert text in said and "i2" in said and "i3" in said
    assert list(human(read("parquet", place, "skip"))) == ["i0", "i1"]
