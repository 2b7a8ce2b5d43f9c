"""Any folder with metadata.csv: inferred and given schemas, and faults that would give plausible but wrong data."""

import json
import logging
import os

import pandas as pd
import pytest

from cf_cxr.attributes import Attribute, AttributeSchema
from cf_cxr.data import BadRowError, CXRDataError, cxr_schema, load_cxr, load_report
from cf_cxr.data.folder import infer_schema
from cf_cxr.examples import example_dicom
from tests.data import layouts
from tests.data.layouts import edit, human, read, rows_of

NAMES = [f"img{i:02d}.png" for i in range(12)]
AGE, SEX = cxr_schema("nih_cxr14")[0]["age"], cxr_schema("nih_cxr14")[0]["sex"]


@pytest.fixture
def folder(place):
    """Writes a folder of twelve images with these columns."""
    return lambda number=12, **columns: layouts.folder(place, number, **columns)


def findings(root):
    return [row[-1] for row in human(read("folder", root)).values()]


# The schema
def test_inferred_attributes(folder):
    root = folder(
        sex=["M", "f"] * 6,
        view=["PA", "AP"] * 6,
        race=["White", "Asian", "Black"] * 4,
        finding=["Effusion", "normal"] * 6,
        scanner=["b", "a", "c"] * 4,
        device=[0, 1] * 6,
        dose=[0.5 * i for i in range(12)],
        constant=["x"] * 12,
    )
    schema, graph = cxr_schema(root)
    assert schema["age"] == AGE and schema["sex"] == SEX
    assert schema["view"].categories == ("PA", "AP")
    assert schema["race"].categories == ("White", "Asian", "Black")
    assert schema["finding"].categories == ("normal", "Effusion")  # the negative class comes first
    assert schema["scanner"] == Attribute("scanner", "categorical", categories=("a", "b", "c"))
    assert schema["device"] == Attribute("device", "binary", categories=("0", "1"))
    assert schema["dose"] == Attribute("dose", "continuous", minimum=0.0, maximum=5.5)
    assert "constant" not in schema and "patient_id" not in schema
    assert graph.to_dict() == {name: ["age"] if name == "finding" else [] for name in schema.names}
    assert cxr_schema("folder", data_dir=root)[0] == schema
    rows = read("folder", root).rows
    assert rows["sex"].tolist() == [0, 1] * 6
    assert rows["scanner"].tolist() == [1, 0, 2] * 4
    assert rows["finding"].tolist() == [1, 0] * 6


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("note", [f"text {i}" for i in range(24)], "24 different values"),
        ("findings", ["Effusion|Mass", "No Finding", "Effusion ruled out"] * 8, "Effusion|Mass"),
        ("dose", ["1.5"] * 23 + ["inf"], "no range holds 'inf' (img23.png)"),
    ],
)
def test_a_column_that_is_no_attribute_is_not_used_and_that_is_logged(folder, caplog, name, values, reason):
    root = folder(24, **{name: values})
    assert name not in cxr_schema(root)[0]
    assert f"'{name}' is not used" in caplog.text and reason in caplog.text
    with pytest.raises(CXRDataError, match=f"'{name}' cannot be an attribute"):
        read("folder", root, attributes=[name])
    assert infer_schema(root, ["sex"]).names == ("sex",)


def test_schema_json_is_followed(folder):
    root = folder(dose=list(range(12)))
    content = {
        "attributes": [{"name": "dose", "kind": "continuous", "minimum": -5, "maximum": 50, "unit": "mGy"}]
        + [{"name": "sex", "kind": "binary", "categories": ["Female", "Male"]}],
        "graph": {"sex": [], "dose": ["sex"]},
    }
    (root / "schema.json").write_text(json.dumps(content))
    schema, graph = cxr_schema(root)
    assert schema["dose"].maximum == 50
    assert graph.parents("dose") == ("sex",)
    assert read("folder", root).rows["sex"].tolist() == [1, 0] * 6  # in the order of schema.json


