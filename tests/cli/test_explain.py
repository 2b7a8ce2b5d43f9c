"""`cf-cxr explain`: what it prints and writes, and what it refuses."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import cf_cxr
from cf_cxr.black_box import load_image_classifier
from cf_cxr.cli import explain as cli_explain
from cf_cxr.cli import main as cli
from tests.black_box.helpers import attribute_model
from tests.black_box.test_transformers_adapter import PROCESSOR, vit
from tests.pipelines.tiny import (
    SIDE,
    grey_image,
    processor_knowing,
    random_explainer,
    save_tiny,
    tiny_processor,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a classifier, of a random explainer of it, and of a causal model."""
    root = tmp_path_factory.mktemp("models")
    attribute_model().save_pretrained(root / "classifier")
    classifier = load_image_classifier(root / "classifier", "effusion")
    random_explainer(
        classifier_fingerprint=classifier.fingerprint(), class_name=classifier.class_name
    ).save_pretrained(root / "explainer")
    tiny_processor().save_pretrained(root / "explainer")
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


def test_a_picture_that_cannot_be_written_does_not_lose_the_others(here, folders, capsys, monkeypatch):
    write = cli_explain.write_png

    def fails(image, path, overwrite=False):
        if path.name.startswith("a_"):
            raise OSError("no room for a")
        write(image, path, overwrite)

    monkeypatch.setattr(cli_explain, "write_png", fails)
    arguments = command(folders, "--output", "why", "--animation", "none")
    arguments[2:2] = ["b.png"]
    assert cli.main(arguments) == 1
    assert "cf-cxr: error: a.png: no room for a" in capsys.readouterr().err
    record = json.loads((here / "why" / "explanation.json").read_text())
    assert record["explanations"][0] == {"file": "a.png", "error": "no room for a"}
    assert record["explanations"][1]["class_name"] == "finding=effusion"
    assert record["cf_cxr"] == cf_cxr.__version__ and record["weights"].startswith("sha256:")
    assert {"why/b_explanation.png", "why/explanation.json"} <= written(here)


@pytest.mark.parametrize("name", [b"bad\xff.png", b"$\\frac{$.png"])
def test_odd_file_names(here, folders, capsys, name):
    (here / os.fsdecode(name)).write_bytes((here / "a.png").read_bytes())
    arguments = command(folders, "--output", "why", "--steps", "2")
    arguments[1] = os.fsdecode(name)
    assert cli.main(arguments) == 0
    shown = name.decode("utf-8", "backslashreplace")
    assert f"{shown}: " in capsys.readouterr().out
    record = json.loads((here / "why" / "explanation.json").read_text(encoding="ascii"))
    assert record["explanations"][0]["file"] == shown


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
            "trained for the classifier of 'finding=effusion'.*of 'site=A'.*--force",
        ),
        (["--attribute", "age=3"], "attributes is for a causal model"),
        (["--attribute", "age"], "write NAME=VALUE"),
        (["--output", "why.png"], "why.png: this is a file; give a directory"),
        (["--output", "a.png/why"], "a.png is a file, but a folder is needed"),
        (["--device", "meta"], "--device meta cannot be used here"),
        (["--classifier", "/nope"], "There is no model folder '/nope'"),
    ],
)
def test_usage_errors_are_explained_and_write_nothing(here, folders, capsys, arguments, message):
    assert cli.main(command(folders, *arguments)) == 2
    err = capsys.readouterr().err
    assert err.startswith("cf-cxr: error: ") and re.search(message, err) and "Traceback" not in err
    assert written(here) == set()


