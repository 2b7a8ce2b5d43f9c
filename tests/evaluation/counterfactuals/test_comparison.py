"""Comparison of methods over seeds: known answers on made-up samples."""

import json

import numpy as np
import pytest

from cf_cxr import cxr_schema
from cf_cxr.evaluation.comparison import ComparisonError, parse_runs
from cf_cxr.evaluation.counterfactuals.comparison import TRUE, combine_seeds, main

SCHEMA, _ = cxr_schema("phantom")
R = 400


def write_run(folder, amplification, *, noise=0.0, own_seed=0, oracle=False, **identity):
    """An evaluation whose mean |amplification| is a number, plus noise that all runs share, plus its own."""
    shared = np.random.default_rng(0).normal(0, 0.5, R)
    own = np.random.default_rng(own_seed).normal(0, noise, R) if noise else 0
    values = np.r_[amplification, amplification + shared + own]
    samples = {"mean_abs_amplification/auc_points": values, "mean_distance/auc_points": values / 2}
    samples |= {"do/sex/signed_distance": values, "do/sex/amplification/site": -values}
    samples |= {"do/sex/effectiveness": 90 + values, "do/sex/two_sample_auc": 0.5 + values / 20}
    constant = {"real/sex": 90.0, "do/sex/error": 3.0, "mean_error": 3.0, "do/site/two_sample_auc": np.nan}
    if oracle:
        constant |= {"do/sex/oracle_effectiveness": 92.0, "do/sex/oracle_amplification/site": 0.25}
        constant |= {"oracle_mean_abs_amplification/auc_points": 0.25}
    samples |= {name: np.full(R + 1, value) for name, value in constant.items()}
    who = {
        "judge": "judge", "fingerprints": {"judge": "j"}, "data_fingerprint": "d", "seed": 0, "n_resamples": R,
        "batch_size": 16, "attributes": SCHEMA.to_list(), "dataset": "phantom", "split": "test", "images": 10,
        "patients": 10, "judge_is_training_classifier": False,
    }  # fmt: skip
    folder.mkdir(parents=True)
    np.savez(folder / "samples.npz", **samples)
    (folder / "results.json").write_text(json.dumps({"schema_version": 2, "identity": who | identity}))
    return folder


def compare(tmp_path, runs, *words):
    return main(["--runs", *runs, "--output_dir", str(tmp_path / "out"), *words])


def entry(comparison, method, *path):
    where = comparison["methods"][method]["statistics"]
    for key in path or ("mean_abs_amplification", "auc_points"):
        where = where[key]
    return where


def test_differences_are_paired_and_ratios_are_ratios(tmp_path):
    hard, soft = write_run(tmp_path / "h", 8.0), write_run(tmp_path / "s", 2.0)
    comparison = compare(tmp_path, [f"hard={hard}", f"soft={soft}"], "--reference", "hard")
    found = entry(comparison, "soft")
    assert found["value"][0] == pytest.approx(2.0) and found["value"][2] - found["value"][1] > 1.5
    assert found["minus"]["hard"] == pytest.approx([-6.0] * 3), "what both share cancels"
    assert found["ratio"]["hard"][0] == pytest.approx(0.25)
    assert entry(comparison, "hard")["minus"] == {}
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "Difference to hard, paired:" in text and r"mean \|amplification\|" in text
    assert "| sex → site | -8.00" in text
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert stored == comparison and (tmp_path / "out" / "comparison.png").stat().st_size > 1000


def test_two_sample_aucs_are_compared_on_the_same_patients(tmp_path):
    runs = [f"{n}={write_run(tmp_path / n, m)}" for n, m in (("hvae", 9), ("flow", 2))]
    found = entry(
        compare(tmp_path, runs, "--reference", "hvae", "--no_plots"), "flow", "do", "sex", "two_sample_auc"
    )
    assert found["value"][0] == pytest.approx(0.6) and found["value"][2] - found["value"][1] > 0.05
    np.testing.assert_allclose(found["minus"]["hvae"], -0.35, atol=1e-6)  # what both share cancels
    table = (tmp_path / "out" / "comparison.md").read_text().split("Two-sample AUC (critic")[1]
    assert "| hvae | – | 0.95 [" in table and "| flow | – | 0.60 [" in table


