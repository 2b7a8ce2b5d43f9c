"""Small folders in the layouts of the data sets' owners, for the tests, and what must be read from them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from cf_cxr.data.loading import read_table_of
from cf_cxr.data.report import LoadReport


def pixels(seed: int, height: int = 40, width: int = 40) -> np.ndarray:
    """A smooth random 8-bit picture, another one for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (5, 5), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def write_image(path: Path, seed: int, height: int = 40, width: int = 40, bits: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = pixels(seed, height, width)
    Image.fromarray(picture if bits == 8 else picture.astype(np.uint16) * 257).save(path)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = table.to_csv(index=False).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def edit(path: Path, old: str, new: str) -> None:
    """Another text in a table; without `old`, in its place."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    assert old in text
    text = text.replace(old, new).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def read(source: str, root: Path, on_error: str = "raise", **options):
    """The table of a folder, as `load_cxr` reads it before the images."""
    return read_table_of(source, root, LoadReport(source, on_error=on_error), 42, options)


def human(table) -> dict[str, tuple]:
    """The attributes of every image, by its name: numbers and names of classes in the schema's order."""
    return {
        row["image_id"]: tuple(a.format(row[a.name]) for a in table.schema)
        for row in table.rows.to_dict("records")
    }


def rows_of(data) -> dict[str, dict]:
    """All rows of a data set, by the name of the image."""
    return {row["image_id"]: row for split in data.values() for row in split}


NIH_ROWS = [  # image, labels, patient, age, sex, view
    ("00000001_000.png", "Cardiomegaly", 1, "058Y", "M", "PA"),
    ("00000001_001.png", "Cardiomegaly|Effusion", 1, "059Y", "M", "AP"),
    ("00000002_000.png", "No Finding", 2, "006M", "F", "PA"),
    ("00000003_000.png", "Effusion", 3, "412Y", "F", "AP"),
    ("00000004_000.png", "No Finding", 4, "081Y", "M", "PA"),
    ("00000005_000.png", "Hernia", 5, "021D", "F", "PA"),
]


def nih_cxr14(root: Path, test_patients=(4, 5), flat: bool = False) -> Path:
    names = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position".split(",")
    table = pd.DataFrame(NIH_ROWS, columns=names)
    table.insert(2, "Follow-up #", 0)
    table["OriginalImage[Width"] = 2682
    table["Height]"] = 2749
    write_csv(root / "Data_Entry_2017.csv", table)
    test = table["Patient ID"].isin(test_patients)
    (root / "test_list.txt").write_text("\n".join(table["Image Index"][test]))
    (root / "train_val_list.txt").write_text("\n".join(table["Image Index"][~test]) + "\n")
    for i, name in enumerate(table["Image Index"]):
        place = root / "images" if flat else root / f"images_{1 + i % 2:03d}" / "images"
        write_image(place / name, i, 48, 48)
    return root


MIMIC_STUDIES = [  # subject, study, dicom, view, date, No Finding, Pleural Effusion, Cardiomegaly
    ("10000032", "50000001", "a-1", "PA", "21800506", 1.0, None, None),
    ("10000032", "50000001", "a-2", "LATERAL", "21800506", 1.0, None, None),
    ("10000032", "50000002", "a-3", "AP", "21830101", None, 1.0, 1.0),
    ("11000764", "50000003", "b-1", "AP", "21500101", None, None, 1.0),  # some other finding
    ("11000764", "50000004", "b-2", "AP", "21500101", 1.0, 1.0, None),  # effusion wins
    ("12000898", "50000005", "c-1", "PA", "21900101", 1.0, None, None),  # race inconsistent
    ("13000935", "50000006", "d-1", "PA", "21900101", 1.0, None, None),  # race Other
    ("14000980", "50000007", "e-1", "PA", "21900101", 1.0, None, None),  # not in MIMIC-IV
    ("15001000", "50000008", "f-1", "AP", "22200101", None, -1.0, None),  # uncertain effusion
    ("15001000", "50000009", "f-2", "AP", "22200101", 1.0, 0.0, None),
    ("16001001", "50000010", "g-1", "AP", "21900101", 1.0, None, None),  # no admission
]
MIMIC_PATIENTS = [  # subject, gender, anchor_age, anchor_year
    ("10000032", "F", 52, 2180),
    ("11000764", "M", 86, 2150),
    ("12000898", "F", 30, 2190),
    ("13000935", "F", 30, 2190),
    ("15001000", "M", 91, 2200),
    ("16001001", "M", 40, 2190),
]
MIMIC_ADMISSIONS = [
    ("10000032", "WHITE"),
    ("10000032", "WHITE - RUSSIAN"),
    ("11000764", "BLACK/AFRICAN AMERICAN"),
    ("12000898", "ASIAN - CHINESE"),
    ("12000898", "UNKNOWN"),
    ("13000935", "HISPANIC/LATINO - CUBAN"),
    ("14000980", "WHITE"),
    ("15001000", "ASIAN"),
]


def mimic_cxr(root: Path, race_column: str = "race", hosp: str = "", suffix: str = ".csv.gz") -> Path:
    columns = ["subject_id", "study_id", "dicom_id", "ViewPosition", "StudyDate"]
    columns += ["No Finding", "Pleural Effusion", "Cardiomegaly"]
    data = pd.DataFrame(MIMIC_STUDIES, columns=columns)
    prefix = "mimic-cxr-2.0.0-"
    metadata = data[["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate"]]
    write_csv(root / f"{prefix}metadata{suffix}", metadata.assign(Rows=3056, Columns=2544))
    labels = data.drop(columns=["dicom_id", "ViewPosition", "StudyDate"]).drop_duplicates("study_id")
    write_csv(root / f"{prefix}chexpert{suffix}", labels)
    official = {"10000032": "train", "11000764": "validate"}
    split = data[["dicom_id", "study_id", "subject_id"]].assign(
        split=data["subject_id"].map(official).fillna("test")
    )
    write_csv(root / f"{prefix}split{suffix}", split)
    patients = pd.DataFrame(MIMIC_PATIENTS, columns=["subject_id", "gender", "anchor_age", "anchor_year"])
    write_csv(root / hosp / f"patients{suffix}", patients.assign(anchor_year_group="2011 - 2013"))
    admissions = pd.DataFrame(MIMIC_ADMISSIONS, columns=["subject_id", race_column])
    write_csv(root / hosp / f"admissions{suffix}", admissions.assign(hadm_id=range(len(admissions))))
    for i, row in enumerate(data.itertuples()):
        subject = f"p{row.subject_id}"
        place = root / "files" / subject[:3] / subject / f"s{row.study_id}"
        write_image(place / f"{row.dicom_id}.jpg", i, 48, 40)
    return root


CHEXPERT_ROWS = [  # table, patient/study/file, sex, age, frontal, view, No Finding, Effusion
    ("train", "patient00001/study1/view1_frontal.jpg", "Female", 68, "Frontal", "AP", 1.0, None),
    ("train", "patient00001/study1/view2_lateral.jpg", "Female", 68, "Lateral", None, 1.0, None),
    ("train", "patient00002/study2/view1_frontal.jpg", "Male", 87, "Frontal", "PA", None, 1.0),
    ("train", "patient00003/study1/view1_frontal.jpg", "Unknown", 0, "Frontal", "AP", None, -1.0),
    ("train", "patient00004/study1/view1_frontal.jpg", "Male", 20, "Frontal", "LL", 1.0, None),
    ("train", "patient00005/study1/view1_frontal.jpg", "Male", 33, "Frontal", "PA", 1.0, 0.0),
    ("valid", "patient64541/study1/view1_frontal.jpg", "Male", 73, "Frontal", "AP", 0.0, 1.0),
]
CHEXPERT_RACES = [
    ("patient00001", "White, non-Hispanic"),
    ("patient00002", "Black or African American"),
    ("patient00003", "Asian"),
    ("patient00004", "White"),
    ("patient00005", "Unknown"),
    ("patient64541", "Asian"),
]


def chexpert(root: Path, prefix: str = "CheXpert-v1.0-small") -> Path:
    columns = ["table", "Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", "Pleural Effusion"]
    data = pd.DataFrame(CHEXPERT_ROWS, columns=columns)
    for i, row in data.iterrows():
        write_image(root / row["table"] / row["Path"], i, 40, 48)
    data["Path"] = prefix + "/" + data["table"] + "/" + data["Path"]
    for name in ("train", "valid"):
        write_csv(root / f"{name}.csv", data[data["table"] == name].drop(columns="table"))
    races = pd.DataFrame(CHEXPERT_RACES, columns=["PATIENT", "PRIMARY_RACE"])
    write_csv(root / "CHEXPERT DEMO.csv", races.assign(ETHNICITY="Unknown"))
    return root


PADCHEST_ROWS = [  # image, folder, date, birth, sex, projection, labels
    ("p1_a.png", 0, "20140915", 1930.0, "M", "PA", "['pleural effusion', ' cardiomegaly']"),
    ("p1_b.png", 0, "20150915", 1930.0, "M", "L", "['normal']"),
    ("p2_a.png", 1, "20100101", 1960.0, "F", "AP_horizontal", "['normal']"),
    ("p3_a.png", 1, "20100101", 1850.0, "F", "AP", "['normal', 'pacemaker']"),
    ("p4_a.png", 1, "20100101", None, "O", "PA", "['Pleural Effusion']"),
    ("p5_a.png", 1, "20100101", 1950.0, "M", "PA", None),
    ("p6_a.png", 1, "20100101", 1950.0, "M", "PA", "__import__('os').system('true')"),
]


def padchest(root: Path, nested: bool = True) -> Path:
    columns = ["ImageID", "ImageDir", "StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM"]
    data = pd.DataFrame(PADCHEST_ROWS, columns=columns + ["Projection", "Labels"])
    data["StudyID"] = "study" + data["ImageID"].str[1:2]
    data["PatientID"] = "patient" + data["ImageID"].str[1:2]
    data["Report"] = "text, with a comma"
    write_csv(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", data)
    for i, row in data.iterrows():
        folder = root / str(row["ImageDir"]) if nested else root
        write_image(folder / row["ImageID"], i, bits=16)
    return root


def folder(root: Path, number: int = 12, **columns) -> Path:
    """A folder with one image per patient, `img00.png` and so on; `columns` replace the default ones."""
    table = {
        "file_name": [f"img{i:02d}.png" for i in range(number)],
        "patient_id": [f"p{i}" for i in range(number)],
        "age": [30 + i for i in range(number)],
        "sex": ["Male", "Female"] * (number // 2),
    }
    table = {name: values for name, values in (table | columns).items() if values is not None}
    write_csv(root / "metadata.csv", pd.DataFrame(table))
    for i in range(number):
        write_image(root / f"img{i:02d}.png", i)
    return root


FEATURES = Features(
    {
        "image": ImageFeature(),
        "image_id": Value("string"),
        "patient_id": Value("int32"),
        "age": Value("float32"),
        "sex": ClassLabel(names=["Female", "Male"]),  # not in the order of the schema
        "view": ClassLabel(names=["PA", "AP"]),
        "findings": List(Value("string")),
    }
)


def write_parquet(path: Path, first: int = 0, number: int = 3, **columns) -> Path:
    """One parquet file with images `first`, `first` + 1 ...; `columns` replace the default ones; its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + number)
    table = {
        "image": [Image.fromarray(pixels(i)) for i in numbers],
        "image_id": [f"i{i}" for i in numbers],
        "patient_id": list(numbers),
        "age": [float(i) for i in numbers],
        "sex": [i % 2 for i in numbers],
        "view": [0] * number,
        "findings": [[["Effusion", "Mass"], [], ["Mass"]][i % 3] for i in numbers],
    } | columns
    texts = any(isinstance(value, str) for value in table["findings"])
    features = Features(FEATURES | {"findings": Value("string")}) if texts else FEATURES
    Dataset.from_dict(table, features=features).to_parquet(str(path), batch_size=3)
    return path.parent


def parquet(root: Path) -> Path:
    for name, first, number in (("train", 0, 8), ("validation", 8, 3), ("test", 11, 4)):
        write_parquet(root / f"{name}.parquet", first, number)
    return root


DAY = 1 / 365.25
ROWS = {  # by image, the attributes in the order of the schema
    "nih_cxr14": {
        "00000001_000": (58, "Male", "PA", None),  # cardiomegaly only: neither effusion nor nothing
        "00000001_001": (59, "Male", "AP", "Effusion"),
        "00000002_000": (0.5, "Female", "PA", "No Finding"),
        "00000003_000": (None, "Female", "AP", "Effusion"),  # 412 years
        "00000004_000": (81, "Male", "PA", "No Finding"),
        "00000005_000": (21 * DAY, "Female", "PA", None),
    },
    "mimic_cxr": {
        "a-1": (52, "White", "Female", "No Finding"),
        "a-3": (55, "White", "Female", "Effusion"),
        "b-2": (86, "Black", "Male", "Effusion"),
        "f-2": (100, "Asian", "Male", "No Finding"),  # 91 + 20 years, capped
    },
    "chexpert": {
        "patient00001_study1_view1_frontal": (68, "White", "Female", "No Finding"),
        "patient00002_study2_view1_frontal": (87, "Black", "Male", "Effusion"),
        "patient64541_study1_view1_frontal": (73, "Asian", "Male", "Effusion"),
    },
    "padchest": {
        "p1_a": (84, "Male", "PA", "Effusion"),
        "p2_a": (50, "Female", "AP", "No Finding"),
        "p3_a": (None, "Female", "AP", None),  # 160 years; a pacemaker is no "normal"
        "p4_a": (None, None, "PA", "Effusion"),
    },
    "folder": {f"img{i:02d}.png": (30 + i, ("Male", "Female")[i % 2]) for i in range(12)},
    "parquet": {
        f"i{i}": (i, ("Female", "Male")[i % 2], "PA", ("Effusion", "No Finding", None)[i % 3])
        for i in range(15)
    },
}
IMPOSSIBLE = {"impossible ages (below 0 or above 100 years) set to unknown": 1}
LEFT_OUT = {
    "mimic_cxr": {
        "views other than AP and PA": 1,
        "patients who are not in MIMIC-IV patients": 1,
        "patients without an admission that records race": 1,
        "race differs between admissions": 1,
        "race other than White, Asian, Black": 1,
        "neither Pleural Effusion nor No Finding": 2,
    },
    "chexpert": {
        "views other than frontal AP and PA": 2,
        "race other than White, Asian, Black": 1,
        "neither Pleural Effusion nor No Finding": 1,
    },
    "padchest": {"views other than PA and AP": 1, "no labels": 1},
}
ALTERED = {
    "nih_cxr14": IMPOSSIBLE,
    "padchest": IMPOSSIBLE,
    "mimic_cxr": {"ages above 100 years set to 100": 1},
}
SKIPPED = {"padchest": ["p6_a.png"]}  # its labels are code, which is not evaluated
