"""The commands that evaluate and compare explainers: from words to files, interrupted, resumed, refused."""

import json

import pytest
import torch

from cf_cxr.black_box import BlackBoxError
from cf_cxr.evaluation.comparison import ComparisonError
from cf_cxr.evaluation.explanations.collecting import ExplanationCollector
from cf_cxr.evaluation.explanations.command import ExplanationEvaluationArguments, main
from cf_cxr.evaluation.explanations.comparison import main as compare
from cf_cxr.evaluation.explanations.instruments import check_division_of_data
from cf_cxr.evaluation.records import RecordsError
from cf_cxr.models.progressive_explainer import ProgressiveExplainerConfig, ProgressiveExplainerModel
from cf_cxr.pipelines import ExplainerMismatchError
from tests.black_box.helpers import attribute_model
from tests.evaluation.tiny_evaluation import classifier
from tests.evaluation.tiny_explanations import SIDE, PatchClassifier
from tests.training.bad_black_boxes import MESSAGES

HERE = "tests.evaluation.tiny_explanations"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """An explainer that has not been trained: with a residual output it changes nothing."""
    root = tmp_path_factory.mktemp("explanations")
    torch.manual_seed(0)
    config = ProgressiveExplainerConfig(
        image_size=SIDE,
        widths=[4, 8],
        residual_output=True,
        class_name="bright patch",
        classifier_fingerprint=PatchClassifier().fingerprint(),
    )
    ProgressiveExplainerModel(config).save_pretrained(root / "explainer")
    return root


def run(root, out, *words, explainer=None, black_box="make_classifier"):
    """7 phantoms of 32 pixels in batches of 3, 3 and 1."""
    words = [
        "--explainer", explainer or root / "explainer", "--classifier", f"{HERE}:{black_box}",
        "--segmenter", f"{HERE}:GreySegmenter", "--dataset", "phantom", "--num_images", 7, "--device_rate", 0.5,
        "--cache_dir", root / "cache", "--output_dir", root / out, "--batch_size", 3, "--n_resamples", 20, "--cpu",
        "--disable_tqdm", *words,
    ]  # fmt: skip
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def whole(root):
    return run(root, "whole")


def numbers(results):
    out = {k: v for k, v in results.items() if k != "run"}
    return json.dumps({**out, "identity": {**out["identity"], "commit": None}})


def test_an_untrained_explainer_explains_nothing(root, whole):
    assert whole["schema_version"] == 1 and whole["images"]["all"] == 7
    assert whole["validity"]["all"][0] == 0
    assert whole["exaggeration"]["all"]["slope"][0] == pytest.approx(0, abs=1e-6)
    assert whole["change"]["all"][0] == pytest.approx(0, abs=1e-4)
    who = whole["identity"]
    assert who["explainer"]["method"] == "progressive" and who["resolution"] == SIDE
    assert who["classifier"]["fingerprint"] == PatchClassifier().fingerprint()
    assert [w for w in who["warnings"] if "no --judge" in w]
    assert whole["ruler"]["cardiothoracic_ratio"]["true_masks"]["images"] == 7
    folder = root / "whole"
    assert "slope" in (folder / "results.md").read_text()
    plots = {"exaggeration.png", "anatomy.png", "examples.png"}
    assert {p.name for p in (folder / "plots").iterdir()} == plots