RANGE = '{"attributes": [{"name": "age", "kind": "continuous", "minimum": LOW, "maximum": HIGH}]}'
CLASSES = '{"attributes": [{"name": "sex", "kind": "binary", "categories": LIST}]}'
LIMITS = [("0", "Infinity"), ("NaN", "1"), ('"0"', '"9"'), ("0", f"1{'0' * 400}"), ("0", "1e200")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((text, "is not as it should be") for text in ("{", "[1]", '{"graph": {}}', "[" * 200_000)),
        ('{"attributes": [{"name": "age"}]}', "is not as it should be"),
        (RANGE.replace("LOW", "0").replace("HIGH", "9")[:-1] + ', "grpah": {"age": []}}', "grpah"),
        *((RANGE.replace("LOW", a).replace("HIGH", b), "'age'.* within 1e.30") for a, b in LIMITS),
        *((CLASSES.replace("LIST", x), "'sex'.*categories") for x in ('"MF"', '["M", ""]', "[0, 1]")),
    ],
)
def test_a_bad_schema_json_is_explained(folder, text, message):
    root = folder()
    (root / "schema.json").write_text(text)
    with pytest.raises(CXRDataError, match=f"schema.json.*{message}"):
        cxr_schema(root)


def test_given_schema_and_unknown_values(folder):
    root = folder(sex=["Male", "Female", None] * 4)
    schema = AttributeSchema([Attribute("sex", "binary", categories=("Female", "Male"))])
    rows = read("folder", root, schema=schema).rows
    assert rows["sex"].tolist()[:2] == [1, 0] and rows["sex"].isna().sum() == 4
    assert "age" not in rows
    data = rows_of(load_cxr(root, resolution=16, schema=schema.to_list()))
    assert [data[name]["sex"] for name in NAMES] == [1, 0, None] * 4


@pytest.mark.parametrize(
    ("values", "classes", "second"),
    [(["Male", "Unknown"], ("Male", "Unknown"), "Unknown"), (["F", "M"], ("M", "F"), "M")],
)
def test_classes_of_a_given_schema_are_no_missing_markers_or_letters(folder, values, classes, second):
    root = folder(sex=values * 6)
    schema = AttributeSchema([Attribute("sex", "binary", categories=classes)])
    assert human(read("folder", root, schema=schema))["img01.png"] == (second,)


@pytest.mark.parametrize("name", ["image", "split", "patient_id"])
def test_attributes_cannot_have_the_name_of_another_column(folder, name):
    schema = [{"name": name, "kind": "binary", "categories": ["a", "b"]}]
    with pytest.raises(CXRDataError, match=f"{name!r}"):
        read("folder", folder(), schema=schema)


def test_schemas_that_cannot_be_asked_for(folder):
    for arguments, message in (
        ({"name": "folder"}, "data_dir"),
        ({"name": "nih"}, "known source"),
        ({"name": "folder", "finding": "Effusion", "data_dir": folder()}, "metadata.csv"),
    ):
        with pytest.raises(ValueError, match=message):
            cxr_schema(**arguments)


# Tables
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,age\nx.png,3\n", "no column 'file_name'"),
        (b"file_name,age\n", "no rows"),
        (b"file_name,age\n,3\n", "line 2: the file_name is empty"),
        (b"\x00\xff\xfe" * 100, "metadata.csv"),
        ("file_name,age\nx.png,3\n".encode("utf-16"), "metadata.csv.*UTF-8"),
        (b"file_name,age\nx.png,3,4\n", "no readable table"),  # its cells would be shifted
        (b"file_name,age,age\nx.png,3,4\n", "metadata.csv has 2 columns 'age'"),
        (b"file_name,file_name\nx.png,3\n", "metadata.csv has 2 columns 'file_name'"),
        (b"file_name,Age\nx.png,3\n", "'Age'.*'age'"),
        (b"file_name,Patient ID\nx.png,3\n", "'Patient ID'.*'patient_id'"),
        (b"file_name,Finding\nx.png,3\n", "'Finding'.*'finding'"),
    ],
)
def test_a_bad_table_is_explained(place, content, message):
    place.mkdir()
    (place / "metadata.csv").write_bytes(content)
    with pytest.raises(CXRDataError, match=message):
        read("folder", place)


