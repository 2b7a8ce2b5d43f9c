import math

import pytest
import torch

from cf_cxr import Attribute, AttributeSchema, AttributeValueError, UnknownAttributeError

SCHEMA = AttributeSchema(
    [
        Attribute("age", "continuous", minimum=0, maximum=100, unit="years"),
        Attribute("race", "categorical", categories=("White", "Asian", "Black")),
        Attribute("sex", "binary", categories=("Male", "Female")),
    ]
)
RECORD = {"age": 25, "race": "Black", "sex": "Female"}


def test_parent_vector_has_the_documented_codes():
    parents = SCHEMA.encode(SCHEMA.to_tensor(RECORD))
    assert parents.tolist() == [[-0.5, 0, 0, 1, 1]]
    assert SCHEMA.dim == 5 and SCHEMA.n == 3


def test_decode_inverts_encode():
    raw = torch.tensor([[0.0, 0, 0], [100, 1, 1], [63.25, 2, 0]])
    assert torch.allclose(SCHEMA.decode(SCHEMA.encode(raw)), raw)


def test_unknown_values_get_neutral_codes_only_where_allowed():
    raw = SCHEMA.to_tensor({"age": None, "race": None, "sex": None}, allow_missing=True)
    assert raw.isnan().all()
    assert torch.allclose(
        SCHEMA.encode(raw, allow_unknown=True), torch.tensor([[0, 1 / 3, 1 / 3, 1 / 3, 0.5]])
    )
    with pytest.raises(AttributeValueError, match="age is missing"):
        SCHEMA.encode(raw)


@pytest.mark.parametrize("value", [63, 63.0, "63", " 063Y", "63 years", torch.tensor(63.0)])
def test_ages_as_people_write_them(value):
    assert SCHEMA["age"].parse(value) == 63.0


@pytest.mark.parametrize("value", ["Female", "female", " FEMALE ", 1, 1.0, True])
def test_classes_as_people_write_them(value):
    assert SCHEMA["sex"].parse(value) == 1.0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("age", -3, ["-3", "out of range", "0 to 100 years"]),
        ("age", 101, ["101"]),
        ("age", "sixty", ["sixty", "not a number"]),
        ("age", math.nan, ["nan"]),
        ("age", True, ["True"]),
        ("sex", "Banana", ["Banana", "Male", "Female"]),
        ("sex", 2, ["2"]),
        ("sex", 0.5, ["0.5"]),
        ("race", True, ["True"]),
    ],
)
def test_impossible_values_name_value_and_remedy(name, value, words):
    with pytest.raises(AttributeValueError) as error:
        SCHEMA[name].parse(value)
    assert all(word in str(error.value) for word in [name, *words])


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UnknownAttributeError, match="weight.*age, race, sex"):
        SCHEMA.validate_do({"weight": 80})
    with pytest.raises(UnknownAttributeError, match="weight"):
        SCHEMA.to_tensor({**RECORD, "weight": 80})


def test_do_must_be_a_mapping_and_may_be_empty():
    assert SCHEMA.validate_do({}) == {}
    assert SCHEMA.validate_do({"race": "asian", "age": "80"}) == {"race": 1.0, "age": 80.0}
    with pytest.raises(TypeError, match="mapping"):
        SCHEMA.validate_do("sex=Female")


def test_columns_records_and_tensors_agree():
    columns = {"age": [25, 63], "race": ["Black", "White"], "sex": ["Female", "Male"]}
    raw = SCHEMA.to_tensor(columns)
    assert torch.equal(raw, SCHEMA.to_tensor(SCHEMA.to_records(raw)))
    assert torch.equal(raw, SCHEMA.to_tensor(raw))
    assert SCHEMA.to_records(raw)[1] == {"age": 63.0, "race": "White", "sex": "Male"}
    with pytest.raises(AttributeValueError, match="equally long"):
        SCHEMA.to_tensor({"age": [25, 63], "race": ["Black"], "sex": ["Female", "Male"]})


@pytest.mark.parametrize(
    "raw", [[[25.0, 3, 0]], [[25, 0.5, 0]], [[-1, 0, 0]], [[25, 0, math.nan]], [[25, 0]]]
)
def test_impossible_raw_tensors_are_refused(raw):
    with pytest.raises(AttributeValueError):
        SCHEMA.to_tensor(torch.tensor(raw))


def test_definition_round_trip():
    assert AttributeSchema(SCHEMA.to_list()) == SCHEMA


@pytest.mark.parametrize(
    "definition",
    [
        {"name": "x", "kind": "ordinal"},
        {"name": "x", "kind": "continuous"},
        {"name": "x", "kind": "continuous", "minimum": 3, "maximum": 3},
        {"name": "x", "kind": "binary", "categories": ["a", "b", "c"]},
        {"name": "x", "kind": "categorical", "categories": ["a"]},
        {"name": "x", "kind": "categorical", "categories": ["a", "A"]},
        {"name": "", "kind": "binary", "categories": ["a", "b"]},
    ],
)
def test_inconsistent_definitions_are_refused(definition):
    with pytest.raises(ValueError):
        Attribute(**definition)


def test_names_must_be_unique():
    with pytest.raises(ValueError, match="unique"):
        AttributeSchema([SCHEMA["age"], SCHEMA["age"]])