def test_an_interrupted_run_goes_on(root, whole, monkeypatch):
    call = ExplanationCollector.__call__

    def interrupted(self, index, first, batch):
        if index == 2:
            raise KeyboardInterrupt
        return call(self, index, first, batch)

    monkeypatch.setattr(ExplanationCollector, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(root, "cut", "--no_plots")
    assert not (root / "cut" / "results.json").exists()
    monkeypatch.undo()
    results = run(root, "cut", "--no_plots")
    assert results["run"]["batches_kept"] == 2 and results["run"]["batches_computed"] == 1
    assert numbers(results) == numbers(whole)
    with pytest.raises(FileExistsError, match="--resume"):
        run(root, "cut", "--no_plots")
    (root / "cut" / "records" / "batch-000001.safetensors").write_bytes(b"damaged")
    again = run(root, "cut", "--no_plots", "--resume", "--n_resamples", 30)
    assert again["run"]["batches_computed"] == 1 and again["identity"]["n_resamples"] == 30
    with pytest.raises(RecordsError, match="seed was 0 and is 1"):
        run(root, "cut", "--no_plots", "--resume", "--seed", 1)


def test_an_explainer_of_another_classifier_is_refused(root):
    with pytest.raises(ExplainerMismatchError, match="--force"):
        run(root, "other", black_box="make_other_classifier")
    results = run(root, "other", "--no_plots", "--force", black_box="make_other_classifier")
    assert "to be explained" in results["identity"]["warnings"][0]
    assert "to be explained" in (root / "other" / "results.md").read_text()


@pytest.mark.parametrize("name", MESSAGES)
def test_a_black_box_that_cannot_be_is_refused_before_anything_is_written(root, name):
    black_box = f"tests.training.bad_black_boxes:{name}"
    with pytest.raises(BlackBoxError, match=MESSAGES[name]):
        run(root, "bad", "--force", "--classifier", black_box, "--class_name", "x", "--classifier_options",
            '{"identity": "bad"}')  # fmt: skip
    assert not (root / "bad").exists()


def test_an_unknown_class_is_refused_with_those_that_there_are(root, tmp_path):
    attribute_model().save_pretrained(tmp_path)
    with pytest.raises(BlackBoxError, match="Unknown class 'edema'.*finding=effusion"):
        run(root, "edema", "--classifier", tmp_path, "--class_name", "edema")


def test_methods_side_by_side(root, whole, capsys):
    own = run(root, "own", "--no_plots", explainer=f"{HERE}:make_patch_explainer")
    assert own["exaggeration"]["all"]["slope"][0] == pytest.approx(1, abs=1e-3)
    assert own["validity"]["all"][0] == 1 and own["identity"]["explainer"]["method"] == "own"
    shift = run(root, "shift", "--no_plots", "--method", "latent_shift")
    assert shift["identity"]["explainer"]["method"] == "latent_shift"
    runs = [f"ideal={root / 'own'}", f"nothing={root / 'whole'}", f"latent shift={root / 'shift'}"]
    compare(["--runs", *runs, "--output_dir", str(root / "comparison")])
    text = (root / "comparison" / "comparison.md").read_text()
    assert text == capsys.readouterr().out[-len(text) - 1 : -1]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| method", "| ---", "| ideal", "| nothing", "| latent shift"]
    column = rows[0].index("CV")
    assert rows[2][column].startswith("1.000") and rows[3][column].startswith("0.000")
    assert (root / "comparison" / "comparison.png").stat().st_size > 1000
    with pytest.raises(ComparisonError, match="the explained classifier"):
        compare(["--runs", runs[0], f"other={root / 'other'}", "--output_dir", str(root / "no")])
    with pytest.raises(ComparisonError, match="results.json is missing"):
        compare(["--runs", f"a={root / 'nowhere'}", "--output_dir", str(root / "no")])


def test_a_judge_measures_identity(root, tmp_path):
    classifier(0, "phantom").save_pretrained(tmp_path / "judge")
    explainer = f"{HERE}:make_patch_explainer"
    words = ("--no_plots", "--judge", tmp_path / "judge")
    results = run(root, "judged", *words, "--resolution", 16, explainer=explainer)
    assert results["patient_identity"]["feature_extractor"].startswith("pooled embedding of the judge")
    assert results["patient_identity"]["n_distractors"] == 6 and results["identity"]["warnings"] == []
    assert results["frechet"]["negative"]["distance"] is not None
    with pytest.raises(ValueError, match="images of 16 pixels"):
        run(root, "misjudged", *words, explainer=explainer)


def test_what_cannot_be_evaluated(root, tmp_path):
    with pytest.raises(ValueError, match="has no split"):
        run(root, "nosplit", "--split", "holdout")
    with pytest.raises(ValueError, match="--method causal"):
        run(root, "causal", "--method", "causal")
    with pytest.raises(ValueError, match="without series"):
        run(root, "noseries", explainer=f"{HERE}:GreySegmenter")
    with pytest.raises(ValueError, match="num_images"):
        ExplanationEvaluationArguments(dataset="parquet", num_images=3)
    with pytest.raises(ValueError, match="--resolution is 0"):
        ExplanationEvaluationArguments(resolution=0)


def test_another_division_of_the_same_films_is_refused(tmp_path):
    manifest = {"data": {"dataset": "nih_cxr14", "data_seed": 42}}
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    settings = {"explainer": str(tmp_path), "dataset": "nih_cxr14"}
    check_division_of_data(ExplanationEvaluationArguments(**settings, data_seed=42))
    check_division_of_data(ExplanationEvaluationArguments(**settings, data_seed=7, force=True))
    check_division_of_data(
        ExplanationEvaluationArguments(explainer=str(tmp_path), dataset="phantom", data_seed=7)
    )
    with pytest.raises(ValueError, match="--data_seed 42"):
        check_division_of_data(ExplanationEvaluationArguments(**settings, data_seed=7))
