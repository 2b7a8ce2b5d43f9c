"""What is said about folders that hold no usable model."""

import pytest
from transformers import pipeline

import cf_cxr  # noqa: F401  (registers the task)
from cf_cxr.pipelines import COUNTERFACTUAL_TASK, ModelFileError
from tests.pipelines.tiny import save_tiny


@pytest.mark.parametrize(
    ("file", "damage", "error", "message"),
    [
        ("model.safetensors", lambda f: f.unlink(), ModelFileError, "has no weights.*save_pretrained"),
        (
            "model.safetensors",
            lambda f: f.write_bytes(f.read_bytes()[:-100]),
            ModelFileError,
            "damaged.*again",
        ),
        ("model.safetensors", lambda f: f.write_bytes(b"\xff" * 500), ModelFileError, "damaged.*again"),
        ("model.safetensors", lambda f: f.write_bytes(b""), ModelFileError, "damaged.*again"),
        ("config.json", lambda f: f.unlink(), (OSError, ValueError), "config.json"),
    ],
    ids=["no weights", "truncated", "overwritten", "empty", "no configuration"],
)
def test_folders_that_are_no_model(tmp_path, file, damage, error, message):
    folder = save_tiny(tmp_path)
    damage(tmp_path / file)
    with pytest.raises(error, match=message) as refusal:
        pipeline(COUNTERFACTUAL_TASK, model=folder)
    assert str(tmp_path) in str(refusal.value)
