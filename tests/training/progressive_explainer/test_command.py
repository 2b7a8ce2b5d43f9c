"""`train_explainer.py` and what it makes of its arguments."""

import json
import re

import pytest
import torch

from cf_cxr import CXRImageProcessor
from cf_cxr.black_box import BlackBoxError, StudentClassifier
from cf_cxr.black_box.adapters import load_black_box
from cf_cxr.models.anatomy_segmenter import AnatomySegmenterConfig, AnatomySegmenterModel
from cf_cxr.models.progressive_explainer import ProgressiveExplainerModel
from cf_cxr.training.loop.run_folder import OutputDirectoryError
from cf_cxr.training.progressive_explainer import command as explainer_command
from cf_cxr.training.progressive_explainer.arguments import ExplainerConfig
from tests.black_box.helpers import attribute_model
from tests.training.bad_black_boxes import MESSAGES
from tests.training.progressive_explainer.tiny_explainer import PatchClassifier

HERE = "tests.training.progressive_explainer.tiny_explainer"


def command(tmp_path, *words):
    return explainer_command.main(
        [
            *("--dataset", "phantom", "--resolution", "32", "--num_images", "40", "--cache_images", "true"),
            *("--cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "run")),
            *("--widths", "8", "8", "--max_steps", "2", "--sample_steps", "0", "--eval_steps", "2"),
            *("--per_device_train_batch_size", "2", "--use_cpu", "true", "--report_to", "none"),
            *("--logging_steps", "1", "--disable_tqdm", "true", *words),
        ]
    )


def test_a_function_without_gradients_is_explained_through_a_student(tmp_path, caplog):
    words = [
        *("--classifier", f"{HERE}:predict", "--class_name", "lower left"),
        *("--classifier_options", '{"identity": "predict 1", "threshold": 0.6}'),
        *("--segmenter", "own", "--force_student", "true"),
    ]
    with pytest.warns(UserWarning, match="does not repeat its black box"):
        command(tmp_path, *words)
    run = tmp_path / "run"
    manifest = json.loads((run / "run.json").read_text())
    black_box = load_black_box(f"{HERE}:predict", "lower left", {"identity": "predict 1", "threshold": 0.6})
    model = ProgressiveExplainerModel.from_pretrained(run)
    student = StudentClassifier.from_pretrained(run / "student")
    assert model.config.classifier_fingerprint == student.fingerprint()
    assert model.config.black_box_fingerprint == black_box.fingerprint()
    assert model.config.class_name == "lower left" and model.config.threshold == 0.6
    told = manifest["explained"]
    fidelity = student.fidelity.to_dict()
    assert told["student"] == {"fingerprint": student.fingerprint(), "fidelity": fidelity}
    assert not told["differentiable"] and told["fingerprint"] == black_box.fingerprint()
    assert sum(manifest["images_per_bin"]) == 40
    assert 0 <= manifest["metrics"]["eval_mae_black_box"] <= 1
    # an untrained student answers in few bins
    assert re.search(r"No training image has a posterior in bin \d \(.*Nothing is relabelled", caplog.text)
    with pytest.raises(OutputDirectoryError, match="already holds a run"):
        command(tmp_path, *words)
    # a resumed run takes the student that is there
    command(tmp_path, *words, "--resume_from_checkpoint", "latest", "--max_steps", "3")
    assert StudentClassifier.from_pretrained(run / "student").fingerprint() == student.fingerprint()
    assert json.loads((run / "run.json").read_text())["steps"] == 3


def test_command_with_a_differentiable_classifier_and_the_baseline(tmp_path):
    baseline = ["--segmenter", "own", "--lungs_only", "true", "--discriminator_steps", "2"]
    model = command(tmp_path, "--classifier", f"{HERE}:make_classifier", *baseline)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["mahalanobis"] >= 0 and {"adversarial", "discriminator_loss"} <= lines[0].keys()
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["arguments"]["lungs_only"] is True and "student" not in manifest["explained"]
    assert model.config.class_name == "bright patch" and model.config.change_stride == 2
    assert model.config.classifier_fingerprint == PatchClassifier().fingerprint()
    assert model.config.black_box_fingerprint is None
    assert CXRImageProcessor.from_pretrained(tmp_path / "run").usual_films["distance_limit"] > 0
    args = ExplainerConfig(init_from=str(tmp_path / "run"), use_cpu=True, report_to="none")
    longer = explainer_command.build_explainer(args, PatchClassifier(slope=2), 32)
    assert longer.config.classifier_fingerprint == PatchClassifier(slope=2).fingerprint()
    saved = ProgressiveExplainerModel.from_pretrained(tmp_path / "run")
    assert torch.equal(longer.conv_in.weight, saved.conv_in.weight)
    with pytest.raises(ValueError, match="without segment"):
        explainer_command.load_segmenter(f"{HERE}:make_classifier")


def test_black_boxes_that_cannot_be_are_refused_before_anything_is_written(tmp_path):
    for name, message in MESSAGES.items():
        black_box = ("--classifier", f"tests.training.bad_black_boxes:{name}", "--class_name", "x")
        with pytest.raises(BlackBoxError, match=message):
            command(tmp_path, *black_box, "--segmenter", "own", "--force_student", "true")
    attribute_model().save_pretrained(tmp_path / "classifier")
    with pytest.raises(BlackBoxError, match="Unknown class 'edema'.*finding=effusion"):
        command(tmp_path, "--classifier", str(tmp_path / "classifier"), "--class_name", "edema")
    assert not (tmp_path / "run").exists()


def test_command_with_a_segmenter_computes_its_masks_once(tmp_path, monkeypatch):
    folder, asked = tmp_path / "segmenter", []
    AnatomySegmenterModel(AnatomySegmenterConfig(widths=[8, 8], image_size=32)).save_pretrained(folder)
    whole = AnatomySegmenterModel.segment
    monkeypatch.setattr(
        AnatomySegmenterModel,
        "segment",
        lambda self, pixels, *rest: asked.append(len(pixels)) or whole(self, pixels, *rest),
    )
    words = ["--classifier", f"{HERE}:make_classifier", "--segmenter", str(folder)]
    for questions in (40 + 5, 0):  # training and validation images
        asked.clear()
        command(tmp_path, *words, "--overwrite_output_dir", "true")
        assert sum(asked) == questions + 2  # one of each for the labels
