"""`load_cxr` finds out what a folder is, and `cxr_schema` what it holds."""

import logging

import pytest

from cf_cxr.data import CXRDataError, MissingDataError, cxr_features, cxr_schema, load_cxr, load_report
from cf_cxr.data.loading import cache_folder
from cf_cxr.data.sources import find_source
from cf_cxr.data.tables import path_inside
from tests.data import layouts


@pytest.mark.parametrize("source", ["nih_cxr14", "mimic_cxr", "chexpert", "padchest", "folder"])
def test_the_kind_of_a_folder_is_recognised(tmp_path, source):
    root = getattr(layouts, source)(tmp_path)
    assert find_source(root) == (source, root)
    assert find_source(source, root) == (source, root)


def test_folders_that_are_not_there_or_not_known(tmp_path):
    with pytest.raises(MissingDataError, match="neither a known source .*phantom.* nor a folder"):
        load_cxr(tmp_path / "nowhere")
    with pytest.raises(CXRDataError, match="no data set of a known kind"):
        load_cxr(tmp_path)
    with pytest.raises(MissingDataError, match="data_dir"):
        load_cxr("mimic_cxr")
    with pytest.raises(MissingDataError, match="does not exist"):
        load_cxr("mimic_cxr", data_dir=tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingDataError, match="is a file"):
        load_cxr(tmp_path / "file")


def test_unknown_options_are_named_with_the_known_ones(tmp_path):
    root = layouts.folder(tmp_path)
    with pytest.raises(CXRDataError, match="folder has no option 'findings'; it has attributes, fractions"):
        load_cxr(root, findings="Effusion")


def test_one_split(tmp_path):
    root = layouts.folder(tmp_path / "data")
    both = load_cxr(root, resolution=16, cache_dir=tmp_path / "cache")
    test = load_cxr(root, resolution=16, cache_dir=tmp_path / "cache", split="test")
    assert test["image_id"][:] == both["test"]["image_id"][:]
    with pytest.raises(CXRDataError, match="split='dev' is not there.*train, validation, test"):
        load_cxr(root, resolution=16, cache_dir=tmp_path / "cache", split="dev")


def test_impossible_ages_are_logged(tmp_path, caplog):
    root = layouts.nih_cxr14(tmp_path / "data")
    with caplog.at_level(logging.WARNING):
        data = load_cxr(root, resolution=16, cache_dir=tmp_path / "cache")
    assert "altered: 1 impossible ages" in caplog.text
    assert load_report(data).altered.total() == 1


def test_report_of_foreign_data_is_an_error():
    from datasets import Dataset

    with pytest.raises(MissingDataError, match="report.json"):
        load_report(Dataset.from_dict({"a": [1]}))


def test_report_is_found_from_a_split_and_after_map(tmp_path):
    root = layouts.folder(tmp_path / "data")
    train = load_cxr(root, resolution=16, cache_dir=tmp_path / "cache", split="train")
    assert load_report(train.filter(lambda row: row["age"] > 30)).source == "folder"


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CF_CXR_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert cache_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.delenv("CF_CXR_CACHE")
    assert cache_folder().name == "cf_cxr"


def test_phantom_has_the_columns_of_its_schema(tmp_path):
    schema, _ = cxr_schema("phantom")
    data = load_cxr("phantom", resolution=16, num_images=8, cache_dir=tmp_path)
    assert {name: len(split) for name, split in data.items()} == {"train": 8, "validation": 1, "test": 2}
    assert data["train"][0]["image"].size == (16, 16)
    for name, feature in cxr_features(schema).items():
        assert data["train"].features[name] == feature
    heart = load_cxr(
        "phantom", resolution=16, num_images={"test": 1}, cache_dir=tmp_path, finding="Cardiomegaly"
    )
    assert heart["test"].features["finding"].names == ["No Finding", "Cardiomegaly"]
    with pytest.raises(CXRDataError, match="phantom has no option 'images'"):
        load_cxr("phantom", images=8)


@pytest.mark.parametrize(
    "source, names",
    [
        ("nih_cxr14", ("age", "sex", "view", "finding")),
        ("parquet", ("age", "sex", "view", "finding")),
        ("padchest", ("age", "sex", "view", "finding")),
        ("mimic_cxr", ("age", "race", "sex", "finding")),
        ("chexpert", ("age", "race", "sex", "finding")),
    ],
)
def test_default_schemas(source, names):
    schema, graph = cxr_schema(source)
    assert schema.names == graph.names == names
    assert schema.dim == (6 if "race" in names else 4)
    assert graph.parents("finding") == ("age",)
    assert all(graph.parents(name) == () for name in names if name != "finding")
    assert (schema["age"].minimum, schema["age"].maximum, schema["age"].unit) == (0, 100, "years")
    assert schema["sex"].categories == ("Male", "Female")
    assert schema["finding"].categories == ("No Finding", "Effusion")


def test_schema_of_another_finding():
    assert cxr_schema("nih_cxr14", finding="Cardiomegaly")[0]["finding"].categories[1] == "Cardiomegaly"
    assert (
        cxr_schema("nih_cxr14", finding="Pleural_Thickening")[0]["finding"].categories[1]
        == "Pleural Thickening"
    )


def test_schema_errors(tmp_path):
    with pytest.raises(ValueError, match="data_dir"):
        cxr_schema("folder")
    with pytest.raises(ValueError, match="known source"):
        cxr_schema("nih")
    with pytest.raises(ValueError, match="metadata.csv"):
        cxr_schema("folder", finding="Effusion", data_dir=tmp_path)


@pytest.mark.parametrize(
    "name",
    ["", "..", ".", "../x", "a/../../x", "/x", "\\x", "\\\\host\\x", "c:x", "http://x/y.png", "a\0b", "~x"],
)
def test_path_inside_refuses(tmp_path, name):
    with pytest.raises(CXRDataError, match="not inside"):
        path_inside(tmp_path, name, tmp_path / "table.csv")


@pytest.mark.parametrize(
    "name, result", [("a/b.png", "a/b.png"), ("a\\b.png", "a/b.png"), ("..a/b", "..a/b")]
)
def test_path_inside_accepts(tmp_path, name, result):
    assert path_inside(tmp_path, name, tmp_path / "table.csv") == tmp_path / result
