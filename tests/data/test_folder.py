"""Any folder with metadata.csv: inferred and given schemas, splits, and bad tables."""

import json
import logging

import pytest

from cf_cxr.attributes import Attribute, AttributeSchema
from cf_cxr.data import BadRowError, CXRDataError, LoadReport, MissingDataError, cxr_schema, load_cxr
from cf_cxr.data.folder import folder_schema, infer_schema
from cf_cxr.data.loading import read_table_of
from tests.data import layouts


def read(root, on_error="raise", **options):
    return read_table_of("folder", root, LoadReport("folder", on_error=on_error), 42, options)


def test_inferred_attributes(tmp_path):
    root = layouts.folder(
        tmp_path,
        sex=["M", "f"] * 6,
        view=["PA", "AP"] * 6,
        race=["White", "Asian", "Black"] * 4,
        finding=["Effusion", "normal"] * 6,
        scanner=["b", "a", "c"] * 4,
        device=[0, 1] * 6,
        dose=[0.5 * i for i in range(12)],
        note=[f"text {i}" for i in range(12)],
        constant=["x"] * 12,
    )
    schema = infer_schema(root)
    assert schema["age"] == cxr_schema("nih_cxr14")[0]["age"]
    assert schema["sex"].categories == ("Male", "Female")
    assert schema["view"].categories == ("PA", "AP")
    assert schema["race"].categories == ("White", "Asian", "Black")
    assert schema["finding"].categories == ("normal", "Effusion")  # the negative class comes first
    assert schema["scanner"] == Attribute("scanner", "categorical", categories=("a", "b", "c"))
    assert schema["device"] == Attribute("device", "binary", categories=("0", "1"))
    assert schema["dose"] == Attribute("dose", "continuous", minimum=0.0, maximum=5.5)
    assert "constant" not in schema and "patient_id" not in schema
    rows = read(root).rows
    assert rows["sex"].tolist() == [0, 1] * 6
    assert rows["scanner"].tolist() == [1, 0, 2] * 4
    assert rows["finding"].tolist() == [1, 0] * 6


def test_text_with_too_many_values_is_not_used_and_that_is_logged(tmp_path, caplog):
    root = layouts.folder(tmp_path, 24, note=[f"text {i}" for i in range(24)])
    with caplog.at_level(logging.WARNING):
        assert "note" not in infer_schema(root)
    assert "'note' is not used" in caplog.text
    with pytest.raises(CXRDataError, match="'note' cannot be an attribute"):
        infer_schema(root, ["note"])
    assert infer_schema(root, ["sex"]).names == ("sex",)


def test_graph_of_a_folder(tmp_path):
    root = layouts.folder(tmp_path, finding=["No Finding", "Effusion"] * 6)
    for schema, graph in (folder_schema(root), cxr_schema("folder", data_dir=root), cxr_schema(root)):
        assert schema.names == ("age", "sex", "finding")
        assert graph.to_dict() == {"age": [], "sex": [], "finding": ["age"]}


def test_schema_json_is_followed(tmp_path):
    root = layouts.folder(tmp_path, dose=list(range(12)))
    content = {
        "attributes": [{"name": "dose", "kind": "continuous", "minimum": -5, "maximum": 50, "unit": "mGy"}]
        + [{"name": "sex", "kind": "binary", "categories": ["Female", "Male"]}],
        "graph": {"sex": [], "dose": ["sex"]},
    }
    (root / "schema.json").write_text(json.dumps(content))
    schema, graph = cxr_schema(root)
    assert schema["dose"].maximum == 50
    assert graph.parents("dose") == ("sex",)
    assert read(root).rows["sex"].tolist() == [1, 0] * 6  # in the order of schema.json


MISSPELT = '{"attributes": [{"name": "age", "kind": "continuous", "minimum": 0, "maximum": 9}], "grpah": {"age": []}}'


@pytest.mark.parametrize("text", ["{", '{"attributes": [{"name": "age"}]}', "[1]", '{"graph": {}}', MISSPELT])
def test_a_bad_schema_json_is_explained(tmp_path, text):
    root = layouts.folder(tmp_path)
    (root / "schema.json").write_text(text)
    with pytest.raises(CXRDataError, match="schema.json is not as it should be"):
        cxr_schema(root)


def test_given_schema_and_unknown_values(tmp_path):
    root = layouts.folder(tmp_path, sex=["Male", "Female", None] * 4)
    schema = AttributeSchema([Attribute("sex", "binary", categories=("Female", "Male"))])
    rows = read(root, schema=schema).rows
    assert rows["sex"].tolist()[:2] == [1, 0] and rows["sex"].isna().sum() == 4
    assert "age" not in rows
    data = load_cxr(root, resolution=16, cache_dir=tmp_path / "cache", schema=schema.to_list())
    values = [row["sex"] for split in data.values() for row in split]
    assert sorted(values, key=str) == [0] * 4 + [1] * 4 + [None] * 4


