"""`load_cxr` and `cxr_schema` for whatever they are given; the phantom; splits; which image path is inside a folder."""

import numpy as np
import pytest
from datasets import Dataset

from cf_cxr.data import (
    CXRDataError,
    MissingDataError,
    cxr_features,
    cxr_schema,
    load_cxr,
    load_report,
    split_by_patient,
)
from cf_cxr.data.loading import cache_folder
from cf_cxr.data.splits import carve_validation
from cf_cxr.data.tables import path_inside
from tests.data import layouts

PATIENTS = np.random.default_rng(0).permutation([f"p{i % 200}" for i in range(1000)]).tolist()


def test_folders_that_are_not_there_or_not_known(tmp_path):
    (tmp_path / "file").write_text("")
    for arguments, kind, message in (
        ((tmp_path / "nowhere",), MissingDataError, "neither a known source .*phantom.* nor a folder"),
        ((tmp_path,), CXRDataError, "no data set of a known kind"),
        (("mimic_cxr",), MissingDataError, "data_dir"),
        (("mimic_cxr", tmp_path / "nowhere"), MissingDataError, "does not exist"),
        ((tmp_path / "file",), MissingDataError, "is a file"),
    ):
        with pytest.raises(kind, match=message):
            load_cxr(arguments[0], data_dir=arguments[1] if arguments[1:] else None)


def test_one_split_and_its_report(place):
    root = layouts.folder(place)
    with pytest.raises(CXRDataError, match="split='dev' is not there.*train, validation, test"):
        load_cxr(root, resolution=16, split="dev")
    train = load_cxr(root, resolution=16, split="train")
    assert load_report(train.filter(lambda row: row["age"] > 30)).source == "folder"
    with pytest.raises(MissingDataError, match="report.json"):
        load_report(Dataset.from_dict({"a": [1]}))


def test_cache_folder(tmp_path, monkeypatch, cache):
    assert cache_folder() == cache
    assert cache_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.delenv("CF_CXR_CACHE")
    assert cache_folder().name == "cf_cxr"


def test_the_phantom_has_the_columns_of_its_schema():
    data = load_cxr("phantom", resolution=16, num_images=8)
    assert {name: len(split) for name, split in data.items()} == {"train": 8, "validation": 1, "test": 2}
    assert data["train"][0]["image"].size == (16, 16)
    for name, feature in cxr_features(cxr_schema("phantom")[0]).items():
        assert data["train"].features[name] == feature
    heart = load_cxr("phantom", resolution=16, num_images={"test": 1}, finding="Cardiomegaly")["test"]
    assert heart.features["finding"].names == ["No Finding", "Cardiomegaly"]
    with pytest.raises(CXRDataError, match="phantom has no option 'images'"):
        load_cxr("phantom", images=8)


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


@pytest.mark.parametrize("name", ["", ".", "a\0b"])
def test_paths_that_name_no_file_inside(tmp_path, name):
    with pytest.raises(CXRDataError, match="not inside"):
        path_inside(tmp_path, name, tmp_path / "table.csv")


# Splits
def patients_of(splits):
    return {
        name: {p for p, s in zip(PATIENTS, splits) if s == name} for name in ("train", "validation", "test")
    }


def test_patients_are_divided_by_the_fractions_and_the_seed_whatever_the_order():
    splits = split_by_patient(PATIENTS, (0.6, 0.1, 0.3))
    sets = patients_of(splits)
    assert [len(sets[name]) for name in ("train", "validation", "test")] == [120, 20, 60]
    assert set().union(*sets.values()) == set(PATIENTS)  # so nobody is in two
    assert (splits == split_by_patient(PATIENTS[::-1])[::-1]).all()
    assert (splits != split_by_patient(PATIENTS, seed=43)).any()
    assert set(split_by_patient(PATIENTS, (0.8, 0.2, 0.0))) == {"train", "validation"}
    known = split_by_patient([str(i) for i in range(10)], (0.5, 0.2, 0.3), seed=42)
    assert "".join(name[:2] for name in known) == "trtrtetetrvatrtrteva"  # the same for ever


@pytest.mark.parametrize("number", [3, 4, 7])
def test_no_wanted_split_is_empty_with_few_patients(number):
    assert set(split_by_patient([str(i) for i in range(number)])) == {"train", "validation", "test"}


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.6, 0.1), (1.2, -0.2, 0.0), (0.1, 0.1, 0.1)])
def test_impossible_fractions_are_refused(fractions):
    with pytest.raises(CXRDataError, match="add up to 1"):
        split_by_patient(PATIENTS, fractions)


def test_validation_is_carved_out_of_training_patients_only():
    owners = np.array(["train" if int(p[1:]) < 100 else "test" for p in PATIENTS], dtype=object)
    carved = carve_validation(owners.copy(), PATIENTS, fraction=0.1)
    sets = patients_of(carved)
    assert len(sets["validation"]) == 10 and not sets["train"] & sets["validation"]
    assert ((carved == "test") == (owners == "test")).all()
