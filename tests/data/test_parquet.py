"""Images inside parquet files, also those in shared/data where they are."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from cf_cxr.data import (
    BadRowError,
    CXRDataError,
    MissingDataError,
    UnreadableImageError,
    load_cxr,
    load_report,
)
from cf_cxr.data.encoding import ParquetImages
from tests.data import layouts

FEATURES = Features(
    {
        "image": Image(),
        "image_id": Value("string"),
        "patient_id": Value("int32"),
        "age": Value("float32"),
        "sex": ClassLabel(names=["Female", "Male"]),  # not in the order of the schema
        "view": ClassLabel(names=["PA", "AP"]),
        "findings": List(Value("string")),
    }
)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "nih_cxr14_128"


def write(root, first, number, name, findings=None, **changes):
    from PIL import Image as PILImage

    root.mkdir(exist_ok=True, parents=True)
    ids = range(first, first + number)
    columns = {
        "image": [PILImage.fromarray(layouts.pixels(i)) for i in ids],
        "image_id": [f"i{i}" for i in ids],
        "patient_id": list(ids),
        "age": [float(i) for i in ids],
        "sex": [i % 2 for i in ids],
        "view": [0] * number,
        "findings": findings or [[["Effusion", "Mass"], [], ["Mass"]][i % 3] for i in ids],
    }
    Dataset.from_dict(columns | changes, features=FEATURES).to_parquet(str(root / name), batch_size=3)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "data", 0, 8, "train.parquet")
    write(tmp_path / "data", 8, 3, "validation.parquet")
    write(tmp_path / "data", 11, 4, "test.parquet")
    return tmp_path / "data"


def test_values_findings_and_splits(root, tmp_path):
    data = load_cxr(root, cache_dir=tmp_path / "cache")
    assert {name: len(split) for name, split in data.items()} == {"train": 8, "validation": 3, "test": 4}
    assert data["train"]["finding"][:] == [1, 0, None, 1, 0, None, 1, 0]
    assert data["train"]["sex"][:] == [1, 0] * 4  # Female, Male, ... by name, not by number
    assert data["test"]["patient_id"][:] == ["11", "12", "13", "14"]
    for i, row in enumerate(data["train"]):
        assert (np.asarray(row["image"]) == layouts.pixels(i)).all()


def test_numbers_whose_classes_the_file_does_not_name_are_refused(root, tmp_path):
    """0 is the first class here, and may be the second elsewhere."""
    path = root / "train.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(BadRowError, match="sex='0' is not possible.*give one of 'Male', 'Female'"):
        load_cxr(root, resolution=16, cache_dir=tmp_path / "cache")


def test_another_finding(root, tmp_path):
    data = load_cxr("parquet", data_dir=root, cache_dir=tmp_path, finding="Mass", other_findings="drop")
    assert data["train"].features["finding"].names == ["No Finding", "Mass"]
    assert data["train"]["finding"][:] == [1, 0, 1, 1, 0, 1, 1, 0]
    with pytest.raises(CXRDataError, match="No image .* has the finding 'Hernia'"):
        load_cxr(root, cache_dir=tmp_path, finding="Hernia")


def test_smaller_images(root, tmp_path):
    data = load_cxr(root, cache_dir=tmp_path / "cache", resolution=16)
    assert data["train"][0]["image"].size == (16, 16)


def test_random_access_reads_the_right_row(root):
    images = ParquetImages(str(root / "train.parquet"))
    for row in (7, 0, 3, 2, 5):
        assert images[row]["path"] or images[row]["bytes"]
        from io import BytesIO

        from PIL import Image as PILImage

        assert (np.asarray(PILImage.open(BytesIO(images[row]["bytes"]))) == layouts.pixels(row)).all()


def test_several_files_per_split(tmp_path):
    for i in range(2):
        write(tmp_path / "data", 10 * i, 3, f"train-{i:05d}-of-00002.parquet")
    data = load_cxr("parquet", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert data["train"]["image_id"][:] == ["i0", "i1", "i2", "i10", "i11", "i12"]


def test_what_load_cxr_returns_can_be_exported_and_read_back(root, tmp_path):
    data = load_cxr(root, cache_dir=tmp_path / "cache")
    for name, split in data.items():
        split.to_parquet(str(tmp_path / f"{name}.parquet"))
    again = load_cxr("parquet", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert again["train"]["finding"][:] == data["train"]["finding"][:]
    assert again["train"].features == data["train"].features


def test_missing_files_and_columns(root, tmp_path):
    with pytest.raises(MissingDataError, match="train.parquet, validation.parquet, test.parquet"):
        load_cxr("parquet", data_dir=layouts.folder(tmp_path / "other"), cache_dir=tmp_path)
    Dataset.from_parquet(str(root / "train.parquet")).remove_columns("view").to_parquet(
        str(root / "train.parquet")
    )
    with pytest.raises(MissingDataError, match="no column 'view'"):
        load_cxr(root, cache_dir=tmp_path)


def test_a_truncated_parquet_file_is_named(root, tmp_path):
    data = (root / "train.parquet").read_bytes()
    (root / "train.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(CXRDataError, match="train.parquet is no readable parquet file"):
        load_cxr(root, cache_dir=tmp_path)


def test_impossible_age_is_refused(root, tmp_path):
    write(root, 0, 3, "train.parquet", age=[30.0, 412.0, 40.0])
    with pytest.raises(BadRowError, match="i1: age=412.0 is out of range"):
        load_cxr(root, cache_dir=tmp_path)
    with pytest.warns(UserWarning, match="1 images were skipped"):
        data = load_cxr(root, cache_dir=tmp_path, on_error="skip")
    assert data["train"]["image_id"][:] == ["i0", "i2"]


def test_a_damaged_image_is_named_by_file_and_row(root, tmp_path):
    table = Dataset.from_parquet(str(root / "train.parquet")).cast_column("image", Image(decode=False))
    rows = [dict(row) for row in table]
    rows[4]["image"] = {"bytes": rows[4]["image"]["bytes"][:60], "path": None}
    Dataset.from_list(rows, features=table.features).cast_column("image", Image()).to_parquet(
        str(root / "train.parquet")
    )
    with pytest.raises(UnreadableImageError, match="train.parquet, row 4"):
        load_cxr(root, cache_dir=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not here")
def test_shared_nih_subset(tmp_path):
    data = load_cxr(SHARED, cache_dir=tmp_path, split="validation")
    assert len(data) == 857
    assert load_report(data).images == {"train": 7944, "validation": 857, "test": 1686}
    assert data[0]["image"].size == (128, 128)
    assert set(data["finding"]) == {0, 1, None}


TEXT = Features(FEATURES | {"findings": Value("string")})


def write_text(root, findings):
    from PIL import Image as PILImage

    root.mkdir(parents=True)
    columns = {
        "image": [PILImage.fromarray(layouts.pixels(i)) for i in range(len(findings))],
        "image_id": [f"i{i}" for i in range(len(findings))],
        "patient_id": list(range(len(findings))),
        "age": [50.0] * len(findings),
        "sex": [0] * len(findings),
        "view": [0] * len(findings),
        "findings": findings,
    }
    Dataset.from_dict(columns, features=TEXT).to_parquet(str(root / "train.parquet"))
    return root


def test_labels_in_a_text_are_whole_names_between_separators(tmp_path):
    texts = [
        "Effusion",
        "Mass|Effusion",
        "mass; effusion",
        "Mass, Pleural Effusion",
        "Mass",
        "No Finding",
        "",
        None,
    ]
    texts += ["unknown", "Effusional"]
    data = load_cxr(write_text(tmp_path / "data", texts), cache_dir=tmp_path / "cache")
    assert data["train"]["finding"][:] == [1, 1, 1, 1, None, 0, 0, None, None, None]


@pytest.mark.parametrize(
    "text",
    [
        "No Effusion",
        "Effusion ruled out",
        "No pneumothorax, effusion",
        "small effusion",
        "['Effusion']",
        "Heart normal.",
        "No Finding|Effusion",
    ],
)
def test_free_text_is_no_label(tmp_path, text):
    root = write_text(tmp_path / "data", ["Effusion", "No Finding", text, text])
    with pytest.raises(BadRowError) as caught:
        load_cxr(root, cache_dir=tmp_path / "cache")
    assert (
        text in str(caught.value).replace("\\'", "'")
        and "i2" in str(caught.value)
        and "i3" in str(caught.value)
    )
    with pytest.warns(UserWarning, match="2 images were skipped"):
        data = load_cxr(root, cache_dir=tmp_path / "cache", on_error="skip")
    assert data["train"]["image_id"][:] == ["i0", "i1"]


def test_a_list_with_a_negated_label_is_refused(root, tmp_path):
    write(root, 0, 3, "train.parquet", findings=[["Effusion"], ["No Effusion"], []])
    with pytest.raises(BadRowError, match="No Effusion.*i1|i1.*No Effusion"):
        load_cxr(root, cache_dir=tmp_path)


def test_null_patients_are_not_one_patient(root, tmp_path):
    write(root, 0, 4, "train.parquet", patient_id=[0, None, None, 3])
    with pytest.raises(BadRowError, match="i1.*patient"):
        load_cxr(root, cache_dir=tmp_path)


def test_a_file_of_16_bit_images_is_not_used_as_it_is(tmp_path):
    from PIL import Image as PILImage

    pictures = [PILImage.fromarray(layouts.pixels(i).astype(np.uint16) * 257) for i in range(3)]
    write(tmp_path / "data", 0, 3, "train.parquet", image=pictures)
    with pytest.raises(UnreadableImageError, match="row 0.*not 8-bit.*resolution="):
        load_cxr(tmp_path / "data", cache_dir=tmp_path / "cache")
