"""The contract of a source, over all of them: known rows, one kind of columns, splits by patient, faults by name."""

import os
import warnings

import pandas as pd
import pytest

from cf_cxr.data import (
    BadRowError,
    CXRDataError,
    MissingDataError,
    SkippedImagesWarning,
    cxr_schema,
    load_cxr,
    load_report,
)
from cf_cxr.data.nih_cxr14 import parse_age
from cf_cxr.data.padchest import parse_labels
from tests.data import layouts
from tests.data.layouts import ALTERED, DAY, LEFT_OUT, ROWS, SKIPPED, human, read

LAYOUTS = [(source, {}) for source in ROWS] + [
    ("nih_cxr14", {"flat": True}),
    ("mimic_cxr", {"hosp": "hosp"}),
    ("mimic_cxr", {"race_column": "ethnicity", "suffix": ".csv"}),  # MIMIC-IV 1.0
    ("chexpert", {"prefix": "CheXpert-v1.0"}),
    ("padchest", {"nested": False}),
]


def folder_of(source, place, **layout):
    return getattr(layouts, source)(place, **layout)


@pytest.mark.parametrize(("source", "layout"), LAYOUTS)
def test_known_rows(place, source, layout):
    table = read(source, folder_of(source, place, **layout), "skip")
    rows = human(table)
    assert rows.keys() == ROWS[source].keys()
    for name, values in ROWS[source].items():
        assert rows[name] == pytest.approx(values), name
    assert dict(table.report.left_out) == LEFT_OUT.get(source, {})
    assert dict(table.report.altered) == ALTERED.get(source, {})
    assert [entry["image"] for entry in table.report.skipped] == SKIPPED.get(source, [])
    assert all(os.path.isfile(path) for path in table.rows["image"])


@pytest.mark.parametrize("source", ROWS)
def test_a_data_set_has_the_columns_of_its_schema_and_no_patient_in_two_splits(place, source):
    root = folder_of(source, place)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_cxr(root, resolution=32, on_error="skip")  # recognised by its files
    skipped = [w for w in caught if issubclass(w.category, SkippedImagesWarning)]
    assert bool(skipped) == (source in SKIPPED)
    schema, graph = cxr_schema(root)
    assert set(graph.names) == set(schema.names)
    patients = []
    for split in data.values():
        assert {"image", *schema.names, "patient_id", "image_id"} <= set(split.column_names)
        for attribute in schema:
            feature = split.features[attribute.name]
            assert (
                tuple(feature.names) == attribute.categories
                if attribute.is_discrete
                else feature.dtype == "float32"
            )
        assert split[0]["image"].size == (32, 32) and split[0]["image"].mode == "L"
        patients.append(set(split["patient_id"]))
    assert sum(len(ids) for ids in patients) == len(set().union(*patients))
    assert load_report(data).source == source
    assert set(layouts.rows_of(data)) == set(ROWS[source])
    again = load_cxr(source, data_dir=root, resolution=32, on_error="skip", split="train")
    assert again["image_id"][:] == data["train"]["image_id"][:]


@pytest.mark.parametrize("source", ["nih_cxr14", "padchest", "parquet", "mimic_cxr", "chexpert"])
def test_the_default_schema_and_graph(source):
    schema, graph = cxr_schema(source)
    extra = "race" if source in ("mimic_cxr", "chexpert") else "view"
    assert set(schema.names) == {"age", "sex", extra, "finding"} and schema.names == graph.names
    assert schema.dim == (6 if extra == "race" else 4)
    assert {name: graph.parents(name) for name in graph.names if graph.parents(name)} == {"finding": ("age",)}
    assert (schema["age"].minimum, schema["age"].maximum, schema["age"].unit) == (0, 100, "years")
    assert schema["sex"].categories == ("Male", "Female")
    assert schema["finding"].categories == ("No Finding", "Effusion")
    assert (
        cxr_schema(source, finding="Pleural_Thickening")[0]["finding"].categories[1] == "Pleural Thickening"
    )


NO_RACE = {"require_race": False}


