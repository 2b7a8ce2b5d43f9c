"""`cf-cxr explain`: what it prints and writes, and what it refuses."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from cf_cxr import cli
from cf_cxr.black_box import load_image_classifier
from tests.black_box.helpers import attribute_model
from tests.pipelines.tiny import grey_image, save_tiny
from tests.pipelines.tiny_explainer import SIDE, processor, random_explainer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a classifier, of a random explainer of it, and of a causal model."""
    root = tmp_path_factory.mktemp("models")
    attribute_model().save_pretrained(root / "classifier")
    classifier = load_image_classifier(root / "classifier", "effusion")
    random_explainer(
        classifier_fingerprint=classifier.fingerprint(), class_name=classifier.class_name
    ).save_pretrained(root / "explainer")
    processor().save_pretrained(root / "explainer")
    save_tiny(root / "causal")
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with two X-rays and a file that is none."""
    monkeypatch.chdir(tmp_path)
    grey_image(0, side=40).save("a.png")
    grey_image(1, side=40).save("b.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    return tmp_path


def command(folders, *arguments, model="explainer"):
    return [
        "explain", "a.png", "--model", str(folders / model), "--classifier", str(folders / "classifier"), *arguments,
    ]  # fmt: skip


def written(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {
        "a.png",
        "b.png",
        "broken.png",
    }


def test_pictures_animation_and_record(here, folders, capsys):
    assert cli.main(command(folders, "--output", "why", "--steps", "4")) == 0
    out, err = capsys.readouterr()
    record = json.loads((here / "why" / "explanation.json").read_text())
    [entry] = record["explanations"]
    files = {"why/a_explanation.png", "why/a_explanation.gif", "why/explanation.json"}
    files |= {"why/a_counterfactual.png"} if entry["counterfactual_index"] is not None else set()
    assert written(here) == files and err == ""
    assert entry["file"] == "a.png" and entry["class_name"] == "finding=effusion"
    assert len(entry["posteriors"]) == len(entry["targets"]) <= 4
    assert f"a.png: {entry['message']}" in out and "not for diagnosis" in out
    with Image.open("why/a_explanation.gif") as file:
        assert file.n_frames == 2 * len(entry["posteriors"])
    if "counterfactual" in entry:
        with Image.open(here / "why" / entry["counterfactual"]) as picture:
            assert picture.size == (SIDE, SIDE)
    with Image.open("why/a_explanation.png") as sheet:
        assert sheet.width > 150 * (2 + len(entry["posteriors"]))


def test_many_images_of_which_one_is_broken(here, folders, capsys):
    arguments = command(
        folders, "--class_name", "finding=effusion", "--animation", "webp", "--batch-size", "2"
    )
    arguments[2:2] = ["broken.png", "b.png"]
    assert cli.main(arguments) == 1
    out, err = capsys.readouterr()
    assert re.search(r"cf-cxr: error: .*broken\.png", err) and "1 of 3 images" in err
    names = {name for name in written(here) if not name.endswith("counterfactual.png")}
    assert names == {
        f"outputs/explanation/{n}" for n in
        ("a_explanation.png", "a_explanation.webp", "b_explanation.png", "b_explanation.webp", "explanation.json")
    }  # fmt: skip
    record = json.loads((here / "outputs/explanation/explanation.json").read_text())
    assert [entry["file"] for entry in record["explanations"]] == ["a.png", "broken.png", "b.png"]
    assert "error" in record["explanations"][1]


def test_a_causal_model_explains_another_classifier(here, folders, capsys):
    arguments = command(
        folders, "--class-name", "effusion", "--variable", "finding=Effusion", "--attribute", "age=63",
        "--animation", "none", "--steps", "3", "--output", "why", model="causal",
    )  # fmt: skip
    assert cli.main(arguments) == 0, capsys.readouterr().err
    [entry] = json.loads((here / "why" / "explanation.json").read_text())["explanations"]
    assert entry["method"] == "causal" and len(entry["posteriors"]) == 3
    np.testing.assert_allclose(entry["posteriors"][0], entry["source_posterior"], atol=1e-3)


def test_existing_files_are_only_replaced_when_asked(here, folders, capsys):
    (here / "why").mkdir()
    (here / "why" / "explanation.json").write_text("mine")
    (here / "why" / "a_counterfactual.png").write_text("of an earlier run")
    arguments = command(folders, "--output", "why", "--animation", "none")
    no_model = [*arguments[:3], "./no/model", *arguments[4:]]
    assert cli.main(no_model) == 2  # before anything is loaded
    assert re.search(r"a_counterfactual.png exists \(and 1 more", capsys.readouterr().err)
    assert (here / "why" / "explanation.json").read_text() == "mine"
    assert cli.main([*arguments, "--overwrite"]) == 0
    [entry] = json.loads((here / "why" / "explanation.json").read_text())["explanations"]
    assert (here / "why" / "a_counterfactual.png").exists() == (entry["counterfactual_index"] is not None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "a.png"], "a.png: this is a file; give a directory"),
        (["--steps", "1"], "steps must be a whole number of at least 2"),
        (["--target", "7"], "target must be a posterior"),
        (["--class-name", "edema"], "Unknown class 'edema'.*finding=effusion"),
        (
            ["--class-name", "site=A"],
            "trained for the classifier of 'finding=effusion'.*of 'site=A'.*force=True",
        ),
        (["--attribute", "age=3"], "attributes is for a causal model"),
        (["--attribute", "age"], "write NAME=VALUE"),
        (["--device", "toaster"], "--device toaster"),
    ],
)
def test_usage_errors_are_explained_and_write_nothing(here, folders, capsys, arguments, message):
    assert cli.main(command(folders, *arguments)) == 2
    err = capsys.readouterr().err
    assert err.startswith("cf-cxr: error: ") and re.search(message, err) and "Traceback" not in err
    assert written(here) == set()


def test_force_shows_another_classifier_with_a_caution(here, folders, capsys):
    arguments = command(
        folders, "--class-name", "site=A", "--force", "--animation", "none", "--output", "why"
    )
    assert cli.main(arguments) == 0
    assert "cf-cxr: warning: The explainer was trained for" in capsys.readouterr().err
    [entry] = json.loads((here / "why" / "explanation.json").read_text())["explanations"]
    assert "force=True was given" in entry["warnings"][0]


def test_help_teaches_by_example(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["explain", "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "cf-cxr explain chest.png" in out and "explanation.json" in out