def test_split_column(tmp_path):
    root = layouts.folder(tmp_path, split=["train", "val", "test", "Train", "valid", "validation"] * 2)
    assert read(root).rows["split"].tolist() == ["train", "validation", "test", "train"] + [
        "validation"
    ] * 2 + [
        "train",
        "validation",
        "test",
        "train",
        "validation",
        "validation",
    ]
    counts = read(root, splits="patient", fractions=(0.5, 0.25, 0.25)).rows["split"].value_counts()
    assert counts.to_dict() == {"train": 6, "validation": 3, "test": 3}


def test_unknown_split_name_is_refused(tmp_path):
    root = layouts.folder(tmp_path, split=["train"] * 11 + ["holdout"])
    with pytest.raises(BadRowError, match="img11.png"):
        read(root)
    assert len(read(root, on_error="skip").rows) == 11


def test_official_split_of_one_patient_in_two_splits_is_refused(tmp_path):
    root = layouts.folder(tmp_path, split=["train", "test"] * 6, patient_id=["same"] * 12)
    with pytest.raises(CXRDataError, match="patient same in both"):
        load_cxr(root, resolution=16, cache_dir=tmp_path / "cache")


def test_without_patient_id_a_warning_is_logged(tmp_path, caplog):
    root = layouts.folder(tmp_path, patient_id=None)
    with caplog.at_level(logging.WARNING):
        assert read(root).rows["patient_id"].nunique() == 12
    assert "no column patient_id" in caplog.text


@pytest.mark.parametrize("name", ["../img00.png", "/etc/passwd", "a/../../x.png", "C:\\x.png", "~/x.png"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, name):
    names = [f"img{i:02d}.png" for i in range(12)]
    root = layouts.folder(tmp_path / "data", file_name=[name] + names[1:])
    layouts.write_image(tmp_path / "img00.png", 0)  # there, but outside
    with pytest.raises(BadRowError, match="not inside"):
        read(root)
    assert len(read(root, on_error="skip").rows) == 11


def test_paths_below_the_folder_are_accepted(tmp_path):
    names = ["a/b/x.png", "./img01.png", "a/../img02.png"] + [f"img{i:02d}.png" for i in range(3, 12)]
    root = layouts.folder(tmp_path, file_name=names)
    files = read(root).rows["image"].tolist()
    assert files[:3] == [str(tmp_path / name) for name in ("a/b/x.png", "img01.png", "img02.png")]


@pytest.mark.parametrize(
    "age, message", [("-3", "age=-3.0 is out of range"), ("old", "age='old' is not a number")]
)
def test_impossible_values_are_named_with_their_image(tmp_path, age, message):
    root = layouts.folder(tmp_path, age=[30] * 11 + [age])
    schema = cxr_schema("nih_cxr14")[0]
    options = {"schema": AttributeSchema([schema["age"], schema["sex"]])}
    with pytest.raises(BadRowError, match=f"img11.png: {message}"):
        read(root, **options)
    table = read(root, on_error="skip", **options)
    assert len(table.rows) == 11
    assert message in table.report.skipped[0]["reason"]


def test_sex_banana_is_refused(tmp_path):
    root = layouts.folder(tmp_path, sex=["Male", "Female"] * 5 + ["Male", "Banana"])
    schema = [cxr_schema("nih_cxr14")[0]["sex"]]
    with pytest.raises(BadRowError, match="sex='Banana'"):
        read(root, schema=AttributeSchema(schema))


def test_missing_table_column_or_rows(tmp_path):
    with pytest.raises(MissingDataError, match="metadata.csv"):
        read(tmp_path)
    (tmp_path / "metadata.csv").write_text("file,age\nx.png,3\n")
    with pytest.raises(MissingDataError, match="no column 'file_name'"):
        read(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,age\n")
    with pytest.raises(CXRDataError, match="no rows"):
        read(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(b"\x00\xff\xfe" * 100)
    with pytest.raises(CXRDataError):
        read(tmp_path)


def test_dicom_files_need_a_resolution(tmp_path):
    from cf_cxr.examples import example_dicom

    root = layouts.folder(tmp_path, file_name=["x.dcm"] + [f"img{i:02d}.png" for i in range(1, 12)])
    (root / "x.dcm").write_bytes(example_dicom().read_bytes())
    with pytest.raises(CXRDataError, match="resolution"):
        load_cxr(root, cache_dir=tmp_path / "cache")
    data = load_cxr(root, cache_dir=tmp_path / "cache", resolution=32)
    row = next(row for split in data.values() for row in split if row["image_id"] == "x.dcm")
    assert row["image"].size == (32, 32)
    assert row["image"].getextrema()[1] > 150
