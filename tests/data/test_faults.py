"""Faults of a table or a cache that would give plausible but wrong data: each is refused or reported, by name."""

import json
import logging
import os
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cf_cxr.attributes import Attribute, AttributeSchema
from cf_cxr.data import (
    BadRowError,
    CXRDataError,
    UnreadableImageError,
    cxr_schema,
    load_cxr,
    load_report,
    preparation,
)
from cf_cxr.examples import example_dicom
from tests.data import layouts


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CF_CXR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def folder(tmp_path, **columns):
    return layouts.folder(tmp_path / "data", **columns)


def rows_of(data):
    return {row["image_id"]: row for split in data.values() for row in split}


def header(root, old, new):
    """Writes another first line into metadata.csv."""
    text = (root / "metadata.csv").read_text()
    (root / "metadata.csv").write_text(text.replace(old, new, 1))


# Pixels


def test_16_bit_files_are_not_used_as_they_are(tmp_path):
    root = folder(tmp_path)
    for i in range(12):
        Image.fromarray(layouts.pixels(i).astype(np.uint16) * 257).save(root / f"img{i:02d}.png")
    with pytest.raises(UnreadableImageError, match="img.*not 8-bit.*resolution="):
        load_cxr(root)
    stored = np.asarray(rows_of(load_cxr(root, resolution=40))["img03.png"]["image"])
    assert (stored == layouts.pixels(3)).all()


@pytest.mark.parametrize("kind", ["float", "transparent", "dicom"])
def test_files_that_datasets_would_read_otherwise_are_not_used_as_they_are(tmp_path, kind):
    root = folder(tmp_path, file_name=["x.tiff"] + [f"img{i:02d}.png" for i in range(1, 12)])
    if kind == "float":
        Image.fromarray(layouts.pixels(0).astype(np.float32) / 255).save(root / "x.tiff")
    elif kind == "transparent":
        grey, alpha = Image.fromarray(layouts.pixels(0)), Image.fromarray(layouts.pixels(1))
        Image.merge("LA", (grey, alpha)).save(root / "x.tiff")
    else:
        (root / "x.tiff").write_bytes(example_dicom().read_bytes())
    with pytest.raises(UnreadableImageError, match="x.tiff.*resolution="):
        load_cxr(root)
    assert rows_of(load_cxr(root, resolution=16))["x.tiff"]["image"].size == (16, 16)


# Tables


def test_one_file_under_two_patients(tmp_path):
    names = [f"img{i:02d}.png" for i in range(11)] + ["./img03.png"]
    root = folder(tmp_path, file_name=names)
    with pytest.raises(BadRowError, match="img03.png.*p3.*p11"):
        load_cxr(root, resolution=16)
    with pytest.warns(UserWarning, match="2 images were skipped"):
        assert len(rows_of(load_cxr(root, resolution=16, on_error="skip"))) == 10


@pytest.mark.parametrize("resolution", [None, 16, 40])
def test_one_picture_under_two_names_and_patients_is_reported(tmp_path, resolution):
    root = folder(tmp_path)
    (root / "img07.png").write_bytes((root / "img02.png").read_bytes())
    with pytest.warns(UserWarning, match="img0[27].png.*same picture.*img0[27].png"):
        data = load_cxr(root, resolution=resolution)
    assert "patient p2" in str(load_report(data)) and "patient p7" in str(load_report(data))
    with pytest.warns(UserWarning, match="same picture"):  # from the cache too
        load_cxr(root, resolution=resolution)


