"""Push to a Hub and load from it, with the real client, through `transformers.pipeline`."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from transformers import pipeline

import cf_cxr  # noqa: F401  (registers the task)
from tests.hub_server import LocalHub
from tests.pipelines.tiny import grey_image, save_tiny

TASK = "chest-xray-counterfactual"
QUESTION = {
    "attributes": {"age": 63, "sex": "Male", "site": "A", "finding": "Effusion"},
    "do": {"sex": "Female"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_tiny(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("image") / "chest.png"
    grey_image(0, side=40).save(path)
    return str(path)


def run_client(hub: LocalHub, home: Path, script: str, **variables: str) -> dict:
    """Runs a script in a fresh process that knows only this Hub; returns the JSON of its last line."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_nobody",
        "HF_HUB_DISABLE_XET": "1",
    }
    header = "import json, os, numpy as np, cf_cxr\nfrom transformers import pipeline\n"
    done = subprocess.run(
        [sys.executable, "-c", header + textwrap.dedent(script)],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_pushed_model_comes_back_from_the_hub_and_gives_the_same_counterfactual(folder, image, tmp_path):
    script = f"""
    pipeline("{TASK}", model=os.environ["FOLDER"]).push_to_hub("cf-cxr/tiny")
    pipe = pipeline("{TASK}", model="cf-cxr/tiny")
    out = pipe(os.environ["IMAGE"], **json.loads(os.environ["QUESTION"]))
    print(json.dumps({{"image": np.asarray(out["image"]).tolist(), "class": type(pipe.image_processor).__name__}}))
    """
    with LocalHub() as hub:
        result = run_client(hub, tmp_path, script, FOLDER=folder, IMAGE=image, QUESTION=json.dumps(QUESTION))
        files = hub.repositories["cf-cxr/tiny"].files
        # No code travels with the weights, so nobody has to trust remote code.
        assert set(files) == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
        assert files["model.safetensors"] == (Path(folder) / "model.safetensors").read_bytes()
        assert "custom_pipelines" not in json.loads(files["config.json"])
        card = ModelCard(files["README.md"].decode())
        assert card.data.library_name == "cf_cxr" and card.data.pipeline_tag == "image-to-image"
        assert TASK in card.data.tags and card.data.license is None
        assert "import cf_cxr" in card.text and f'pipeline("{TASK}", model="cf-cxr/tiny")' in card.text
        assert "| sex | binary | Male, Female |" in card.text and "automatically generated" not in card.text
        assert any(r.startswith("GET /cf-cxr/tiny/resolve/") for r in hub.requests)
    assert result["class"] == "CXRImageProcessor"
    expected = pipeline(TASK, model=folder)(image, **QUESTION)
    np.testing.assert_array_equal(np.array(result["image"]), np.asarray(expected["image"]))
    assert np.abs(expected["difference"]).max() > 0.05  # the comparison is of an image that changed


def test_pushed_cards_of_models_and_packages(folder, tmp_path):
    """Of a part, of a model with a card of its own, of one that was trained on, and where a card is there already."""
    carded = tmp_path / "carded"
    shutil.copytree(folder, carded)
    text = "---\nlicense: cc0-1.0\n---\n\nMine.\n\nmodel='path/to/tiny'\n"
    (carded / "README.md").write_text(text, encoding="utf-8")
    script = """
    from cf_cxr import DeepSCMModel
    from cf_cxr.packaging.deep_scm import main as package
    model = DeepSCMModel.from_pretrained(os.environ["CARDED"])
    model.classifier.push_to_hub("me/part", tags=["special"])
    model.push_to_hub("me/own")
    model.push_to_hub("me/there")
    words = ["--output_dir", os.path.join(os.environ["OUT"], "whole"), "--storage_dtype", "float16"]
    for name in ("attribute_scm", "image_mechanism", "classifier"):
        getattr(model, name).save_pretrained(os.path.join(os.environ["OUT"], name))
        words += ["--" + name, os.path.join(os.environ["OUT"], name)]
    package([*words, "--push_to_hub", "me/whole"])
    next(model.parameters()).data.add_(1.0)
    model.push_to_hub("me/trained")
    print(json.dumps(None))
    """
    with LocalHub() as hub:
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "README.md").write_text("Theirs.", encoding="utf-8")
        hub.add_folder("me/there", tmp_path / "there")
        run_client(hub, tmp_path, script, CARDED=str(carded), OUT=str(tmp_path))
        package = hub.repositories["me/whole"].files
        cards = {
            name: repository.files["README.md"].decode() for name, repository in hub.repositories.items()
        }
    assert "Mine." in cards["me/own"] and 'model="me/own"' in cards["me/own"] and "cc0-1.0" in cards["me/own"]
    assert "Theirs." in cards["me/there"]
    assert "Mine." not in cards["me/trained"] and "Not evaluated." in cards["me/trained"]
    assert 'AttributeClassifierModel.from_pretrained("me/part")' in cards["me/part"]
    assert {"library_name: cf_cxr", "- special"} <= set(cards["me/part"].splitlines())
    for path in (tmp_path / "whole").iterdir():  # a package is pushed as it lies there
        assert package[path.name] == path.read_bytes(), path
    assert 'model="me/whole"' in cards["me/whole"] and "license" not in cards["me/whole"]
    assert str(tmp_path) not in package["config.json"].decode()


def test_damaged_download_unknown_name_and_cached_copy(folder, image, tmp_path):
    script = f"""
    answers = {{}}
    for name in ("cf-cxr/damaged", "cf-cxr/absent"):
        try:
            pipeline("{TASK}", model=name)
        except Exception as error:
            answers[name] = [type(error).__name__, str(error)]
    pipeline("{TASK}", model="cf-cxr/good")
    print(json.dumps(answers))
    """
    with LocalHub() as hub:
        hub.add_folder("cf-cxr/good", Path(folder))
        hub.add_folder("cf-cxr/damaged", Path(folder))
        weights = hub.repositories["cf-cxr/damaged"].files
        weights["model.safetensors"] = weights["model.safetensors"][:1000]
        answers = run_client(hub, tmp_path, script)
    kind, message = answers["cf-cxr/damaged"]
    assert kind == "ModelFileError" and "cf-cxr/damaged" in message and "force_download" in message
    assert "cf-cxr/absent" in answers["cf-cxr/absent"][1]

    offline = f"""
    out = pipeline("{TASK}", model="cf-cxr/good")(os.environ["IMAGE"], do={{}})
    print(json.dumps(out["inferred"]))
    """
    inferred = run_client(hub, tmp_path, offline, IMAGE=image, HF_HUB_OFFLINE="1")  # the server is gone
    assert inferred == ["age", "sex", "site", "finding"]


def test_default_model_is_loaded_without_the_hub(folder, image, tmp_path):
    script = f"""
    from transformers.pipelines import PIPELINE_REGISTRY
    from cf_cxr.pipelines import default_model_path
    model, revision = PIPELINE_REGISTRY.supported_tasks["{TASK}"]["default"]["model"]
    assert model == str(default_model_path()), model
    if not os.path.isdir(model):  # a checkout without the bundled weights
        PIPELINE_REGISTRY.supported_tasks["{TASK}"]["default"]["model"] = (os.environ["FOLDER"], "main")
    out = pipeline("{TASK}")(os.environ["IMAGE"], do={{}})
    print(json.dumps(float(abs(out["difference"]).max())))
    """
    with LocalHub() as hub:
        change = run_client(hub, tmp_path, script, FOLDER=folder, IMAGE=image)
        assert hub.requests == []
    assert change <= 2 / 255
