"""Every source reads its owner's layout: known rows, known values, known splits."""

import warnings

import pandas as pd
import pytest

from cf_cxr.data import (
    BadRowError,
    CXRDataError,
    LoadReport,
    MissingDataError,
    SkippedImagesWarning,
    cxr_schema,
    load_cxr,
    load_report,
)
from cf_cxr.data.cohort import race_group
from cf_cxr.data.loading import read_table_of
from cf_cxr.data.nih_cxr14 import parse_age
from cf_cxr.data.padchest import parse_labels
from tests.data import layouts


def read(source, root, *, report, **options):
    return read_table_of(source, root, report, 42, options)


def human(table):
    """Rows as dictionaries of class names and numbers, by image_id."""
    rows = {}
    for row in table.rows.to_dict("records"):
        values = {a.name: a.format(row[a.name]) for a in table.schema}
        rows[row["image_id"]] = values | {"patient": row["patient_id"], "split": row["split"]}
    return rows


def skipping(source="test"):
    return LoadReport(source, on_error="skip")


# NIH ChestX-ray14


@pytest.mark.parametrize("flat", [True, False])
def test_nih_attributes_and_official_splits(tmp_path, flat):
    report = LoadReport("nih_cxr14")
    rows = human(read("nih_cxr14", layouts.nih_cxr14(tmp_path, flat=flat), report=report))
    assert len(rows) == 6
    assert rows["00000001_001"] == {
        "age": 59.0,
        "sex": "Male",
        "view": "AP",
        "finding": "Effusion",
        "patient": "1",
        "split": rows["00000001_000"]["split"],
    }
    assert rows["00000001_000"]["finding"] is None  # cardiomegaly only: neither effusion nor nothing
    assert rows["00000002_000"]["finding"] == "No Finding"
    assert rows["00000002_000"]["age"] == pytest.approx(0.5)
    assert rows["00000005_000"]["age"] == pytest.approx(21 / 365.25)
    assert rows["00000004_000"]["split"] == rows["00000005_000"]["split"] == "test"
    assert {rows[f"0000000{i}_000"]["split"] for i in (1, 2, 3)} == {"train", "validation"}


def test_nih_impossible_age_is_unknown_and_reported(tmp_path):
    report = LoadReport("nih_cxr14")
    rows = human(read("nih_cxr14", layouts.nih_cxr14(tmp_path), report=report))
    assert rows["00000003_000"]["age"] is None
    assert sum(report.altered.values()) == 1
    assert "impossible ages" in str(report)


def test_nih_other_finding_and_dropping(tmp_path):
    report = LoadReport("nih_cxr14")
    table = read(
        "nih_cxr14", layouts.nih_cxr14(tmp_path), report=report, finding="cardiomegaly", other_findings="drop"
    )
    rows = human(table)
    assert table.schema["finding"].categories == ("No Finding", "Cardiomegaly")
    assert {i: row["finding"] for i, row in rows.items()} == {
        "00000001_000": "Cardiomegaly",
        "00000001_001": "Cardiomegaly",
        "00000002_000": "No Finding",
        "00000004_000": "No Finding",
    }
    assert dict(report.left_out) == {"neither Cardiomegaly nor No Finding": 2}


def test_nih_the_newer_table_wins(tmp_path):
    root = layouts.nih_cxr14(tmp_path)
    table = pd.read_csv(root / "Data_Entry_2017.csv", dtype=str)
    table["Patient Age"] = "33"
    layouts.write_csv(root / "Data_Entry_2017_v2020.csv", table)
    rows = human(read("nih_cxr14", root, report=LoadReport("nih_cxr14")))
    assert {row["age"] for row in rows.values()} == {33.0}


def test_nih_missing_parts_are_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"Data_Entry_2017\*.csv"):
        read("nih_cxr14", tmp_path, report=LoadReport("nih_cxr14"))
    root = layouts.nih_cxr14(tmp_path)
    (root / "images_001" / "images" / "00000001_000.png").unlink()
    with pytest.raises(MissingDataError, match="00000001_000"):
        read("nih_cxr14", root, report=LoadReport("nih_cxr14"))
    report = skipping()
    assert len(read("nih_cxr14", root, report=report).rows) == 5
    assert [entry["image"] for entry in report.skipped] == ["00000001_000"]
    (root / "test_list.txt").unlink()
    with pytest.raises(MissingDataError, match="test_list.txt"):
        read("nih_cxr14", root, report=skipping())
    assert len(read("nih_cxr14", root, report=skipping(), splits="patient").rows) == 5


