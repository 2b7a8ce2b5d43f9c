"""The explainer in the package: what `pipeline("chest-xray-explanation")` shows without any argument."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

import cf_cxr
from cf_cxr.cli.main import main
from cf_cxr.pretrained import default_explainer_path, default_model_path


@pytest.fixture(scope="module")
def pipe():
    return pipeline("chest-xray-explanation")


@pytest.fixture(scope="module")
def explanations(pipe):
    return pipe([example.path for example in cf_cxr.example_images()], batch_size=4)


def test_every_example_is_explained(explanations):
    for e in explanations:
        assert e.valid, e.message
        assert e.message.startswith("Valid: ") and e.warnings == ()
        assert len(e) >= 5 and e.class_name == "finding=Effusion" and e.operating_point == 0.1
        before, after = e.source_posterior >= e.threshold, e.posteriors[-1] >= e.threshold
        assert before != after and e.counterfactual is e.images[e.counterfactual_index]


def test_half_precision_explains_the_same(explanations):
    half = pipeline("chest-xray-explanation", dtype="float16")(cf_cxr.example_images()[0].path)
    assert half.counterfactual_index == explanations[0].counterfactual_index
    assert half.posteriors == pytest.approx(explanations[0].posteriors, abs=0.03)


def test_the_posterior_follows_what_was_asked_for(explanations):
    errors = []
    for e in explanations:
        assert np.corrcoef(e.targets, e.posteriors)[0, 1] > 0.9
        errors.append(np.abs(np.subtract(e.shifted["targets"], e.shifted["posteriors"])).mean())
    assert np.mean(errors) < 0.15


def test_both_pipelines_say_the_same_of_one_classifier(explanations):
    counterfactuals = pipeline("chest-xray-counterfactual")
    for example, e in zip(cf_cxr.example_images(), explanations):
        said = counterfactuals(example.path, do={})["predictions"]["before"]["finding"]["Effusion"]
        assert e.source_posterior == pytest.approx(said, abs=1e-4)
        assert e.threshold == pytest.approx(0.1) and f"{said:.2f} to" in e.message


def test_the_change_is_a_small_part_of_the_radiograph_and_spares_black_borders(explanations):
    for e in explanations:
        change = np.abs(e.difference)
        assert 0.5 < change.mean() * 127.5 < 20
        black = np.asarray(e.source_image) <= 2
        black[8:-8, 8:-8] = False
        if black.sum() > 100:
            assert change[black].mean() * 127.5 < 6


def test_the_folder_of_the_bundled_model_is_the_same_classifier(pipe, explanations):
    example = cf_cxr.example_images()[0]
    e = pipe(example.path, classifier=str(default_model_path()))
    assert (
        e.source_posterior == pytest.approx(explanations[0].source_posterior, abs=1e-5) and e.warnings == ()
    )


def test_noise_is_said_to_be_no_radiograph(pipe):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    with pytest.warns(cf_cxr.OutOfDistributionWarning, match="unlike those"):
        e = pipe(Image.fromarray(noise))
    assert "unlike those" in e.warnings[0]


def test_the_command_explains_without_options(tmp_path, capsys):
    image = str(cf_cxr.example_images()[0].path)
    assert main(["explain", image, "--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "explanation.json").read_text(encoding="utf-8"))
    assert record["explanations"][0]["valid"] is True
    with Image.open(next(tmp_path.glob("*.gif"))) as animation:
        assert animation.is_animated and animation.n_frames >= 5
    assert Image.open(next(tmp_path.glob("*_explanation.png"))).width > 500
    assert "Valid" in capsys.readouterr().out


def test_the_card_has_the_measured_numbers():
    card = (default_explainer_path() / "README.md").read_text(encoding="utf-8")
    assert "slope" in card and "commit `" in card and "Not for diagnosis" in card