def test_one_picture_of_one_patient_is_no_fault(tmp_path):
    root = folder(tmp_path, patient_id=["p0", "p0"] + [f"p{i}" for i in range(2, 12)])
    (root / "img01.png").write_bytes((root / "img00.png").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_cxr(root, resolution=16)


@pytest.mark.parametrize("name", ["age", "patient_id", "file_name"])
def test_a_column_that_is_there_twice(tmp_path, name):
    root = folder(tmp_path, other=["x", "y"] * 6)
    header(root, "other", name)
    with pytest.raises(CXRDataError, match=f"metadata.csv has 2 columns {name!r}"):
        load_cxr(root, resolution=16)


@pytest.mark.parametrize(
    "name, known", [("Age", "age"), ("Patient ID", "patient_id"), ("Finding", "finding")]
)
def test_a_known_column_in_another_spelling(tmp_path, name, known):
    root = folder(tmp_path, other=["x", "y"] * 6, age=None, patient_id=None)
    header(root, "other", name)
    with pytest.raises(CXRDataError, match=f"{name!r}.*{known!r}"):
        load_cxr(root, resolution=16)


def test_a_column_without_a_name_is_no_attribute(tmp_path):
    root = folder(tmp_path)
    pd.read_csv(root / "metadata.csv").to_csv(root / "metadata.csv")  # pandas writes its index there
    assert cxr_schema(root)[0].names == ("age", "sex")


def test_a_row_that_is_too_long(tmp_path):
    root = folder(tmp_path)
    lines = (root / "metadata.csv").read_text().splitlines()
    (root / "metadata.csv").write_text("\n".join([lines[0], *(f"{line},x" for line in lines[1:])]))
    with pytest.raises(CXRDataError, match="metadata.csv is no readable table"):  # its cells would be shifted
        load_cxr(root, resolution=16)


@pytest.mark.parametrize("name", ["image", "split", "patient_id"])
def test_attributes_cannot_have_the_name_of_another_column(tmp_path, name):
    root = folder(tmp_path)
    schema = [{"name": name, "kind": "binary", "categories": ["a", "b"]}]
    with pytest.raises(CXRDataError, match=f"{name!r}"):
        load_cxr(root, resolution=16, schema=schema)


@pytest.mark.parametrize("missing", ["", "NA", "unknown", "None", "nan"])
def test_unknown_patients_are_not_one_patient(tmp_path, missing):
    root = folder(tmp_path, patient_id=[missing, missing] + [f"p{i}" for i in range(2, 12)])
    with pytest.raises(BadRowError, match="img00.png.*patient"):
        load_cxr(root, resolution=16)
    with pytest.warns(UserWarning, match="2 images were skipped"):
        assert len(rows_of(load_cxr(root, resolution=16, on_error="skip"))) == 10


def test_spaces_around_a_patient_make_no_other_patient(tmp_path):
    root = folder(tmp_path, patient_id=["p0", "p0 "] + [f"p{i}" for i in range(2, 12)])
    assert rows_of(load_cxr(root, resolution=16))["img01.png"]["patient_id"] == "p0"


# Values


@pytest.mark.parametrize(
    "marker",
    ["", "nan", "NaN", "NA", "N/A", "n/a", "?", "unknown", "Unknown", "missing", "#N/A", ".", "-", " "],
)
def test_missing_markers_are_missing(tmp_path, marker):
    root = folder(
        tmp_path,
        age=["31", marker] * 6,
        sex=["M", marker, "F"] * 4,
        scanner=["a", "b", marker] * 4,
        dose=["0.5", "1e-3", marker] * 4,
        finding=["No Finding", "Effusion", marker] * 4,
    )
    schema, _ = cxr_schema(root)
    assert [a.kind for a in schema] == ["continuous", "binary", "binary", "continuous", "binary"]
    assert schema["dose"].minimum == 0.001 and schema["scanner"].categories == ("a", "b")
    rows = rows_of(load_cxr(root, resolution=16))
    assert rows["img01.png"]["age"] is None and rows["img00.png"]["age"] == 31
    assert [rows[f"img{i:02d}.png"]["sex"] for i in range(3)] == [0, None, 1]
    for name in ("scanner", "dose", "finding"):
        assert rows["img02.png"][name] is None


def test_a_class_of_that_name_is_no_missing_marker(tmp_path):
    root = folder(tmp_path, sex=["Male", "Unknown"] * 6)
    schema = AttributeSchema([Attribute("sex", "binary", categories=("Male", "Unknown"))])
    assert rows_of(load_cxr(root, resolution=16, schema=schema))["img01.png"]["sex"] == 1


@pytest.mark.parametrize(
    "name, value",
    [("age", "-3"), ("age", "300"), ("age", "old"), ("sex", "Banana"), ("view", "LL"), ("race", "x")],
)
def test_values_that_a_usual_column_cannot_take_stop_the_load(tmp_path, name, value):
    good = {"age": "40", "sex": "M", "view": "PA", "race": "White"}[name]
    root = folder(tmp_path, **{name: [good] * 9 + [value] * 3})
    with pytest.raises(BadRowError) as caught:
        load_cxr(root, resolution=16)
    for part in (name, value, "img09.png", "img10.png", "metadata.csv", "schema.json"):
        assert part in str(caught.value)
    with pytest.warns(UserWarning, match="3 images were skipped"):
        data = load_cxr(root, resolution=16, on_error="skip")
    assert len(rows_of(data)) == 9
    assert load_cxr(root, resolution=16, attributes=["sex" if name != "sex" else "age"])


@pytest.mark.parametrize(
    "values, named",
    [
        (["Effusion"] * 12, "Effusion"),  # of one class only
        ([""] * 12, "no known value"),
        ([str(i % 4) for i in range(12)], "'3'"),
        (["Effusion|Mass", "No Finding"] * 6, "Effusion|Mass"),
        (["Effusion", "Effusion ruled out", "Mass"] * 4, "Effusion ruled out"),
        ([f"text {i}" for i in range(24)], "text 1"),
    ],
)
def test_a_finding_that_cannot_be_used_stops_the_load(tmp_path, values, named):
    root = layouts.folder(tmp_path / "data", len(values), finding=values)
    with pytest.raises(CXRDataError) as caught:
        load_cxr(root, resolution=16)
    assert named in str(caught.value) and "'finding'" in str(caught.value)
    if values[0]:
        assert ".png" in str(caught.value)


def test_sex_letters_may_be_the_classes_of_a_given_schema(tmp_path):
    root = folder(tmp_path, sex=["M", "F"] * 6)
    schema = [{"name": "sex", "kind": "binary", "categories": ["F", "M"]}]
    assert rows_of(load_cxr(root, resolution=16, schema=schema))["img00.png"]["sex"] == 1


def test_spellings_of_a_class_are_one_class(tmp_path):
    root = folder(tmp_path, finding=["Effusion", "EFFUSION", "No Finding", "no finding"] * 3)
    assert cxr_schema(root)[0]["finding"].categories == ("No Finding", "Effusion")


def test_a_table_in_another_encoding_says_what_to_do(tmp_path):
    root = folder(tmp_path)
    (root / "metadata.csv").write_bytes((root / "metadata.csv").read_text().encode("utf-16"))
    with pytest.raises(CXRDataError, match="metadata.csv.*UTF-8"):
        load_cxr(root, resolution=16)


def test_lists_of_labels_are_no_attribute_of_a_folder(tmp_path, caplog):
    root = folder(tmp_path, findings=["Effusion|Mass", "No Finding", "Effusion ruled out"] * 4)
    assert "findings" not in cxr_schema(root)[0]
    assert "'findings' is not used" in caplog.text and "Effusion|Mass" in caplog.text


def test_the_negative_class_comes_first(tmp_path):
    root = folder(tmp_path, finding=["Effusion", "No Effusion"] * 6)
    assert cxr_schema(root)[0]["finding"].categories == ("No Effusion", "Effusion")


def test_infinite_numbers_make_no_range(tmp_path, caplog):
    root = folder(tmp_path, dose=["1.5"] * 11 + ["inf"])
    assert "dose" not in cxr_schema(root)[0]
    assert "'dose' is not used: no range holds 'inf' (img11.png)" in caplog.text
    with pytest.raises(CXRDataError, match="'dose'.*'inf'.*img11.png"):
        load_cxr(root, resolution=16, attributes=["dose"])


AGE = '"name": "age", "kind": "continuous", '
SEX = '"name": "sex", "kind": "binary", '


@pytest.mark.parametrize(
    "definition, message",
    [
        (AGE + '"minimum": 0, "maximum": Infinity', "'age'.* within 1e.30"),
        (AGE + '"minimum": NaN, "maximum": 1', "'age'.* within 1e.30"),
        (AGE + '"minimum": "0", "maximum": "9"', "'age'.* within 1e.30"),
        (AGE + f'"minimum": 0, "maximum": 1{"0" * 400}', "'age'.* within 1e.30"),
        (AGE + '"minimum": 0, "maximum": 1e200', "'age'.* within 1e.30"),
        (SEX + '"categories": "MF"', "'sex'.*categories"),
        (SEX + '"categories": ["M", ""]', "'sex'.*categories"),
        (SEX + '"categories": [0, 1]', "'sex'.*categories"),
    ],
)
def test_a_schema_has_finite_ranges_and_lists_of_names(tmp_path, definition, message):
    root = folder(tmp_path)
    (root / "schema.json").write_text('{"attributes": [{' + definition + "}]}")
    with pytest.raises(CXRDataError, match="schema.json.*" + message):
        load_cxr(root, resolution=16)


def test_a_schema_nested_a_thousand_deep(tmp_path):
    root = folder(tmp_path)
    (root / "schema.json").write_text("[" * 200_000)
    with pytest.raises(CXRDataError, match="schema.json is not as it should be"):
        load_cxr(root, resolution=16)


# The example of docs/data.md, and what is said about an inferred schema


def test_the_example_of_the_documentation(tmp_path, caplog):
    root = tmp_path / "my_data"
    (root / "a").mkdir(parents=True)
    (root / "metadata.csv").write_text(
        "file_name,patient_id,age,sex,finding\na/0001.dcm,17,63,F,Effusion\na/0002.png,17,64,F,\n"
    )
    (root / "a" / "0001.dcm").write_bytes(example_dicom().read_bytes())
    layouts.write_image(root / "a" / "0002.png", 2)
    schema, graph = cxr_schema(root)
    assert schema["finding"].categories == ("No Finding", "Effusion") and graph.parents("finding") == ("age",)
    with caplog.at_level(logging.WARNING):
        train = load_cxr(root, resolution=16)["train"]
    assert train["finding"][:] == [1, 0]
    assert "1 blank findings read as 'No Finding'" in caplog.text
    assert load_cxr(root, resolution=16, schema=schema)["train"]["finding"][:] == [1, 0]


def test_blank_is_unknown_where_no_finding_is_written(tmp_path):
    root = folder(tmp_path, finding=["Effusion", "", "No Finding"] * 4)
    assert rows_of(load_cxr(root, resolution=16))["img01.png"]["finding"] is None


def test_the_inferred_schema_is_printed(tmp_path, caplog):
    root = folder(tmp_path, sex=["M", "F", ""] * 4, finding=["Effusion", "No Finding"] * 6, age=range(40, 52))
    with caplog.at_level(logging.WARNING):
        data = load_cxr(root, resolution=16)
    for part in (
        "age: continuous, 0 to 100 years, 40 to 51 occur, 0 unknown",
        "sex: binary, Male 4, Female 4, 4 unknown",
        "finding: binary, No Finding 6, Effusion 6, 0 unknown",
        "age -> finding",
    ):
        assert part in caplog.text and part in str(load_report(data))


# What is no file


@pytest.mark.parametrize("resolution", [None, 16])
@pytest.mark.parametrize("link", [False, True])
def test_a_pipe_is_not_opened(tmp_path, resolution, link):
    root = folder(tmp_path)
    (root / "img05.png").unlink()
    os.mkfifo(tmp_path / "pipe" if link else root / "img05.png")
    if link:
        (root / "img05.png").symlink_to(tmp_path / "pipe")
    with pytest.raises(UnreadableImageError, match="img05.png.*not a.* file"):
        load_cxr(root, resolution=resolution)


@pytest.mark.parametrize("name", ["metadata.csv", "schema.json", "train.parquet", "train.csv"])
def test_tables_that_are_pipes_are_not_opened(tmp_path, name):
    root = folder(tmp_path)
    (root / name).unlink(missing_ok=True)
    os.mkfifo(root / name)
    kind = {"train.parquet": "parquet", "train.csv": "chexpert"}.get(name, "folder")
    if kind == "chexpert":
        (root / "valid.csv").write_text("Path\n")
    with pytest.raises(CXRDataError, match=name):
        load_cxr(kind, data_dir=root, resolution=16)


# The cache


@pytest.fixture
def prepared(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(preparation, "SHARD_ROWS", 3)
    root = folder(tmp_path, split=["train"] * 6 + ["validation"] * 3 + ["test"] * 3)
    load_cxr(root, resolution=16)
    return root, next(cache.iterdir())


def test_a_shard_of_another_split_is_refused(prepared):
    root, place = prepared
    shard = place / "train-00001-of-00002.arrow"
    shard.write_bytes((place / "test-00000-of-00001.arrow").read_bytes())
    with pytest.raises(CXRDataError, match="train-00001-of-00002.arrow.*Delete it"):
        load_cxr(root, resolution=16)
    shard.unlink()
    assert load_cxr(root, resolution=16)["train"]["image_id"][:] == [f"img{i:02d}.png" for i in range(6)]


@pytest.mark.parametrize("damage", ["half", "empty", "text", "columns"])
def test_a_damaged_shard_is_named_with_the_remedy(prepared, damage):
    root, place = prepared
    shard = place / "test-00000-of-00001.arrow"
    if damage == "columns":
        from datasets import Dataset
        from datasets.arrow_writer import ArrowWriter

        table = Dataset.from_file(str(shard)).remove_columns("age")
        with ArrowWriter(features=table.features, path=str(shard) + "x") as writer:
            writer.write_table(table.data.table)
            writer.finalize()
        os.replace(str(shard) + "x", shard)
    else:
        whole = shard.read_bytes()
        shard.write_bytes({"half": whole[: len(whole) // 2], "empty": b"", "text": b"no arrow" * 99}[damage])
    with pytest.raises(CXRDataError, match="test-00000-of-00001.arrow.*Delete it"):
        load_cxr(root, resolution=16)
    assert len(rows_of(load_cxr(root, resolution=16, overwrite_cache=True))) == 12


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"images": 3}', "null", "\ud800"])
def test_a_damaged_sidecar_makes_its_shard_anew(prepared, content, caplog):
    root, place = prepared
    (place / "test-00000-of-00001.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with caplog.at_level(logging.WARNING):
        assert len(rows_of(load_cxr(root, resolution=16))) == 12
    assert "test-00000-of-00001.json" in caplog.text
    assert json.loads((place / "test-00000-of-00001.json").read_text())["images"] == 3


@pytest.mark.parametrize("damaged", ["generator-train.arrow", "dataset_info.json", "other"])
def test_damaged_phantoms_are_named_with_the_remedy(cache, damaged):
    options = {"resolution": 16, "num_images": {"train": 2, "test": 2}}
    load_cxr("phantom", **options)
    train, test = (next(cache.rglob(f"generator-{name}.arrow")) for name in ("train", "test"))
    if damaged == "other":
        train.write_bytes(test.read_bytes())
    else:
        (train.parent / damaged).write_bytes(b"x" * 99)
    with pytest.raises(CXRDataError, match="(?s)phantom.*train.*Delete"):
        load_cxr("phantom", **options)


def test_a_damaged_report_is_written_anew(prepared):
    root, place = prepared
    (place / "report.json").write_text("{")
    with pytest.raises(CXRDataError, match="report.json"):
        load_report(place)
    assert load_report(load_cxr(root, resolution=16)).images == {"train": 6, "validation": 3, "test": 3}
