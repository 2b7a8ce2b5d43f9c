import numpy as np
import pandas as pd
import pytest

from cf_cxr.data import CXRDataError, split_by_patient
from cf_cxr.data.splits import carve_validation, check_no_overlap

PATIENTS = np.random.default_rng(0).permutation([f"p{i % 200}" for i in range(1000)]).tolist()


def patients_of(splits, ids=PATIENTS):
    return {name: {p for p, s in zip(ids, splits) if s == name} for name in ("train", "validation", "test")}


def test_no_patient_is_in_two_splits_and_none_is_lost():
    sets = patients_of(split_by_patient(PATIENTS))
    assert not sets["train"] & sets["validation"]
    assert not sets["train"] & sets["test"]
    assert not sets["validation"] & sets["test"]
    assert set().union(*sets.values()) == set(PATIENTS)


def test_fractions_are_parts_of_the_patients():
    sets = patients_of(split_by_patient(PATIENTS, (0.6, 0.1, 0.3)))
    assert {name: len(members) for name, members in sets.items()} == {
        "train": 120,
        "validation": 20,
        "test": 60,
    }


def test_the_division_does_not_depend_on_order_but_on_the_seed():
    first = split_by_patient(PATIENTS, seed=42)
    backwards = split_by_patient(PATIENTS[::-1], seed=42)[::-1]
    assert (first == backwards).all()
    assert (first != split_by_patient(PATIENTS, seed=43)).any()


def test_known_division_stays_the_same_for_ever():
    splits = split_by_patient([str(i) for i in range(10)], (0.5, 0.2, 0.3), seed=42)
    assert "".join(name[:2] for name in splits) == "trtrtetetrvatrtrteva"


@pytest.mark.parametrize("number", [3, 4, 7])
def test_no_wanted_split_is_empty_with_few_patients(number):
    splits = split_by_patient([str(i) for i in range(number)])
    assert set(splits) == {"train", "validation", "test"}


def test_a_fraction_of_zero_gives_no_patients():
    assert set(split_by_patient(PATIENTS, (0.8, 0.2, 0.0))) == {"train", "validation"}


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.6, 0.1), (1.2, -0.2, 0.0), (0.1, 0.1, 0.1)])
def test_impossible_fractions_are_refused(fractions):
    with pytest.raises(CXRDataError, match="add up to 1"):
        split_by_patient(PATIENTS, fractions)


def test_validation_is_carved_out_of_training_patients_only():
    owners = np.array(["train" if int(p[1:]) < 100 else "test" for p in PATIENTS], dtype=object)
    carved = carve_validation(owners, PATIENTS, fraction=0.1)
    sets = patients_of(carved)
    assert len(sets["validation"]) == 10
    assert not sets["train"] & sets["validation"]
    assert ((carved == "test") == (owners == "test")).all()


def test_an_overlap_is_found_and_the_patient_named():
    check_no_overlap(pd.Series(["a", "a", "b"]), pd.Series(["train", "train", "test"]), "table")
    with pytest.raises(CXRDataError, match="patient a in both train and test"):
        check_no_overlap(pd.Series(["a", "b", "a"]), pd.Series(["train", "test", "test"]), "table")