def test_the_interval_holds_the_spread_between_seeds(tmp_path):
    """Seeds at 1, 4 and 7: mean 4; resampled means of three spread over 1 to 7, whatever the patients say."""
    runs = [write_run(tmp_path / str(i), a) for i, a in enumerate((1.0, 4.0, 7.0))]
    alone = write_run(tmp_path / "alone", 4.0)
    words = [f"three={','.join(map(str, runs))}", f"one={alone}"]
    comparison = compare(tmp_path, words, "--reference", "one", "--no_plots")
    three, one = entry(comparison, "three"), entry(comparison, "one")
    assert three["value"][0] == pytest.approx(4.0) and three["range"] == [1.0, 7.0]
    # sd of a mean of three draws from {1, 4, 7} is sqrt(6 / 3) = 1.41; patients add 0.5
    assert 2 < (three["value"][2] - three["value"][1]) / 2 < 3.3
    assert (one["value"][2] - one["value"][1]) / 2 < 1.2
    low, high = three["minus"]["one"][1:]
    assert low < -1.5 and high > 1.5, "the difference keeps the spread of the seeds"
    assert "(1.00..7.00)" in (tmp_path / "out" / "comparison.md").read_text()


def test_seeds_are_drawn_alike_for_all_statistics_of_a_method():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 11))
    together = combine_seeds(list(a + b), 0, "soft")
    np.testing.assert_allclose(
        together, combine_seeds(list(a), 0, "soft") + combine_seeds(list(b), 0, "soft")
    )
    np.testing.assert_allclose(combine_seeds([a[0]], 0, "soft"), a[0])
    other = combine_seeds(list(a), 0, "hard")
    assert other[0] == pytest.approx(a[:, 0].mean()) and (other != combine_seeds(list(a), 0, "soft")).any()


def test_the_true_counterfactuals_are_a_row_and_a_training_judge_is_marked(tmp_path):
    run = write_run(tmp_path / "a", 5.0, oracle=True, judge_is_training_classifier=True)
    comparison = compare(tmp_path, [f"soft={run}"], "--reference", "soft")
    assert entry(comparison, TRUE)["value"] == pytest.approx([0.25] * 3)
    assert entry(comparison, TRUE, "do", "sex", "signed_distance")["value"] == pytest.approx([2.0] * 3)
    assert entry(comparison, TRUE, "mean_error")["value"] == [0, 0, 0]
    assert entry(comparison, TRUE)["minus"]["soft"][0] == pytest.approx(-4.75)
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert text.count("grades itself") == text.count("| --- |\n")  # once per table


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"data_fingerprint": "e"}, "the images, what is known about them, or the interventions differ"),
        ({"seed": 1}, "the seed of interventions and bootstrap differ"),
        ({"fingerprints": {"judge": "k"}}, "the judge differ"),
    ],
)
def test_runs_on_other_images_are_refused(tmp_path, identity, message):
    first, second = write_run(tmp_path / "a", 1.0), write_run(tmp_path / "b", 1.0, **identity)
    with pytest.raises(ComparisonError, match=message):
        compare(tmp_path, [f"a={first}", f"b={second}"])
    assert not (tmp_path / "out").exists()


def test_bad_words(tmp_path):
    run = write_run(tmp_path / "a", 1.0)
    with pytest.raises(ComparisonError, match="'soft' must be NAME=DIR"):
        parse_runs(["soft"])
    with pytest.raises(ComparisonError, match="names 'a' twice"):
        parse_runs(["a=x", "a=y"])
    with pytest.raises(ComparisonError, match="--runs is empty"):
        parse_runs([])
    with pytest.raises(ComparisonError, match="reference 'hard' is none of the methods a"):
        compare(tmp_path, [f"a={run}"], "--reference", "hard")
    with pytest.raises(ComparisonError, match="holds no finished evaluation .results.json is missing"):
        compare(tmp_path, [f"a={tmp_path / 'nowhere'}"])