@pytest.mark.parametrize(
    ("source", "file", "options", "message"),
    [
        ("nih_cxr14", "Data_Entry_2017.csv", {}, r"Data_Entry_2017\*.csv"),
        ("nih_cxr14", "images_001/images/00000001_000.png", {}, "00000001_000: is in Data_Entry_2017.csv but not"),
        ("nih_cxr14", "test_list.txt", {}, 'test_list.txt is missing.*splits="patient"'),
        ("mimic_cxr", "mimic-cxr-2.0.0-metadata.csv.gz", {}, "metadata"),
        ("mimic_cxr", "mimic-cxr-2.0.0-split.csv.gz", {"splits": "official"}, "split"),
        ("mimic_cxr", "patients.csv.gz", {}, "patients"),
        ("mimic_cxr", "admissions.csv.gz", {}, "admissions"),
        ("chexpert", "valid.csv", NO_RACE, "valid.csv of CheXpert is missing"),
        ("chexpert", "CHEXPERT DEMO.csv", {}, "require_race=False"),
        ("padchest", "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", {}, "PADCHEST"),
        ("folder", "metadata.csv", {}, "metadata.csv"),
    ],
)  # fmt: skip
def test_a_missing_file_is_named(place, source, file, options, message):
    (folder_of(source, place) / file).unlink()
    with pytest.raises(MissingDataError, match=message):
        read(source, place, **options)


@pytest.mark.parametrize(
    ("source", "file", "column"),
    [
        ("nih_cxr14", "Data_Entry_2017.csv", "View Position"),
        ("mimic_cxr", "patients.csv.gz", "anchor_age"),
        ("chexpert", "train.csv", "AP/PA"),
        ("padchest", "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", "PatientBirth"),
        ("folder", "metadata.csv", "file_name"),
    ],
)
def test_a_missing_column_is_named(place, source, file, column):
    layouts.edit(folder_of(source, place) / file, column, "something")
    with pytest.raises(MissingDataError, match=f"no column '{column}'; it has .*something"):
        read(source, place)


@pytest.mark.parametrize(
    ("source", "file", "old", "new", "named"),
    [
        ("mimic_cxr", "mimic-cxr-2.0.0-metadata.csv.gz", "a-1", "../../../../secret", "secret"),
        ("chexpert", "train.csv", "train/patient00001", "../../patient00001", "not inside"),
        ("padchest", "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", "p2_a.png,1", "../../p2_a.png,0", "not inside"),
        ("folder", "metadata.csv", "img00.png", "../img00.png", "not inside"),
        ("nih_cxr14", "train_val_list.txt", "00000003_000.png", "", "00000003_000: is in neither"),
    ],
)  # fmt: skip
def test_a_bad_row_is_refused_or_skipped(place, source, file, old, new, named):
    layouts.edit(folder_of(source, place) / file, old, new)
    if source != "padchest":  # of which one row is always bad
        with pytest.raises(BadRowError, match=named):
            read(source, place)
    table = read(source, place, "skip")
    assert len(table.rows) == len(ROWS[source]) - 1
    assert any(named in entry["reason"] for entry in table.report.skipped)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nih_cxr14", {"finding": "Banana"}, "'Banana'; choose one of Atelectasis"),
        ("padchest", {"finding": "broken heart"}, "'broken heart'.*pleural effusion"),
        ("padchest", {"splits": "official"}, "has no official split"),
        ("folder", {"splits": "official"}, "no column 'split'"),
        ("folder", {"findings": "Effusion"}, "folder has no option 'findings'; it has attributes, fractions"),
        *((source, {"splits": "mine"}, "splits='mine'") for source in ROWS if source != "parquet"),
        *((source, {"other_findings": "hide"}, "choose 'unknown'") for source in ROWS if source != "folder"),
    ],
)
def test_options_are_checked(place, source, options, message):
    with pytest.raises(CXRDataError, match=message):
        read(source, folder_of(source, place), "skip", **options)


@pytest.mark.parametrize(
    ("source", "layout", "splits"),
    [
        ("nih_cxr14", {}, {"00000004_000": "test", "00000005_000": "test"}),
        ("mimic_cxr", {}, {"a-1": "train", "a-3": "train", "b-2": "validation", "f-2": "test"}),
        ("chexpert", {}, {"patient64541_study1_view1_frontal": "test"}),
        ("folder", {"split": ["train", "val", "test", "Train", "valid", "validation"] * 2},
         {"img00.png": "train", "img01.png": "validation", "img02.png": "test", "img03.png": "train", "img04.png": "validation"}),
        ("parquet", {}, {"i7": "train", "i8": "validation", "i11": "test"}),
    ],
)  # fmt: skip
def test_official_splits(place, source, layout, splits):
    options = {} if source == "parquet" else {"splits": "official"}
    found = read(source, folder_of(source, place, **layout), **options).rows.set_index("image_id")["split"]
    assert {name: found[name] for name in splits} == splits
    if source in ("nih_cxr14", "chexpert"):  # validation is carved out of the training patients
        assert set(found.drop(list(splits))) <= {"train", "validation"}


