"""The weights in the package: what a user sees first."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

import cf_cxr
from cf_cxr.evaluation.judges import weights_fingerprint
from cf_cxr.pretrained import default_model_path

ROOT = Path(__file__).parents[2]
PRETRAINED = default_model_path().parent


@pytest.fixture(scope="module")
def pipe():
    return pipeline("chest-xray-counterfactual")


@pytest.fixture(scope="module")
def example():
    return cf_cxr.example_images()[0]


def test_null_intervention_returns_a_real_radiograph(pipe, example):
    out = pipe(example.path, attributes=dict(example.attributes), do={})
    assert np.abs(out["difference"]).max() <= 2 / 255
    assert out["image"].tobytes() == out["factual_image"].tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_shows_the_same(pipe, example, dtype):
    half = pipeline("chest-xray-counterfactual", dtype=dtype)
    assert {p.dtype for p in half.model.parameters()} == {getattr(torch, dtype)}
    known = dict(example.attributes)
    full, out = (p(example.path, attributes=known, do={"sex": "Female", "age": 30}) for p in (pipe, half))
    assert np.abs(out["difference"] - full["difference"]).mean() < 0.5 / 127.5  # grey levels
    assert out["predictions"]["after"]["sex"]["Female"] == pytest.approx(
        full["predictions"]["after"]["sex"]["Female"], abs=0.02
    )


# The finding's text-mined labels leave the classifier unsure of any image, real ones included.
@pytest.mark.parametrize(("name", "shift"), [("sex", 0.5), ("view", 0.5), ("finding", 0.25)])
def test_interventions_convince_the_classifier_and_are_visible(pipe, name, shift):
    moved, visible = [], []
    for example in cf_cxr.example_images():
        known = dict(example.attributes)
        target = next(c for c in pipe.schema[name].categories if c != known[name])
        out = pipe(example.path, attributes=known, do={name: target})
        before, after = (out["predictions"][when][name][target] for when in ("before", "after"))
        moved.append(after - before)
        visible.append(np.abs(out["difference"]).mean() * 127.5)
    assert min(moved) > 0 and np.mean(moved) > shift
    assert np.mean(visible) > 2


def test_age_follows_the_intervention(pipe, example):
    young, old = pipe(example.path, attributes=dict(example.attributes), do=[{"age": 25}, {"age": 80}])
    assert old["predictions"]["after"]["age"]["mean"] - young["predictions"]["after"]["age"]["mean"] > 25


def test_missing_attributes_are_inferred_and_marked(pipe, example):
    out = pipe(example.path, attributes={"age": example.attributes["age"]}, do={"finding": "Effusion"})
    assert out["inferred"] == ["sex", "view", "finding"]
    assert out["factual_attributes"]["view"] == example.attributes["view"]


def test_the_bundled_judge_did_not_steer_the_training():
    config = cf_cxr.DeepSCMConfig.from_pretrained(default_model_path())
    judge = cf_cxr.AttributeClassifierModel.from_pretrained(PRETRAINED / "judge-nih-128")
    assert len(config.training_classifiers) == 2
    assert weights_fingerprint(judge) not in config.training_classifiers


def test_weights_are_small_finite_safetensors_with_a_card():
    files = [p for p in PRETRAINED.glob("[!_]*/*") if p.is_file()]
    assert sum(p.stat().st_size for p in files if p.suffix == ".safetensors") <= 40e6
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".md"}
    model = cf_cxr.DeepSCMModel.from_pretrained(default_model_path())
    assert all(torch.isfinite(p).all() for p in model.parameters())
    card = (default_model_path() / "README.md").read_text(encoding="utf-8")
    assert "Not for diagnosis" in card and "NIH Clinical Center" in card
    if (ROOT / "model_cards").is_dir():
        assert (ROOT / "model_cards" / "cf-cxr-nih-128.md").read_text(encoding="utf-8") == card


def test_bundled_files_hold_no_path_of_the_machine_they_were_made_on():
    files = sorted(PRETRAINED.rglob("*.json"))
    assert len(files) >= 8
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not re.findall(r'"/[^"]*"|"_name_or_path": "[^"]', text), file  # no value is a path
