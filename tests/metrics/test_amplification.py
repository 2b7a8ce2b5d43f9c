import math

import numpy as np
import pytest

from cf_cxr.metrics.amplification import amplification, amplification_samples
from cf_cxr.metrics.bootstrap import paired_difference, patient_weights
from tests.metrics.gaussian_toy import GRAPH, SCHEMA, auc, classes, feature, sigmoid

N, D = 2000, 1.5


def setup(change=0.0, n=N, resamples=50):
    """Records of a model that, under do(age), moves sex by `change` along its class direction."""
    value = classes(n)
    x = feature(n, D)
    site = np.arange(n) % 3
    real = {
        "age": np.full(n, 50.0),
        "sex": sigmoid(x),
        "site": np.eye(3)[site] * 0.4 + 0.2,
        "finding": sigmoid(x),
    }
    factual = np.stack([40 + 20 * value, value, site, value], axis=1).astype(float)
    counterfactual = {k: dict(real) for k in SCHEMA.names}
    counterfactual["age"]["sex"] = sigmoid(x + change * (value - 0.5))
    return real, counterfactual, factual, patient_weights(np.arange(n), resamples, seed=0)


def run(*records):
    real, counterfactual, factual, weights = records
    return amplification(SCHEMA, GRAPH, real, counterfactual, factual, weights)


def test_null_intervention_gives_exactly_zero():
    result = run(*setup())
    assert {i for row in result.matrix.values() for i in row.values()} == {(0.0, 0.0, 0.0)}
    assert result.mean_abs_auc == (0, 0, 0) and result.mean_abs_units == {"age": (0, 0, 0)}
    assert result.undefined == ()


def test_cells_are_the_attributes_that_must_not_change():
    result = run(*setup())
    assert {k: set(row) for k, row in result.matrix.items()} == {
        "age": {"sex", "site"},  # finding is a descendant of age
        "sex": {"age", "site", "finding"},
        "site": {"age", "sex", "finding"},
        "finding": {"age", "sex", "site"},
    }


@pytest.mark.parametrize("change", [0.8, -0.8], ids=["amplifying", "attenuating"])
def test_a_model_that_scales_the_class_direction_is_caught(change):
    expected = auc(D + change) - auc(D)
    assert math.copysign(1, expected) == math.copysign(1, change) and abs(expected) > 6
    result = run(*setup(change))
    estimate, low, high = result.matrix["age"]["sex"]
    assert estimate == pytest.approx(expected, abs=0.05)
    assert low < estimate < high and low * high > 0  # the interval excludes 0, on the right side
    others = [i for k, row in result.matrix.items() for j, i in row.items() if (k, j) != ("age", "sex")]
    assert set(others) == {(0.0, 0.0, 0.0)}
    assert result.mean_abs_auc[0] == pytest.approx(abs(expected) / 8, abs=0.01)  # 8 cells with discrete j


def test_matrix_by_hand():
    real = {
        "age": [50, 60, 70, 80],
        "sex": [0.1, 0.4, 0.35, 0.8],  # AUC 75
        "site": np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.9, 0.05, 0.05]]),  # 72.2
        "finding": [0.1, 0.2, 0.3, 0.4],  # 100
    }
    counterfactual = {
        "sex": {
            "age": [51, 60, 70, 80],
            "site": np.eye(3)[[0, 1, 2, 2]],
            "finding": [0.4, 0.3, 0.2, 0.1],
            "sex": "never looked at",
        },
        "age": {"sex": [0.1, 0.2, 0.3, 0.4], "site": real["site"]},
    }
    factual = np.array([[52, 0, 0, 0], [58, 0, 1, 0], [70, 1, 2, 1], [80, 1, 2, 1]], float)
    result = amplification(SCHEMA, GRAPH, real, counterfactual, factual, np.empty((0, 4)))
    site = 100 - 100 * (2 / 3 + 1 + 1 / 2) / 3
    estimates = {k: {j: i[0] for j, i in row.items()} for k, row in result.matrix.items()}
    assert estimates["sex"] == pytest.approx({"age": -0.25, "site": site, "finding": -100})
    assert estimates["age"] == pytest.approx({"sex": 25, "site": 0})
    assert result.mean_abs_auc[0] == pytest.approx((site + 100 + 25 + 0) / 4)
    assert result.mean_abs_units["age"][0] == pytest.approx(0.25)
    assert math.isnan(result.mean_abs_auc[1])  # no resamples, no interval


def test_one_class_is_missing_and_not_part_of_the_mean():
    real, counterfactual, factual, weights = setup(0.8)
    factual[:, SCHEMA.index("finding")] = 1
    result = run(real, counterfactual, factual, weights)
    assert result.undefined == (("sex", "finding"), ("site", "finding"))
    assert all(math.isnan(v) for v in result.matrix["sex"]["finding"])
    assert result.mean_abs_auc[0] == pytest.approx((auc(D + 0.8) - auc(D)) / 6, abs=0.01)


def test_two_models_are_compared_on_the_same_resamples():
    hard, soft = run(*setup(0.8)), run(*setup(0.1))
    a, b = hard.mean_abs_samples["auc_points"], soft.mean_abs_samples["auc_points"]
    estimate, low, high = paired_difference(a, b)
    assert estimate == pytest.approx(hard.mean_abs_auc[0] - soft.mean_abs_auc[0]) and low > 0
    assert set(hard.mean_abs_samples) == {"auc_points", "age"}


def test_one_cell_equals_the_matrix():
    real, counterfactual, factual, weights = setup(0.8)
    cell = amplification_samples(
        "binary", counterfactual["age"]["sex"], real["sex"], factual[:, 1], weights, "sex"
    )
    np.testing.assert_array_equal(cell, run(real, counterfactual, factual, weights).samples["age"]["sex"])


def broken(change):
    records = setup(n=40, resamples=2)
    change(*records[:3])
    return records


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r, c, f: r["sex"].__setitem__(3, np.nan), "sex on real images.*row 3.*nan"),
        (lambda r, c, f: c["sex"].update(age=np.full(40, np.nan)), r"age on images under do\(sex\).*nan"),
        (lambda r, c, f: c["age"].pop("site"), r"site: there is no prediction on images under do\(age\)"),
        (lambda r, c, f: r.pop("finding"), "finding: there is no prediction on real images"),
        (lambda r, c, f: c["sex"].update(finding=np.ones(3)), "finding.*3 rows.*40"),
        (lambda r, c, f: c["sex"].update(site=np.ones((40, 2))), "site.*2 columns.*A, B, C"),
        (lambda r, c, f: c.update(height={}), r"do\(height\)"),
        (lambda r, c, f: f.__setitem__((5, 1), np.nan), "sex: the value: row 5"),
        (lambda r, c, f: f.__setitem__((5, 2), 3), "site has 3 classes"),
    ],
)
def test_bad_input_names_the_attribute(change, message):
    with pytest.raises(ValueError, match=message):
        run(*broken(change))


def test_factual_must_have_all_columns():
    real, counterfactual, factual, weights = setup(n=40)
    with pytest.raises(ValueError, match="age, sex, site, finding"):
        run(real, counterfactual, factual[:, :3], weights)