@pytest.mark.parametrize(
    ("source", "options", "findings"),
    [
        ("nih_cxr14", {"finding": "cardiomegaly", "other_findings": "drop"},
         {"00000001_000": "Cardiomegaly", "00000001_001": "Cardiomegaly", "00000002_000": "No Finding", "00000004_000": "No Finding"}),
        ("mimic_cxr", {"other_findings": "unknown"},
         {"a-1": "No Finding", "a-3": "Effusion", "b-1": None, "b-2": "Effusion", "f-1": None, "f-2": "No Finding"}),
        ("mimic_cxr", {"finding": "Cardiomegaly"},
         {"a-1": "No Finding", "a-3": "Cardiomegaly", "b-1": "Cardiomegaly", "b-2": "No Finding", "f-2": "No Finding"}),
        ("chexpert", {"other_findings": "unknown"},  # uncertain is not absent
         {"patient00001_study1_view1_frontal": "No Finding", "patient00002_study2_view1_frontal": "Effusion",
          "patient00003_study1_view1_frontal": None, "patient64541_study1_view1_frontal": "Effusion"}),
        ("parquet", {"finding": "Mass", "other_findings": "drop"},
         {f"i{i}": ("Mass", "No Finding", "Mass")[i % 3] for i in range(15)}),
    ],
)  # fmt: skip
def test_another_finding_and_other_findings(place, source, options, findings):
    table = read(source, folder_of(source, place), **options)
    assert {name: values[-1] for name, values in human(table).items()} == findings


# What only one of them has
def test_nih_the_newer_table_wins(place):
    table = pd.read_csv(layouts.nih_cxr14(place) / "Data_Entry_2017.csv", dtype=str)
    layouts.write_csv(place / "Data_Entry_2017_v2020.csv", table.assign(**{"Patient Age": "33"}))
    assert {row[0] for row in human(read("nih_cxr14", place)).values()} == {33.0}


def test_ages_with_and_without_units():
    ages = parse_age(pd.Series(["058Y", "58", "012M", "365D", "002W", "", "Y", "-5", "forty"]))
    assert ages[:5].tolist() == pytest.approx([58, 58, 1, 365 * DAY, 14 * DAY])
    assert ages[5:].isna().all()


def test_mimic_files_and_a_patient_s_split(place):
    layouts.mimic_cxr(place)
    table, other = read("mimic_cxr", place), read("mimic_cxr", place, finding="Cardiomegaly")
    row = table.rows.set_index("image_id").loc["a-3"]
    assert row["image"] == str(place / "files" / "p10" / "p10000032" / "s50000002" / "a-3.jpg")
    assert (row["patient_id"], row["study_id"]) == ("10000032", "50000002")
    split_of = dict(zip(other.rows["patient_id"], other.rows["split"]))  # whatever the finding
    assert all(split_of.get(p, s) == s for p, s in zip(table.rows["patient_id"], table.rows["split"]))


def test_a_truncated_table_is_named(place):
    path = layouts.mimic_cxr(place) / "patients.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CXRDataError, match="patients.csv.gz is no readable table"):
        read("mimic_cxr", place)


def test_chexpert_race_from_a_spreadsheet_or_unknown(place):
    sheet = pd.read_csv(layouts.chexpert(place) / "CHEXPERT DEMO.csv")
    (place / "CHEXPERT DEMO.csv").unlink()
    rows = human(read("chexpert", place, **NO_RACE))
    assert {row[1] for row in rows.values()} == {None} and len(rows) == 4
    try:
        sheet.to_excel(place / "CHEXPERT DEMO.xlsx", index=False)
    except ImportError:  # without openpyxl: the error says what to do
        (place / "CHEXPERT DEMO.xlsx").write_bytes(b"PK")
        with pytest.raises(CXRDataError, match="openpyxl|readable"):
            read("chexpert", place)
    else:
        assert human(read("chexpert", place)) == ROWS["chexpert"]


def test_padchest_needs_a_resolution_and_scales_16_bits(place):
    layouts.padchest(place)
    with pytest.raises(CXRDataError, match="resolution"):
        load_cxr("padchest", data_dir=place, on_error="skip")
    with pytest.warns(UserWarning, match="skipped"):
        data = load_cxr("padchest", data_dir=place, on_error="skip", resolution=40)
    first = pd.Series(list(layouts.rows_of(data)["p1_a"]["image"].getdata()))
    assert abs(first - layouts.pixels(0).ravel()).max() <= 1


def test_padchest_labels_are_parsed_not_evaluated():
    assert parse_labels("['Pleural Effusion', ' normal', '']") == {"pleural effusion", "normal"}
    for text in ("open('x')", "{'a': 1}", "[1, 2]", "[", "normal"):
        assert parse_labels(text) is None
