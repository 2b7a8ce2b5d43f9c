"""Weights from outside are never unpickled, and an index does not lead out of its folder."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, ResNetConfig, ResNetForImageClassification, pipeline
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import cf_cxr
from cf_cxr.black_box import BlackBoxError, StudentClassifier, load_image_classifier
from cf_cxr.black_box.adapters import load_black_box
from cf_cxr.cli.main import main as cli
from cf_cxr.evaluation.explanations.command import main as evaluate_explainer
from cf_cxr.pipelines.loading import ModelFileError
from tests.pipelines.tiny import grey_image, save_tiny

REMEDY = "convert it to safetensors"


class Opened:
    """Unpickling this leaves a trace."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture(autouse=True)
def torch_load_is_not_reached(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("torch.load was reached")

    monkeypatch.setattr(torch, "load", refuse)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A DeepSCM, its classifier, and a transformers classifier."""
    folder = tmp_path_factory.mktemp("saved")
    save_tiny(folder / "deep_scm")
    cf_cxr.DeepSCMModel.from_pretrained(folder / "deep_scm").classifier.save_pretrained(folder / "attribute")
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=2
    )
    ResNetForImageClassification(config).save_pretrained(folder / "resnet")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "resnet")
    return folder


def pickled(folder, trace, indexed):
    """Replaces a folder's weights by pickled ones."""
    (folder / "model.safetensors").unlink()
    name = "pytorch_model-00001-of-00001.bin" if indexed else "pytorch_model.bin"
    (folder / name).write_bytes(pickle.dumps(Opened(trace)))
    if indexed:
        index = {"metadata": {}, "weight_map": {"x": name}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")


LOADERS = {
    "DeepSCMModel": ("deep_scm", cf_cxr.DeepSCMModel.from_pretrained, ValueError),
    "safetensors off": (
        "deep_scm",
        lambda f: cf_cxr.DeepSCMModel.from_pretrained(f, use_safetensors=False),
        ValueError,
    ),
    "AutoModel": ("deep_scm", AutoModel.from_pretrained, ValueError),
    "pipeline": ("deep_scm", lambda f: pipeline("chest-xray-counterfactual", model=str(f)), ModelFileError),
    "its classifier": ("deep_scm", lambda f: load_black_box(str(f)), BlackBoxError),
    "attribute classifier": ("attribute", load_image_classifier, BlackBoxError),
    "student": ("attribute", StudentClassifier.from_pretrained, BlackBoxError),
    "transformers classifier": ("resnet", load_image_classifier, BlackBoxError),
    "black box": ("resnet", lambda f: load_black_box(str(f)), BlackBoxError),
}


@pytest.mark.parametrize("indexed", [False, True], ids=["file", "index"])
@pytest.mark.parametrize("kind, load, error", LOADERS.values(), ids=LOADERS)
def test_pickled_weights_are_refused_before_they_are_opened(saved, tmp_path, kind, load, error, indexed):
    folder = tmp_path / "model"
    shutil.copytree(saved / kind, folder)
    if load == StudentClassifier.from_pretrained:
        config = json.loads((folder / "config.json").read_text())
        record = {"class_name": "x", "threshold": 0.5, "fidelity": {}}
        (folder / "config.json").write_text(json.dumps(config | {"distillation": record}))
    pickled(folder, tmp_path / "trace", indexed)
    with pytest.raises(error, match=REMEDY):
        load(folder)
    assert not (tmp_path / "trace").exists()


def test_pickled_weights_on_the_command_line(saved, tmp_path, capsys):
    grey_image(0, side=40).save(tmp_path / "chest.png")
    for kind in ("deep_scm", "resnet"):
        shutil.copytree(saved / kind, tmp_path / kind)
        pickled(tmp_path / kind, tmp_path / "trace", False)
    film, out = str(tmp_path / "chest.png"), ["--output", str(tmp_path / "out")]
    assert cli(["counterfactual", film, "--do", "sex=Male", "--model", str(tmp_path / "deep_scm"), *out]) != 0
    assert REMEDY in capsys.readouterr().err
    assert cli(["explain", film, "--classifier", str(tmp_path / "resnet"), *out]) != 0
    assert REMEDY in capsys.readouterr().err
    words = ["--explainer", "nobody", "--classifier", str(tmp_path / "resnet"), "--cpu"]
    with pytest.raises(BlackBoxError, match=REMEDY):
        evaluate_explainer([*words, "--output_dir", str(tmp_path / "evaluation")])
    assert not (tmp_path / "trace").exists()


def sharded(folder, shard):
    """Replaces a folder's weights by an index that names `shard`."""
    names = list(load_file(folder / "model.safetensors"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize("where", ["..", "absolute", "link", "subfolder", "pickled", "number", "backslash"])
def test_an_index_names_only_safetensors_of_its_folder(saved, tmp_path, where):
    folder = tmp_path / "model"
    shutil.copytree(saved / "attribute", folder)
    (folder / "sub").mkdir()
    for copy in (tmp_path / "outside.safetensors", folder / "sub" / "in.safetensors"):
        shutil.copy(folder / "model.safetensors", copy)
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (folder / "shard.bin").write_bytes(pickle.dumps(Opened(tmp_path / "trace")))
    names = {
        "..": "../outside.safetensors",
        "absolute": str(tmp_path / "outside.safetensors"),
        "link": "link.safetensors",
        "subfolder": "sub/in.safetensors",
        "pickled": "shard.bin",
        "number": 5,
        "backslash": "..\\outside.safetensors",
    }
    sharded(folder, names[where])
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="only safetensors files in its own folder"):
        cf_cxr.AttributeClassifierModel.from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', "[" * 100_000])
def test_an_index_that_is_none(saved, tmp_path, text):
    folder = tmp_path / "model"
    shutil.copytree(saved / "attribute", folder)
    (folder / "model.safetensors").rename(folder / "shard.safetensors")
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="index.*cannot be read"):
        cf_cxr.AttributeClassifierModel.from_pretrained(folder)


def test_good_shards_load_also_through_the_links_of_the_cache(saved, tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    shutil.copytree(saved / "attribute", snapshot)
    blobs.mkdir()
    expected = load_file(snapshot / "model.safetensors")
    save_file(expected, blobs / "123", metadata={"format": "pt"})
    sharded(snapshot, "shard.safetensors")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "shard.safetensors").symlink_to(blobs / "123")
    loaded = cf_cxr.AttributeClassifierModel.from_pretrained(snapshot).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_other_weights_named_in_a_configuration_are_refused(saved, tmp_path):
    for kind, load in (
        ("attribute", cf_cxr.AttributeClassifierModel.from_pretrained),
        ("resnet", load_image_classifier),
    ):
        shutil.copytree(saved / kind, tmp_path / kind)
        config = json.loads((tmp_path / kind / "config.json").read_text())
        config["transformers_weights"] = "other.safetensors.index.json"
        (tmp_path / kind / "config.json").write_text(json.dumps(config))
        with pytest.raises(Exception, match="transformers_weights"):
            load(tmp_path / kind)
