"""Critics on an evaluation's records: the right films meet, and the numbers are those of the plain function."""

import json

import numpy as np
import pytest
import torch

from cf_cxr import cxr_schema
from cf_cxr.evaluation.counterfactuals.two_sample import describe_scores, read_films, suspicious_films
from cf_cxr.evaluation.plots.films import suspects_figure
from cf_cxr.evaluation.plots.frame import MAX_BYTES, write_png
from cf_cxr.metrics.bootstrap import patient_weights
from cf_cxr.metrics.two_sample import two_sample_auc, two_sample_samples
from tests.evaluation.tiny_evaluation import evaluate

SCHEMA, _ = cxr_schema("parquet")
N, SIDE = 90, 32
AGE, SEX, VIEW = (SCHEMA.index(name) for name in ("age", "sex", "view"))


@pytest.fixture(scope="module")
def records():
    """Smooth films; do(sex) leaves stripes on two thirds of them, do(view) changes three, do(age) none."""
    rng = np.random.default_rng(0)
    factual = np.stack([rng.uniform(20, 90, N), *rng.integers(0, 2, (3, N))], 1)
    films = torch.nn.functional.interpolate(
        torch.from_numpy(rng.normal(128, 30, (N, 1, 4, 4))), SIDE, mode="bicubic"
    )
    films = films[:, 0].numpy().clip(10, 245).round().astype(np.uint8)
    out = {"factual": factual, "images/real": films}
    changed = {"sex": np.arange(N) % 3 > 0, "view": np.arange(N) < 3, "age": np.zeros(N, bool)}
    for k, moved in changed.items():
        new = factual.copy()
        new[moved, SCHEMA.index(k)] = 1 - new[moved, SCHEMA.index(k)]
        out[f"do/{k}/attributes"] = new
        stripes = np.where(np.arange(SIDE) % 4 < 2, 3, -3)
        out[f"images/do/{k}"] = np.where(moved[:, None, None], films + stripes, films).astype(np.uint8)
    return out


@pytest.fixture(scope="module")
def critics(records):
    return read_films(records, SCHEMA, patients(), seed=1)


def patients():
    return [f"p{i // 2}" for i in range(N)]


def test_only_changed_films_are_judged_and_rows_are_those_of_the_records(records, critics):
    scores = critics["sex"]
    fakes = scores.rows[scores.counterfactual]
    assert (fakes % 3 > 0).all() and len(set(fakes)) == len(fakes)
    assert (scores.patients == np.array(patients())[scores.rows]).all()
    weights = patient_weights(patients(), 50, 0)
    samples = two_sample_samples(scores, weights[:, scores.rows])
    assert samples.shape == (51,) and samples[0] >= 0.95
    moved = np.flatnonzero(np.arange(N) % 3 > 0)
    films, values = records["images/real"] / 127.5 - 1, records["factual"][:, SEX]
    plain = two_sample_auc(
        films, records["images/do/sex"][moved] / 127.5 - 1, values, 1 - values[moved], patients(),
        np.array(patients())[moved], seed=1, n_resamples=10,
    )  # fmt: skip
    assert plain["two_sample_auc"][0] == pytest.approx(samples[0], abs=1e-6)
    assert describe_scores(scores)["real"] == plain["real"]


def test_what_cannot_be_measured_has_a_reason(critics):
    assert "too few films" in critics["view"].reason and "too few films" in critics["age"].reason
    assert np.isnan(two_sample_samples(critics["age"], np.zeros((4, 0)))).all()
    assert describe_scores(critics["age"])["counterfactual"] == 0


def test_suspects_are_the_films_of_the_highest_scores(records, critics, tmp_path):
    suspects = suspicious_films(records, critics)
    assert {name.split("/")[1] for name in suspects} == {"sex"}  # of the others there is no score
    scores = critics["sex"]
    best = scores.rows[np.flatnonzero(scores.counterfactual)[scores.score[scores.counterfactual].argmax()]]
    np.testing.assert_array_equal(suspects["do/sex/image"][0], records["images/do/sex"][best])
    np.testing.assert_array_equal(suspects["do/sex/before"][0], records["images/real"][best])
    assert suspects["do/sex/places"].shape == (2, 4, 4)
    results = {"do": {"sex": {"two_sample_auc": [0.97, 0.9, 1.0]}}, "identity": {}}
    figure = suspects_figure(suspects, SCHEMA, results)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "do(sex): AUC 0.97\nreal" and titles.count("where") == 2
    assert write_png(tmp_path / "suspects.png", figure).stat().st_size <= MAX_BYTES


def test_without_critics_the_records_hold_no_images(parts, data_dir, tmp_path):
    evaluate(parts, data_dir, tmp_path / "out", "--no_two_sample")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "two_sample_auc" not in results["do"]["sex"] and "two_sample" not in results["do"]["sex"]
    assert "two-sample" not in (tmp_path / "out" / "results.md").read_text()
    small = sum(file.stat().st_size for file in (tmp_path / "out" / "records").iterdir())
    evaluate(parts, data_dir, tmp_path / "with")
    large = sum(file.stat().st_size for file in (tmp_path / "with" / "records").iterdir())
    assert large - small >= 16 * 5 * 16 * 16  # 16 films, real and under four interventions
    with pytest.raises(ValueError, match="images_kept was False and is True"):
        evaluate(parts, data_dir, tmp_path / "out", "--resume")