def changed(name, **values):
    """A change of some entries of a JSON file."""

    def change(folder):
        entries = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**entries, **values}))

    return change


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("explainer", lambda f: (f / "model.safetensors").unlink(), "has no weights"),
        ("explainer", lambda f: (f / "model.safetensors").write_bytes(b"123"), "damaged or incomplete"),
        ("explainer", lambda f: save_file({}, f / "model.safetensors"), "weights of the Progressive.*random"),
        ("explainer", changed("config.json", num_bins=5), "other shapes than its config.json"),
        ("explainer", changed("config.json", image_size=32), "trained on images of 32 x 32.*makes 16 x 16"),
        ("explainer", changed("config.json", image_size="16"), "config.json cannot be used"),
        ("explainer", changed("config.json", threshold=7), "threshold must be in"),
        ("explainer", changed("preprocessor_config.json", usual_films=[1]), "usual_films cannot be read"),
        ("explainer", lambda f: (f / "config.json").write_text("{"), "config.json' is not a valid JSON"),
        ("explainer", lambda f: (f / "config.json").unlink(), "config.json"),
        ("explainer", lambda f: (f / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
        ("explainer", shutil.rmtree, "no model folder"),
        ("classifier", lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        ("classifier", lambda f: (f / "model.safetensors").write_bytes(b"123"), "damaged or incomplete"),
        ("classifier", changed("config.json", temperature={"finding": -1}), "must be positive and finite"),
        ("classifier", shutil.rmtree, "no model folder"),
    ],
)
def test_folders_that_are_damaged_are_named_and_nothing_is_written(
    here, folders, capsys, tmp_path_factory, part, change, message
):
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(folders / part, copy, dirs_exist_ok=True)
    change(copy)
    option = {"explainer": "--model", "classifier": "--classifier"}[part]
    assert cli.main([*command(folders), option, str(copy)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("cf-cxr: error: ") and re.search(message, err) and "Traceback" not in err
    assert len(err) < 700 and written(here) == set()


def answering(value):
    """An attribute classifier whose heads have these weights: the same answer to everything."""
    model = attribute_model()
    with torch.no_grad():
        for head in model.heads:
            head.weight.fill_(value)
    return model


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (lambda: answering(0.0), "effusion", "answers 0.5 to all of .* a constant"),
        (lambda: answering(float("nan")), "effusion", "answers nan to image 0 of 1"),
        (lambda: vit(id2label={0: "mass"}, problem_type="regression"), "mass", "looks like logits"),
        (vit, "edema", "Unknown label 'edema'.*'Cardiomegaly'"),
        (random_explainer, "effusion", "which classifies no images"),
    ],
    ids=["constant", "NaN", "logits", "unknown class", "no classifier"],
)
def test_classifiers_that_cannot_be_explained(here, folders, capsys, tmp_path_factory, make, name, message):
    folder = tmp_path_factory.mktemp("bad")
    make().save_pretrained(folder)
    PROCESSOR.save_pretrained(folder)
    assert cli.main(command(folders, "--classifier", str(folder), "--class-name", name, "--force")) == 2
    err = capsys.readouterr().err
    assert re.search(f"cf-cxr: error: .*{message}", err) and "Traceback" not in err
    assert written(here) == set()


def test_a_classifier_must_be_said_where_it_is_not_the_bundled_one(here, folders, capsys):
    assert cli.main(["explain", "a.png", "--model", str(folders / "explainer")]) == 2
    assert "command line --classifier. The explainer was trained for" in capsys.readouterr().err


def test_images_that_are_no_radiographs(here, folders, capsys):
    noise = np.random.default_rng(0).integers(0, 255, (10_000, 100, 3), dtype=np.uint8)
    Image.fromarray(noise[:64, :64]).save("b.png")
    Image.fromarray(noise[:, :20, 0]).save("a.png")
    (here / "broken.png").write_bytes((here / "b.png").read_bytes()[:2000])
    arguments = command(folders, "--animation", "none", "--output", "why", "--batch-size", "8")
    assert cli.main([*arguments[:2], "b.png", "broken.png", *arguments[2:]]) == 1
    err = capsys.readouterr().err
    for text in ("colour picture rather than a radiograph", "20 x 10000 pixels is far from square"):
        assert f"cf-cxr: warning: '{'ba'['far' in text]}.png'" in err and text in err
    assert "broken.png' is truncated or damaged" in err
    Image.new("L", (1, 1), 9).save("a.png")
    assert cli.main(command(folders, "--output", "dot")) == 1
    assert "1 x 1 pixels is too small" in capsys.readouterr().err and not (here / "dot").exists()


def test_a_query_at_its_target_and_an_unusual_image(here, folders, capsys, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(folders / "explainer", copy, dirs_exist_ok=True)
    processor_knowing(Image.fromarray(255 - np.asarray(Image.open("a.png")))).save_pretrained(copy)
    arguments = [*command(folders, "--output", "why"), "--model", str(copy)]
    assert cli.main([*arguments, "--animation", "none"]) == 0
    [entry] = json.loads((here / "why" / "explanation.json").read_text())["explanations"]
    assert (
        capsys.readouterr().err.count("cf-cxr: warning: a.png: the image looks inverted, unlike those") == 1
    )
    assert "looks inverted" in entry["warnings"][0] and entry["out_of_distribution"]["looks"] == "inverted"
    assert cli.main([*arguments, "--overwrite", "--target", str(entry["source_posterior"])]) == 0
    [entry] = json.loads((here / "why" / "explanation.json").read_text())["explanations"]
    assert entry["message"].startswith("Already at the target") and not entry["valid"]
    assert "Already at the target" in capsys.readouterr().out
    assert not (here / "why" / "a_counterfactual.png").exists()


def test_the_threshold_of_the_training_is_the_classifiers(here, folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("strict")
    classifier = load_image_classifier(folders / "classifier", "effusion", threshold=0.7)
    told = {"classifier_fingerprint": classifier.fingerprint(), "class_name": classifier.class_name}
    random_explainer(**told, threshold=0.7).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    assert (
        cli.main([*command(folders, "--output", "why", "--animation", "none"), "--model", str(folder)]) == 0
    )
    [entry] = json.loads((here / "why" / "explanation.json").read_text())["explanations"]
    assert entry["threshold"] == 0.7 and entry["warnings"] == []


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