def test_nih_missing_column_is_named(tmp_path):
    root = layouts.nih_cxr14(tmp_path)
    table = pd.read_csv(root / "Data_Entry_2017.csv").drop(columns="View Position")
    layouts.write_csv(root / "Data_Entry_2017.csv", table)
    with pytest.raises(MissingDataError, match="no column 'View Position'"):
        read("nih_cxr14", root, report=LoadReport("nih_cxr14"))


def test_nih_image_in_no_list_is_refused(tmp_path):
    root = layouts.nih_cxr14(tmp_path, test_patients=(4,))
    names = (root / "train_val_list.txt").read_text().split()
    (root / "train_val_list.txt").write_text("\n".join(name for name in names if "00000005" not in name))
    with pytest.raises(BadRowError, match="00000005_000: is in neither"):
        read("nih_cxr14", root, report=LoadReport("nih_cxr14"))


def test_nih_unknown_finding_and_options(tmp_path):
    root = layouts.nih_cxr14(tmp_path)
    for options, message in [
        ({"finding": "Banana"}, "'Banana'; choose one of Atelectasis"),
        ({"splits": "mine"}, "choose 'official' or 'patient'"),
        ({"other_findings": "hide"}, "choose 'unknown'"),
    ]:
        with pytest.raises(CXRDataError, match=message):
            read("nih_cxr14", root, report=LoadReport("nih_cxr14"), **options)


def test_ages_with_and_without_units():
    ages = parse_age(pd.Series(["058Y", "58", "012M", "365D", "002W", "", "Y", "-5", "forty"]))
    assert ages[:5].tolist() == pytest.approx([58, 58, 1, 365 / 365.25, 14 / 365.25])
    assert ages[5:].isna().all()


# MIMIC-CXR-JPG


@pytest.mark.parametrize(
    "layout",
    [{}, {"hosp": "hosp"}, {"race_column": "ethnicity", "suffix": ".csv"}],
    ids=["beside", "hosp folder", "MIMIC-IV 1.0"],
)
def test_mimic_cohort_is_that_of_the_paper(tmp_path, layout):
    report = LoadReport("mimic_cxr")
    table = read("mimic_cxr", layouts.mimic_cxr(tmp_path, **layout), report=report)
    rows = human(table)
    assert {i: (r["age"], r["race"], r["sex"], r["finding"]) for i, r in rows.items()} == {
        "a-1": (52.0, "White", "Female", "No Finding"),
        "a-3": (55.0, "White", "Female", "Effusion"),
        "b-2": (86.0, "Black", "Male", "Effusion"),
        "f-2": (100.0, "Asian", "Male", "No Finding"),  # 91 + 20 years, capped
    }
    assert dict(report.left_out) == {
        "views other than AP and PA": 1,
        "patients who are not in MIMIC-IV patients": 1,
        "patients without an admission that records race": 1,
        "race differs between admissions": 1,
        "race other than White, Asian, Black": 1,
        "neither Pleural Effusion nor No Finding": 2,
    }
    assert dict(report.altered) == {"ages above 100 years set to 100": 1}


def test_mimic_file_layout(tmp_path):
    table = read("mimic_cxr", layouts.mimic_cxr(tmp_path), report=LoadReport("mimic_cxr"))
    row = table.rows.set_index("image_id").loc["a-3"]
    assert row["image"] == str(tmp_path / "files" / "p10" / "p10000032" / "s50000002" / "a-3.jpg")
    assert (row["patient_id"], row["study_id"]) == ("10000032", "50000002")


def test_mimic_other_findings_can_stay_unknown(tmp_path):
    table = read(
        "mimic_cxr", layouts.mimic_cxr(tmp_path), report=LoadReport("mimic_cxr"), other_findings="unknown"
    )
    rows = human(table)
    assert rows["b-1"]["finding"] is None and rows["f-1"]["finding"] is None
    assert len(rows) == 6


def test_mimic_official_split(tmp_path):
    rows = human(
        read("mimic_cxr", layouts.mimic_cxr(tmp_path), report=LoadReport("mimic_cxr"), splits="official")
    )
    assert {i: row["split"] for i, row in rows.items()} == {
        "a-1": "train",
        "a-3": "train",
        "b-2": "validation",
        "f-2": "test",
    }