def test_a_column_without_a_name_is_no_attribute(folder):
    root = folder()
    pd.read_csv(root / "metadata.csv").to_csv(root / "metadata.csv")  # pandas writes its index there
    assert cxr_schema(root)[0].names == ("age", "sex")


@pytest.mark.parametrize("name", ["metadata.csv", "schema.json", "train.parquet", "train.csv"])
def test_tables_that_are_pipes_are_not_opened(folder, name):
    root = folder()
    (root / name).unlink(missing_ok=True)
    os.mkfifo(root / name)
    (root / "valid.csv").write_text("Path\n")
    kind = {"train.parquet": "parquet", "train.csv": "chexpert"}.get(name, "folder")
    with pytest.raises(CXRDataError, match=name):
        read(kind, root)


# Rows: which image, which patient, which split
def test_paths_below_the_folder_are_accepted(folder):
    root = folder(file_name=["a/b/x.png", "./img01.png", "a/../img02.png", "a\\y.png", *NAMES[4:]])
    files = read("folder", root).rows["image"].tolist()
    assert files[:4] == [str(root / name) for name in ("a/b/x.png", "img01.png", "img02.png", "a/y.png")]


@pytest.mark.parametrize(
    "name", ["..", ".", "../x", "a/../../x", "/x", "\\x", "\\\\host\\x", "C:\\x", "http://x/y.png", "~/x"]
)
def test_paths_that_leave_the_folder_are_refused(folder, name):
    with pytest.raises(BadRowError, match="not inside"):
        read("folder", folder(file_name=[name, *NAMES[1:]]))


@pytest.mark.parametrize(
    ("columns", "message", "left"),
    [
        ({"split": ["train"] * 11 + ["holdout"]}, "img11.png", 11),
        ({"file_name": [*NAMES[:11], "./img03.png"]}, "img03.png.*p3.*p11", 10),
        *(
            ({"patient_id": [missing, missing, *NAMES[2:]]}, "img00.png.*patient", 10)
            for missing in ("", "NA", "unknown", "None", "nan")
        ),
    ],
)
def test_rows_that_cannot_be_used(folder, columns, message, left):
    root = folder(**columns)
    with pytest.raises(BadRowError, match=message):
        read("folder", root)
    assert len(read("folder", root, "skip").rows) == left


def test_a_patient_in_two_splits_is_refused_unless_the_split_is_by_patient(folder):
    root = folder(split=["train", "test"] * 6, patient_id=["p0", "p0 "] * 3 + [f"p{i}" for i in range(6)])
    with pytest.raises(CXRDataError, match="patient p0 in both"):
        read("folder", root)
    rows = read("folder", root, splits="patient", fractions=(0.5, 0.25, 0.25)).rows
    assert rows["patient_id"].tolist()[:6] == ["p0"] * 6  # spaces around it make no other patient
    counts = rows.drop_duplicates("patient_id")["split"].value_counts()
    assert counts.to_dict() == {"train": 3, "validation": 1, "test": 2}


def test_without_patient_id_a_warning_is_logged(folder, caplog):
    assert read("folder", folder(patient_id=None)).rows["patient_id"].nunique() == 12
    assert "no column patient_id" in caplog.text


