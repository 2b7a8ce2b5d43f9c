"""The causal flow as a stage: a run learns, resumes to the same bits, is packaged and evaluated like any mechanism."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel

from cf_cxr import CausalFlowModel, CXRImageProcessor, cxr_schema
from cf_cxr.data.phantom import ChestPhantom, PhantomConfig
from cf_cxr.evaluation.counterfactuals.command import main as evaluate
from cf_cxr.models.deep_scm import DeepSCMModel
from cf_cxr.packaging.deep_scm import main as package
from cf_cxr.training.causal_flow.trainer import FlowConfig, build_flow_config, main, opposite
from cf_cxr.training.counterfactual_finetuning.command import main as finetune
from tests.evaluation.tiny_evaluation import build_parts, command, strings, write_data
from tests.training.loop.tiny import SCHEMA


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "parquet")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return build_parts(tmp_path_factory.mktemp("parts"))


def train(data_dir, parts, out, *words):
    return main(
        strings(
            "--data_dir", data_dir, "--resolution", 16, "--output_dir", out, "--cache_dir", parts / "cache",
            "--per_device_train_batch_size", 4, "--warmup_steps", 2, "--save_steps", 3, "--sample_steps", 3, "--eval_steps", 3,
            "--report_to", "none", "--disable_tqdm", "True", "--use_cpu", *words,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(data_dir, parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("flow")
    train(data_dir, parts, out, "--max_steps", 6)
    return out


def test_run_leaves_a_model_and_counterfactual_pictures(run):
    model = AutoModel.from_pretrained(run)
    assert type(model) is CausalFlowModel
    assert model.config.attribute_names == ["age", "sex", "view", "finding"]
    with Image.open(run / "samples" / "step_00000003_samples.png") as picture:
        assert picture.height == 5 * 18 - 2 and picture.width % 18 == 16  # factual, and one row per attribute
        pixels = np.asarray(picture)
    assert (pixels[18:34] != pixels[:16]).any()
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["finished"] and 0 < manifest["metrics"]["eval_loss"] < 3
    assert CXRImageProcessor.from_pretrained(run).usual_films


def test_start_from_trained_weights(run, data_dir, parts, tmp_path):
    train(data_dir, parts, tmp_path, "--max_steps", 1, "--learning_rate", 1e-12, "--init_from", run)
    first, second = (load_file(folder / "model.safetensors") for folder in (run, tmp_path))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)


def test_augmentation_changes_training_images_only(run, data_dir, parts, tmp_path):
    train(data_dir, parts, tmp_path, "--max_steps", 6, "--augmentation", "geometry")
    first, second = (load_file(folder / "model.safetensors") for folder in (run, tmp_path))
    assert any(not torch.equal(first[k], second[k]) for k in first)


def test_packaged_and_evaluated_like_any_mechanism(run, data_dir, parts, tmp_path):
    model = package(
        strings(
            "--attribute_scm", parts / "scm", "--image_mechanism", run, "--classifier", parts / "classifier",
            "--output_dir", parts / "deep_scm", "--storage_dtype", "float16",
        )
    )  # fmt: skip
    assert isinstance(DeepSCMModel.from_pretrained(model).image_mechanism, CausalFlowModel)
    assert (
        CXRImageProcessor.from_pretrained(model).to_dict() == CXRImageProcessor.from_pretrained(run).to_dict()
    )
    words = ("--mechanism_options", "{num_inference_steps: 2, guidance_scale: {finding: 4}}")
    plain = evaluate(command(parts, data_dir, tmp_path / "plain"))
    strong = evaluate(command(parts, data_dir, tmp_path / "strong", *words))
    assert plain["composition"][0] < 0.01
    changes = [results["do"]["finding"]["change"][0] for results in (plain, strong)]
    assert changes[1] > 1.5 * changes[0] > 0
    with pytest.raises(TypeError, match="no option omega"):
        evaluate(command(parts, data_dir, tmp_path / "wrong", "--mechanism_options", "{omega: 2}"))
    with pytest.raises(ValueError, match="must be a mapping"):
        evaluate(command(parts, data_dir, tmp_path / "wrong", "--mechanism_options", "2"))


def test_finetuning_a_flow_is_refused_in_words(run, data_dir, parts, tmp_path):
    with pytest.raises(ValueError, match="CausalFlowModel.*free"):
        finetune(
            strings(
                "--image_mechanism", run, "--attribute_scm", parts / "scm", "--classifiers", parts / "classifier",
                "--data_dir", data_dir, "--resolution", 16, "--output_dir", tmp_path, "--use_cpu",
            )
        )  # fmt: skip


def test_opposite_takes_the_next_class_and_the_far_side():
    raw = torch.tensor([[10.0, 0.0, 2.0], [90.0, 1.0, 0.0], [50.0, torch.nan, 1.0]])
    assert opposite(raw, SCHEMA, "age")[:, 0].tolist() == [80.0, 20.0, 20.0]
    assert opposite(raw, SCHEMA, "sex")[:, 1].tolist() == [1.0, 0.0, 0.0]
    assert opposite(raw, SCHEMA, "site")[:, 2].tolist() == [0.0, 1.0, 2.0]
    assert torch.equal(opposite(raw, SCHEMA, "site")[:, :1], raw[:, :1])


def test_a_resolution_without_preset_needs_shape():
    with pytest.raises(ValueError, match="--resolution 48"):
        build_flow_config(FlowConfig(), 48, SCHEMA)
    config = build_flow_config(FlowConfig(patch_size=4, block_out_channels=[32, 64]), 48, SCHEMA)
    assert config.attribute_sizes == [1, 1, 3] and config.context_dim == 5


@pytest.mark.slow
def test_a_phantom_counterfactual_is_nearer_to_the_truth_than_the_start():
    """Half a minute of training at 16 x 16: under do(sex), x* is nearer to the re-rendered image than x is."""
    schema, _ = cxr_schema("phantom")
    phantom = ChestPhantom(PhantomConfig(resolution=16))
    attributes, noise = phantom.attributes_at(0, range(4100)), phantom.noise_at(0, range(4100))
    x = phantom.render(attributes, noise).pixel_values
    torch.manual_seed(0)
    model = CausalFlowModel(build_flow_config(FlowConfig(), 16, schema)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=500)
    parents = schema.encode(attributes)
    for _ in range(500):
        rows = torch.randint(4000, (64,))
        loss = model(x[rows], parents[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    changed = opposite(attributes[4000:], schema, "sex")
    truth = phantom.render(changed, noise[4000:]).pixel_values
    with torch.no_grad():
        found = model.decode(model.abduct(x[4000:], parents[4000:]), schema.encode(changed))
    errors = [(image - truth).abs().flatten(1).mean(1) for image in (found, x[4000:])]
    assert errors[0].mean() < 0.85 * errors[1].mean()
    assert (errors[0] < errors[1]).float().mean() > 0.8