def test_mimic_split_of_a_patient_does_not_depend_on_the_finding(tmp_path):
    root = layouts.mimic_cxr(tmp_path)
    effusion = human(read("mimic_cxr", root, report=LoadReport("mimic_cxr")))
    heart = human(read("mimic_cxr", root, report=LoadReport("mimic_cxr"), finding="Cardiomegaly"))
    by_patient = {row["patient"]: row["split"] for row in heart.values()}
    for row in effusion.values():
        assert by_patient.get(row["patient"], row["split"]) == row["split"]


@pytest.mark.parametrize("name", ["patients", "admissions", "mimic-cxr-2.0.0-chexpert"])
def test_mimic_missing_table_is_named(tmp_path, name):
    root = layouts.mimic_cxr(tmp_path)
    (root / f"{name}.csv.gz").unlink()
    with pytest.raises(MissingDataError, match=name.split("-")[-1]):
        read("mimic_cxr", root, report=LoadReport("mimic_cxr"))


def test_mimic_truncated_table_is_named(tmp_path):
    root = layouts.mimic_cxr(tmp_path)
    path = root / "patients.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CXRDataError, match="patients.csv.gz is no readable table"):
        read("mimic_cxr", root, report=LoadReport("mimic_cxr"))


def test_mimic_identifiers_cannot_leave_the_folder(tmp_path):
    root = layouts.mimic_cxr(tmp_path, suffix=".csv")
    path = root / "mimic-cxr-2.0.0-metadata.csv"
    path.write_text(path.read_text().replace("a-1", "../../../../secret"))
    with pytest.raises(BadRowError, match="secret"):
        read("mimic_cxr", root, report=LoadReport("mimic_cxr"))
    report = skipping()
    assert "a-3" in human(read("mimic_cxr", root, report=report))
    assert len(report.skipped) == 1


def test_race_groups():
    recorded = ["WHITE - RUSSIAN", "Black or African American", "ASIAN - KOREAN", "UNKNOWN", "", None]
    recorded += ["NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER", "White, non-Hispanic"]
    groups = race_group(pd.Series(recorded)).tolist()
    assert groups == ["White", "Black", "Asian", "Other", "Other", "Other", "Other", "White"]


# CheXpert


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0-small", "CheXpert-v1.0"])
def test_chexpert_cohort(tmp_path, prefix):
    report = LoadReport("chexpert")
    rows = human(read("chexpert", layouts.chexpert(tmp_path, prefix), report=report))
    assert {r["patient"]: (r["age"], r["race"], r["sex"], r["finding"]) for r in rows.values()} == {
        "patient00001": (68.0, "White", "Female", "No Finding"),
        "patient00002": (87.0, "Black", "Male", "Effusion"),
        "patient64541": (73.0, "Asian", "Male", "Effusion"),
    }
    assert dict(report.left_out) == {
        "views other than frontal AP and PA": 2,
        "race other than White, Asian, Black": 1,
        "neither Pleural Effusion nor No Finding": 1,
    }
    assert "patient00001_study1_view1_frontal" in rows


def test_chexpert_without_race(tmp_path):
    root = layouts.chexpert(tmp_path / "data")
    (root / "CHEXPERT DEMO.csv").unlink()
    with pytest.raises(MissingDataError, match="require_race=False"):
        read("chexpert", root, report=LoadReport("chexpert"))
    rows = human(read("chexpert", root, report=LoadReport("chexpert"), require_race=False))
    assert {row["race"] for row in rows.values()} == {None}
    assert rows["patient00005_study1_view1_frontal"]["finding"] == "No Finding"


def test_chexpert_unknown_sex_is_unknown(tmp_path):
    rows = human(
        read("chexpert", layouts.chexpert(tmp_path), report=LoadReport("chexpert"), other_findings="unknown")
    )
    assert rows["patient00003_study1_view1_frontal"]["sex"] is None
    assert rows["patient00003_study1_view1_frontal"]["finding"] is None  # uncertain is not absent


def test_chexpert_official_split(tmp_path):
    rows = human(
        read("chexpert", layouts.chexpert(tmp_path), report=LoadReport("chexpert"), splits="official")
    )
    assert rows["patient64541_study1_view1_frontal"]["split"] == "test"
    assert rows["patient00001_study1_view1_frontal"]["split"] in ("train", "validation")


