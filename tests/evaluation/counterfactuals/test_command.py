"""The evaluation command and packaging, on a tiny random model and radiograph-like noise in the parquet layout."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from cf_cxr import AttributeClassifierModel, DeepSCMModel, cxr_schema
from cf_cxr.evaluation.counterfactuals.collecting import Collector
from cf_cxr.evaluation.counterfactuals.summary import summarise
from cf_cxr.evaluation.judges import SameJudgeError
from cf_cxr.metrics.bootstrap import patient_weights
from cf_cxr.metrics.calibration import expected_calibration_error
from cf_cxr.metrics.effectiveness import fooling_gap
from cf_cxr.packaging.deep_scm import main as package
from cf_cxr.packaging.folder import stored_weights
from tests.evaluation.tiny_evaluation import classifier, evaluate, strings, write_split

SCHEMA, GRAPH = cxr_schema("parquet")


def collect(model, judge, pixels, factual, do, batch_size=5, **settings):
    """Records of images that are no data set."""
    collector, parts = Collector(model, judge, **settings), []
    for index, start in enumerate(range(0, len(pixels), batch_size)):
        rows = slice(start, start + batch_size)
        batch = {"pixel_values": pixels[rows], "attributes": factual[rows]}
        batch["do"] = {k: torch.as_tensor(v[rows]) for k, v in do.items()}
        parts.append(collector(index, start, batch))
    return {k: np.concatenate([p[k] for p in parts if k in p]) for k in parts[0]}


def test_results_files_hold_every_number_and_its_identity(parts, data_dir, tmp_path):
    out = tmp_path / "out"
    results = evaluate(parts, data_dir, out)
    assert results == json.loads((out / "results.json").read_text())
    assert results["schema_version"] == 2
    assert results["do"].keys() == {"age", "sex", "view", "finding"}
    assert results["composition"][0] < 1e-3
    assert results["identity"]["images"] == 16 and results["identity"]["patients"] == 16  # a third is "other"
    assert set(results["do"]["age"]["amplification"]) == {"sex", "view"}  # finding descends from age
    assert set(results["do"]["sex"]["amplification"]) == {"age", "view", "finding"}
    assert set(results["mean_abs_amplification"]) == {"auc_points", "age"}
    assert set(results["fid"]) == {"age", "sex", "view", "finding", "all"}
    assert results["do"]["sex"]["two_sample_auc"] == [None, None, None]
    assert "16 x 16 pixels are too small" in results["do"]["sex"]["two_sample"]["reason"]
    table = (out / "results.md").read_text()
    assert "Amplification" in table and "grades itself" not in table
    assert "two-sample AUC" in table and "No two-sample AUC of do(sex): films of" in table
    assert results["identity"]["judge_is_training_classifier"] is False
    with np.load(out / "samples.npz", allow_pickle=False) as samples:
        found, stored = samples["do/sex/amplification/view"], results["do"]["sex"]["amplification"]["view"]
        assert found.shape == (21,) and found[0] == pytest.approx(stored[0], abs=1e-5)
    with pytest.raises(FileExistsError, match="overwrite_output_dir"):
        evaluate(parts, data_dir, out)
    again = evaluate(parts, data_dir, out, "--resume", "--n_resamples", 30)
    assert again["run"]["batches_computed"] == 0
    assert again["do"]["sex"]["change"][0] == results["do"]["sex"]["change"][0]


@pytest.mark.parametrize("judge", ["classifier", "second"])
def test_classifiers_used_in_training_may_not_judge(parts, data_dir, tmp_path, judge):
    with pytest.raises(SameJudgeError, match="cannot grade itself"):
        evaluate(parts, data_dir, tmp_path / "out", judge=judge)
    assert not (tmp_path / "out").exists()


def test_a_training_judge_is_marked_on_every_table(parts, data_dir, tmp_path):
    results = evaluate(parts, data_dir, tmp_path / "out", "--allow_training_judge", judge="second")
    assert results["identity"]["judge_is_training_classifier"] is True
    table = (tmp_path / "out" / "results.md").read_text()
    assert table.count("grades itself") == table.count("| --- |\n")  # once per table


def test_numbers_follow_from_the_images(model):
    """Scores recomputed from the model's own images, one at a time."""
    judge = classifier(7)
    g = torch.Generator().manual_seed(0)
    n = 12
    pixels = torch.rand(n, 1, 16, 16, generator=g) * 2 - 1
    factual = torch.stack([torch.arange(n) + 30.0, *(torch.arange(n) // d % 2.0 for d in (1, 2, 4))], dim=1)
    do = np.random.default_rng(0).integers(0, 2, n).astype(np.float32)
    records = collect(model, judge, pixels, factual, {"sex": do})
    results, _ = summarise(records, SCHEMA, GRAPH, list(range(n)), seed=0, n_resamples=10)
    one_by_one = (
        model.counterfactual(p[None], a[None], {"sex": torch.tensor([v])}).pixel_values[:, 0]
        for p, a, v in zip(pixels, factual, do)
    )
    images = torch.cat(list(one_by_one))
    after, before, own = judge.predict(images), judge.predict(pixels), model.predict(images)
    row = results["do"]["sex"]
    effect = 100 * roc_auc_score(do, after["sex"])
    assert row["effectiveness"][0] == pytest.approx(effect, abs=1e-3)
    real = 100 * roc_auc_score(factual[:, 1], before["sex"])
    assert row["signed_distance"][0] == pytest.approx(effect - real, abs=1e-3)
    assert row["distance"][0] == pytest.approx(abs(effect - real), abs=1e-3)
    weights = patient_weights(range(n), 10, 0)
    gap = fooling_gap("binary", after["sex"], own["sex"], do, weights)["gap"]
    assert row["fooling_gap"] == pytest.approx(gap, abs=1e-3)
    drift = 100 * roc_auc_score(factual[:, 2], after["view"]) - 100 * roc_auc_score(
        factual[:, 2], before["view"]
    )
    assert row["amplification"]["view"][0] == pytest.approx(drift, abs=1e-3)
    age = np.abs(after["age"][0].numpy() - factual[:, 0].numpy()).mean()
    age -= np.abs(before["age"][0].numpy() - factual[:, 0].numpy()).mean()
    assert row["amplification"]["age"][0] == pytest.approx(age, abs=1e-3)
    cells = [abs(row["amplification"][j][0]) for j in ("view", "finding")]
    assert results["mean_abs_amplification"]["auc_points"][0] == pytest.approx(np.mean(cells), abs=1e-3)
    moved = (after["finding"] - before["finding"]).abs().mean()
    assert row["posterior_drift"]["finding"][0] == pytest.approx(float(moved), abs=1e-4)
    assert row["change"][0] == pytest.approx(float((images - pixels).abs().mean() * 127.5), abs=1e-3)
    ece = expected_calibration_error(before["view"], factual[:, 2])
    assert results["ece_judge"]["view"][0] == pytest.approx(ece, abs=1e-5)


def test_likelihood_and_cycles_are_those_of_single_images(model):
    """Per-image terms average to the model's own; cycles are done literally."""
    g = torch.Generator().manual_seed(1)
    pixels = torch.rand(5, 1, 16, 16, generator=g) * 2 - 1
    factual = torch.tensor([[40.0, 0, 0, 0]]).repeat(5, 1)
    do = np.ones(5, np.float32)
    dos = {"view": do, "sex": 0 * do}
    records = collect(model, classifier(7), pixels, factual, dos, num_cycle_images=3)
    assert np.isnan(records["do/sex/reversibility/1"]).all(), "do(sex) changed nothing"
    np.testing.assert_allclose(records["do/sex/change"], records["real/composition/1"])
    mechanism, parents = model.image_mechanism, SCHEMA.encode(factual)
    with torch.no_grad():
        nll, kl = mechanism.free_energy_terms(pixels, parents, generator=torch.Generator().manual_seed(3))
        out = mechanism(pixels, parents, generator=torch.Generator().manual_seed(3))
    assert float(nll.mean()) == pytest.approx(float(out.nll), rel=1e-5)
    assert float(kl.mean()) == pytest.approx(float(out.kl), rel=1e-5)
    assert records["real/nll"].std() > 0
    changed = factual.clone()
    changed[:, 2] = 1
    there, image = SCHEMA.encode(changed), pixels
    for cycle in range(1, 6):
        image = mechanism.decode(mechanism.abduct(image, parents), there)
        image = mechanism.decode(mechanism.abduct(image, there), parents)
        if cycle in (1, 5):
            distance = (image - pixels).abs().mean((1, 2, 3)) * 127.5
            known = slice(None) if cycle == 1 else slice(3)
            stored = records[f"do/view/reversibility/{cycle}"]
            assert stored[known] == pytest.approx(distance[known].detach().numpy(), abs=1e-3)
    assert np.isnan(records["do/view/reversibility/5"]).tolist() == [False] * 3 + [True] * 2
    assert np.isnan(records["real/composition/10"]).tolist() == [False] * 3 + [True] * 2
    assert (records["examples/do/sex/attributes"][:, 1] != factual[:4, 1].numpy()).all()
    assert records["examples/do/sex/image"].shape == (4, 1, 16, 16)
    assert records["examples/image"].dtype == np.uint8


def test_an_amplifying_model_is_caught_with_the_right_sign(model):
    """A judge that reads sex from the left half; a 'model' whose do(view) brightens that half by the factual sex."""

    class Judge(AttributeClassifierModel):
        def forward(self, pixel_values, labels=None, **kwargs):
            left = pixel_values[..., :8].mean((1, 2, 3))
            zero = torch.zeros_like(left)
            logits = torch.stack([zero, zero, left, zero, zero], dim=1)
            return type("Output", (), {"logits": logits})()

    judge = Judge(classifier(7).config).eval()
    g = torch.Generator().manual_seed(0)
    factual = torch.stack(
        [torch.full((60,), 50.0), *(torch.randint(2, (60,), generator=g).float() for _ in range(3))], 1
    )
    brightness = 0.05 * torch.randn(60, generator=g) + 0.03 * (2 * factual[:, 1] - 1)
    pixels = torch.rand(60, 1, 16, 16, generator=g) * 0.02 + brightness[:, None, None, None]
    sign = {"now": 0.0}
    decode = model.image_mechanism.decode

    def amplifying(noise, parents):
        return (decode(noise, parents) + sign["now"] * (2 * parents[:, 1] - 1)[:, None, None, None]).clamp(
            -1, 1
        )

    model.image_mechanism.decode = amplifying
    do = {"view": np.zeros(60, np.float32)}
    found = []
    for sign["now"] in (0.05, 0.0, -0.05):
        records = collect(model, judge, pixels, factual, do, batch_size=60)
        results, _ = summarise(records, SCHEMA, GRAPH, list(range(60)), 0, 100)
        found.append(results["do"]["view"]["amplification"]["sex"])
    assert found[0][1] > 0 and found[2][2] < 0, "the interval must exclude 0"
    assert abs(found[1][0]) < abs(found[0][0]) and abs(found[1][0]) < abs(found[2][0])
    assert results["fid"] is None, "without embeddings there is no distance"


def test_a_subset_of_one_class_is_missing_not_made_up(parts, own_data, tmp_path):
    write_split(
        own_data, "test", range(200, 224), np.random.default_rng(1), sex="Male", findings=["Effusion"]
    )
    results = evaluate(parts, own_data, tmp_path / "out")
    assert results["real"]["sex"] == [None, None, None]
    assert results["do"]["age"]["amplification"]["sex"] == [None, None, None]
    row = results["do"]["sex"]
    assert row["effectiveness"][0] is not None and row["distance"][0] is None
    assert math.isfinite(results["mean_abs_amplification"]["auc_points"][0])
    assert "| sex (AUC) | – |" in (tmp_path / "out" / "results.md").read_text()


def package_again(parts, tmp_path, *words):
    named = {"attribute_scm": "scm", "image_mechanism": "hvae", "classifier": "classifier"}
    paths = [word for name, part in named.items() for word in (f"--{name}", parts / part)]
    return package(strings(*paths, "--output_dir", tmp_path / "again", *words))


def test_package_writes_one_repository_with_a_card(parts, data_dir, tmp_path):
    folder = parts / "deep_scm"
    files = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert files <= {p.name for p in folder.iterdir()}
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n") and "| finding | binary | No Finding, Effusion | age |" in card
    assert "Not evaluated." in card and "Not for diagnosis" in card
    assert "license" not in card and "cf-cxr/" not in card and str(parts) not in card
    assert str(parts) not in (folder / "config.json").read_text()
    assert len(DeepSCMModel.from_pretrained(folder).config.training_classifiers) == 2
    with pytest.raises(FileExistsError, match="already holds a model"):
        package(["--output_dir", str(folder)])
    evaluate(parts, data_dir, tmp_path / "out")
    again = package_again(parts, tmp_path, "--results", tmp_path / "out" / "results.json")
    card = (again / "README.md").read_text()
    assert "by an independent judge" in card and "effectiveness of do(sex)" in card


def test_half_precision_files_load_in_full_precision(parts, tmp_path):
    half = package_again(parts, tmp_path, "--storage_dtype", "float16")
    whole = DeepSCMModel.from_pretrained(parts / "deep_scm")
    loaded = DeepSCMModel.from_pretrained(half)
    stored = load_file(half / "model.safetensors")
    for name, value in whole.state_dict().items():
        if value.is_floating_point():
            assert stored[name].dtype == torch.float16 and loaded.state_dict()[name].dtype == torch.float32
            assert torch.equal(loaded.state_dict()[name], value.half().float()), name
    assert loaded.dtype == torch.float32
    with torch.no_grad():
        whole.image_mechanism.likelihood.x_loc.bias.fill_(1e6)
    with pytest.raises(ValueError, match="x_loc.bias.*1e.06, too large for float16"):
        stored_weights(whole, torch.float16)


def test_tables_of_the_first_schema_version_can_still_be_written():
    from cf_cxr.model_cards.counterfactual_results import markdown_table

    interval = [90.0, 85.0, 95.0]
    row = {
        name: interval for name in ("effectiveness", "effectiveness_changed_only", "change", "reversibility")
    } | {"effectiveness_model_classifier": interval, "exposure_share_median": 0.5}
    row |= {"amplification": {"view": [-2.0, -3.0, -1.0]}, "posterior_drift": {"view": 0.04}}
    results = {"nelbo_bits_per_dim": interval, "composition": [0.0] * 3, "real": {"sex": interval}}
    table = markdown_table(results | {"do": {"sex": row}}, SCHEMA)
    assert "| sex | – | – | -2.0 [-3.0, -1.0] | – |" in table and "| sex | – | – | 0.040 | – |" in table
