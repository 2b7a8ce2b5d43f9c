"""Ground truth of a phantom: the true counterfactual, what a perfect image mechanism scores, the ideal observer."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cf_cxr import DeepSCMModel
from cf_cxr.data.phantom import ChestPhantom, PhantomConfig
from cf_cxr.evaluation.counterfactuals.collecting import Collector
from cf_cxr.evaluation.counterfactuals.command import main
from cf_cxr.evaluation.counterfactuals.data import PHANTOM_MARGINAL
from cf_cxr.evaluation.counterfactuals.phantom_truth import TrueCounterfactuals
from cf_cxr.evaluation.counterfactuals.summary import summarise
from tests.evaluation.tiny_evaluation import classifier, strings

PHANTOM = ChestPhantom(PhantomConfig(resolution=16))


def batch(n=12):
    attributes, noise = PHANTOM.attributes_at(3, range(n)), PHANTOM.noise_at(3, range(n))
    rng = np.random.default_rng(0)
    do = {"sex": rng.integers(0, 2, n), "site": rng.integers(0, 3, n), "finding": rng.integers(0, 2, n)}
    return {
        "pixel_values": PHANTOM.render(attributes, noise).pixel_values,
        "attributes": attributes,
        "noise": noise,
        "do": {"age": torch.full((n,), 90.0)} | {k: torch.tensor(v).float() for k, v in do.items()},
    }


class PerfectMechanism(torch.nn.Module):
    """The phantom itself as an image mechanism."""

    def abduct(self, pixel_values, parents, generator=None, sample=False):
        rows = [int((self.real == x).flatten(1).all(1).nonzero()[0, 0]) for x in pixel_values]
        return self.noise[rows]

    def decode(self, noise, parents):
        return PHANTOM.render(PHANTOM.schema.decode(parents), noise).pixel_values


def perfect_records(phantom_parts, data):
    model = DeepSCMModel.from_pretrained(phantom_parts / "deep_scm").eval()
    mechanism = PerfectMechanism()
    mechanism.real, mechanism.noise = data["pixel_values"], data["noise"]
    model.image_mechanism = mechanism
    collector = Collector(
        model, classifier(7, "phantom"), num_cycle_images=0, truth=TrueCounterfactuals(PHANTOM)
    )
    collector._reversibility = lambda *args: {}  # it would abduct images that this mechanism does not know
    return model, collector(0, 0, data)


def test_a_perfect_mechanism_has_no_error_and_scores_what_the_oracle_scores(phantom_parts):
    data = batch()
    model, records = perfect_records(phantom_parts, data)
    assert np.isnan(records["real/nll"]).all(), "it has no likelihood"
    for k in ("age", "sex", "site", "finding"):
        moved = (records[f"do/{k}/attributes"] != records["factual"]).any(1)
        assert moved.any()
        error = records[f"do/{k}/error"]
        assert np.isnan(error).tolist() == (~moved).tolist()
        assert np.nanmax(error) < 1e-2  # ages go through the parent vector and back
        assert np.nanmax(records[f"do/{k}/identity_inside"]) > 1
        np.testing.assert_array_equal(records[f"do/{k}/true_attributes"], records[f"do/{k}/attributes"])
    results, _ = summarise(records, PHANTOM.schema, PHANTOM.graph, range(12), 0, 20)
    assert "nelbo_bits_per_dim" not in results
    for k, row in results["do"].items():
        assert row["oracle_effectiveness"] == pytest.approx(row["effectiveness"], abs=0.02)
        for j, cell in row["amplification"].items():
            assert row["oracle_amplification"][j] == pytest.approx(cell, abs=0.02), (k, j)
            assert row["oracle_posterior_drift"][j] == pytest.approx(row["posterior_drift"][j], abs=0.01)
    assert results["mean_error"][0] < 1e-2
    assert results["mean_abs_amplification_to_oracle"]["auc_points"][0] < 0.02


def test_errors_are_those_of_the_images_inside_and_outside_what_may_change():
    """do(finding) of images that are left alone, but for one pixel that nothing may touch."""
    data = batch()
    pixels, factual, noise = data["pixel_values"], data["attributes"], data["noise"]
    changed = factual.clone()
    changed[:, 3] = 1 - factual[:, 3]
    changed[0] = factual[0]
    true = PHANTOM.render(changed, noise)
    mask = true.touch_mask | (true.pixel_values != pixels)
    assert not mask[:, :, 0, 0].any()
    image = pixels.clone()
    image[:, :, 0, 0] += torch.where(image[:, :, 0, 0] > 0, -0.2, 0.2)
    records, images = TrueCounterfactuals(PHANTOM)(
        pixels, factual, noise, {"finding": image}, {"finding": changed}
    )
    inside, outside = (records[f"do/finding/error_{where}"] for where in ("inside", "outside"))
    assert inside[0].isnan() and outside[0].isnan(), "nothing was intervened on"
    for i in range(1, 12):
        difference = (pixels[i] - true.pixel_values[i]).abs()[mask[i]].mean() * 127.5
        assert float(inside[i]) == pytest.approx(float(difference), abs=1e-3)
        assert float(outside[i]) == pytest.approx(0.2 * 127.5 / int((~mask[i]).sum()), abs=1e-3)
    torch.testing.assert_close(inside[1:], records["do/finding/identity_inside"][1:])
    torch.testing.assert_close(images["finding"], true.pixel_values)


def test_the_command_on_the_phantom(phantom_parts, tmp_path):
    """Rows are matched with their own noise; the ideal observer is scored; interventions follow the training marginal."""
    words = strings(
        "--model", phantom_parts / "deep_scm", "--judge", phantom_parts / "judge", "--dataset", "phantom", "--num_images", 12,
        "--cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "out", "--n_resamples", 20, "--batch_size", 8,
        "--num_cycle_images", 2, "--cpu", "--disable_tqdm",
    )  # fmt: skip
    results = main(words)
    indices = 2 * 10**9 + np.arange(12)
    factual, noise = PHANTOM.attributes_at(42, indices), PHANTOM.noise_at(42, indices)
    bayes = PHANTOM.bayes_posterior(factual, noise)
    assert results["bayes"]["sex"][0] == pytest.approx(
        100 * roc_auc_score(factual[:, 1], bayes.sex), abs=1e-3
    )
    age = float((bayes.age_median - factual[:, 0]).abs().mean())
    assert results["bayes"]["age"][0] == pytest.approx(age, abs=1e-3)
    truth = {"error_inside", "error_outside", "oracle_effectiveness", "oracle_amplification"}
    assert set(results["do"]["sex"]) >= truth
    assert results["identity"]["images"] == 12 and results["identity"]["patients"] == 12
    assert "error inside" in (tmp_path / "out" / "results.md").read_text()
    assert {p.name for p in (tmp_path / "out" / "plots").iterdir()} >= {"effectiveness.png", "examples.png"}
    marginal = PHANTOM.attributes_at(42, range(PHANTOM_MARGINAL))[:, 0].numpy()
    from safetensors.numpy import load_file

    ages = load_file(tmp_path / "out" / "records" / "batch-000000.safetensors")["do/age/attributes"][:, 0]
    assert np.isin(ages, marginal).all()
    with pytest.raises(ValueError, match="'train' has 1 patients of the training split"):
        main([*words, "--split", "train", "--overwrite_output_dir"])