def test_chexpert_paths_cannot_leave_the_folder(tmp_path):
    root = layouts.chexpert(tmp_path)
    text = (root / "train.csv").read_text()
    (root / "train.csv").write_text(text.replace("train/patient00001", "../../patient00001"))
    with pytest.raises(BadRowError, match="not inside"):
        read("chexpert", root, report=LoadReport("chexpert"))
    report = skipping()
    assert len(read("chexpert", root, report=report).rows) == 2
    assert len(report.skipped) == 1


def test_chexpert_spreadsheet(tmp_path):
    root = layouts.chexpert(tmp_path)
    sheet = pd.read_csv(root / "CHEXPERT DEMO.csv")
    (root / "CHEXPERT DEMO.csv").unlink()
    try:
        sheet.to_excel(root / "CHEXPERT DEMO.xlsx", index=False)
    except ImportError:  # without openpyxl: the error says what to do
        (root / "CHEXPERT DEMO.xlsx").write_bytes(b"PK")
        with pytest.raises(CXRDataError, match="openpyxl|readable"):
            read("chexpert", root, report=LoadReport("chexpert"))
        return
    rows = human(read("chexpert", root, report=LoadReport("chexpert")))
    assert rows["patient64541_study1_view1_frontal"]["race"] == "Asian"


# PadChest


@pytest.mark.parametrize("nested", [True, False])
def test_padchest(tmp_path, nested):
    report = skipping()
    table = read("padchest", layouts.padchest(tmp_path, nested), report=report)
    rows = human(table)
    values = {i: (r["age"], r["sex"], r["view"], r["finding"]) for i, r in rows.items()}
    assert values == {
        "p1_a": (84.0, "Male", "PA", "Effusion"),
        "p2_a": (50.0, "Female", "AP", "No Finding"),
        "p3_a": (None, "Female", "AP", None),  # 160 years; a pacemaker is no "normal"
        "p4_a": (None, None, "PA", "Effusion"),
    }
    assert dict(report.left_out) == {"views other than PA and AP": 1, "no labels": 1}
    assert [entry["image"] for entry in report.skipped] == ["p6_a.png"]  # not evaluated as code
    assert sum(report.altered.values()) == 1
    assert all((tmp_path / path).is_file() for path in table.rows["image"])


def test_padchest_needs_a_resolution_and_scales_16_bits(tmp_path):
    root = layouts.padchest(tmp_path / "data")
    with pytest.raises(CXRDataError, match="resolution"):
        load_cxr("padchest", data_dir=root, on_error="skip", cache_dir=tmp_path / "cache")
    with pytest.warns(UserWarning, match="skipped"):
        data = load_cxr(
            "padchest", data_dir=root, on_error="skip", cache_dir=tmp_path / "cache", resolution=40
        )
    first = next(row for split in data.values() for row in split if row["image_id"] == "p1_a")
    assert abs(pd.Series(list(first["image"].getdata())) - layouts.pixels(0).ravel()).max() <= 1


def test_padchest_a_label_that_nobody_has(tmp_path):
    with pytest.raises(CXRDataError, match="'broken heart'.*pleural effusion"):
        read("padchest", layouts.padchest(tmp_path), report=skipping(), finding="broken heart")


def test_padchest_labels():
    assert parse_labels("['Pleural Effusion', ' normal', '']") == {"pleural effusion", "normal"}
    for text in ("open('x')", "{'a': 1}", "[1, 2]", "[", "normal"):
        assert parse_labels(text) is None


# all of them


@pytest.mark.parametrize("source", ["nih_cxr14", "mimic_cxr", "chexpert", "padchest"])
def test_load_cxr_gives_the_schema_s_columns_for_every_source(tmp_path, source):
    root = getattr(layouts, source)(tmp_path / "data")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_cxr(root, resolution=32, cache_dir=tmp_path / "cache", on_error="skip")
    skipped = [w for w in caught if issubclass(w.category, SkippedImagesWarning)]
    assert bool(skipped) == (source == "padchest")  # the only layout here with a bad row
    schema, graph = cxr_schema(source)
    assert set(graph.names) == set(schema.names)
    patients = []
    for split in data.values():
        assert {"image", *schema.names, "patient_id", "image_id"} <= set(split.column_names)
        for attribute in schema:
            feature = split.features[attribute.name]
            if attribute.is_discrete:
                assert tuple(feature.names) == attribute.categories
            else:
                assert feature.dtype == "float32"
        assert split[0]["image"].size == (32, 32) and split[0]["image"].mode == "L"
        patients.append(set(split["patient_id"]))
    assert sum(len(ids) for ids in patients) == len(set().union(*patients))
    assert load_report(data).source == source