# Values
@pytest.mark.parametrize(
    "marker",
    ["", "nan", "NaN", "NA", "N/A", "n/a", "?", "unknown", "Unknown", "missing", "#N/A", ".", "-", " "],
)
def test_missing_markers_are_missing(folder, marker):
    root = folder(
        age=["31", marker] * 6,
        sex=["M", marker, "F"] * 4,
        scanner=["a", "b", marker] * 4,
        dose=["0.5", "1e-3", marker] * 4,
        finding=["No Finding", "Effusion", marker] * 4,
    )
    schema, _ = cxr_schema(root)
    assert [a.kind for a in schema] == ["continuous", "binary", "binary", "continuous", "binary"]
    assert schema["dose"].minimum == 0.001 and schema["scanner"].categories == ("a", "b")
    rows = human(read("folder", root))
    assert rows["img00.png"] == (31, "Male", "a", 0.5, "No Finding")
    assert rows["img01.png"][:2] == (None, None) and rows["img02.png"] == (31, "Female", None, None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [("age", "-3"), ("age", "300"), ("age", "old"), ("sex", "Banana"), ("view", "LL"), ("race", "x")],
)
def test_values_that_a_usual_column_cannot_take_stop_the_load(folder, name, value):
    good = {"age": "40", "sex": "M", "view": "PA", "race": "White"}[name]
    root = folder(**{name: [good] * 9 + [value] * 3})
    with pytest.raises(BadRowError) as caught:
        read("folder", root)
    for part in (name, value, "img09.png", "img10.png", "metadata.csv", "schema.json"):
        assert part in str(caught.value)
    table = read("folder", root, "skip")
    assert len(table.rows) == 9 and value in table.report.skipped[0]["reason"]
    assert read("folder", root, attributes=["sex" if name != "sex" else "age"])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (["Effusion"] * 12, "Effusion"),  # of one class only
        ([""] * 12, "no known value"),
        ([str(i % 4) for i in range(12)], "'3'"),
        (["Effusion|Mass", "No Finding"] * 6, "Effusion|Mass"),
        (["Effusion", "Effusion ruled out", "Mass"] * 4, "Effusion ruled out"),
        ([f"text {i}" for i in range(24)], "text 1"),
    ],
)
def test_a_finding_that_cannot_be_used_stops_the_load(folder, values, named):
    with pytest.raises(CXRDataError) as caught:
        read("folder", folder(len(values), finding=values))
    assert named in str(caught.value) and "'finding'" in str(caught.value)
    assert not values[0] or ".png" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["Effusion", "EFFUSION", "No Finding", "no finding"], ("No Finding", "Effusion")),  # spellings
        (["Effusion", "No Effusion"], ("No Effusion", "Effusion")),  # the negative one first
        (["Effusion", ""], ("No Finding", "Effusion")),
    ],
)
def test_classes_of_a_finding(folder, values, classes):
    assert cxr_schema(folder(finding=values * (12 // len(values))))[0]["finding"].categories == classes


def test_blank_is_no_finding_beside_one_label_alone_and_unknown_else(folder):
    assert findings(folder(finding=["Effusion", ""] * 6)) == ["Effusion", "No Finding"] * 6
    assert findings(folder(finding=["Effusion", "", "No Finding"] * 4))[1] is None


# The example of docs/data.md, and what is said about an inferred schema
def test_the_example_of_the_documentation(place, caplog):
    place.mkdir()
    (place / "metadata.csv").write_text(
        "file_name,patient_id,age,sex,finding\na/0001.dcm,17,63,F,Effusion\na/0002.png,17,64,F,\n"
    )
    layouts.write_image(place / "a" / "0002.png", 2)
    (place / "a" / "0001.dcm").write_bytes(example_dicom().read_bytes())
    with pytest.raises(CXRDataError, match="resolution"):
        load_cxr(place)
    schema, graph = cxr_schema(place)
    assert schema["finding"].categories == ("No Finding", "Effusion") and graph.parents("finding") == ("age",)
    train = load_cxr(place, resolution=32)["train"]
    assert train["finding"][:] == [1, 0]
    assert train[0]["image"].size == (32, 32) and train[0]["image"].getextrema()[1] > 150
    assert "1 blank findings read as 'No Finding'" in caplog.text
    edit(place / "metadata.csv", "64,F,", "64,F,No Finding")
    assert load_cxr(place, resolution=32, schema=schema)["train"]["finding"][:] == [1, 0]


def test_the_inferred_schema_is_printed(folder, caplog):
    root = folder(sex=["M", "F", ""] * 4, finding=["Effusion", "No Finding"] * 6, age=range(40, 52))
    with caplog.at_level(logging.WARNING):
        data = load_cxr(root, resolution=16)
    for part in (
        "age: continuous, 0 to 100 years, 40 to 51 occur, 0 unknown",
        "sex: binary, Male 4, Female 4, 4 unknown",
        "finding: binary, No Finding 6, Effusion 6, 0 unknown",
        "age -> finding",
    ):
        assert part in caplog.text and part in str(load_report(data))
