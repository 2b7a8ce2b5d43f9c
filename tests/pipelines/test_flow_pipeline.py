"""The counterfactual pipeline and command with a causal flow inside: as with the HVAE, and the flow's own options."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.utils import logging

import cf_cxr  # noqa: F401  (registers the task)
from cf_cxr import DeepSCMConfig
from cf_cxr.cli import main as cli
from cf_cxr.models.deep_scm import DeepSCMModel
from cf_cxr.pipelines import COUNTERFACTUAL_TASK
from tests.pipelines.tiny import SCHEMA, SIDE, grey_image, save_tiny, tiny_model

KNOWN = {"age": 63, "sex": "Male", "site": "B", "finding": "No Finding"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save_tiny(tmp_path_factory.mktemp("flow"), "flow")


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline(COUNTERFACTUAL_TASK, model=folder)


def change(result) -> float:
    """Mean |difference| in grey levels."""
    return 127.5 * float(np.abs(result["difference"]).mean())


def test_counterfactual_and_null_from_a_saved_folder(pipe):
    there, null = pipe(grey_image(0), attributes=KNOWN, do=[{"sex": "Female"}, {}])
    assert there["image"].size == (SIDE, SIDE) and there["attributes"] == {**KNOWN, "sex": "Female"}
    assert change(there) > 1
    assert np.array_equal(np.asarray(null["image"]), np.asarray(null["factual_image"]))
    assert change(null) < 0.01


def test_steps_and_guidance_reach_the_mechanism(pipe):
    calls = []
    handle = pipe.model.image_mechanism.unet.register_forward_pre_hook(
        lambda module, inputs: calls.append(len(inputs[0]))
    )
    plain = pipe(grey_image(0), attributes=KNOWN, do={"sex": "Female"}, num_inference_steps=3)
    assert calls == [1] * (5 + 4)
    calls.clear()
    options = {"num_inference_steps": 3, "guidance_scale": {"sex": 3.0}}
    more = pipe(grey_image(0), attributes=KNOWN, do={"sex": "Female"}, **options)
    handle.remove()
    assert calls == [1] * 5 + [2] * 4
    assert change(more) > 1.2 * change(plain)
    seeded = pipe(grey_image(0), attributes=KNOWN, do={"sex": "Female"}, seed=0, **options)
    np.testing.assert_allclose(seeded["difference"], more["difference"], atol=1e-4)


def test_options_given_when_the_pipeline_is_built(folder, pipe):
    built = pipeline(COUNTERFACTUAL_TASK, model=folder, guidance_scale=3.0)
    first = built(grey_image(0), attributes=KNOWN, do={"sex": "Female"})
    second = pipe(grey_image(0), attributes=KNOWN, do={"sex": "Female"}, guidance_scale=3.0)
    np.testing.assert_allclose(first["difference"], second["difference"], atol=1e-4)


def test_progress_bar(pipe, capsys):
    logging.enable_progress_bar()  # the command, tested in the same process, switches bars off
    pipe(grey_image(0), attributes=KNOWN, do={"sex": "Female"}, show_progress=True)
    assert "Flow" in capsys.readouterr().err


def test_what_a_flow_cannot_do_is_said(pipe):
    with pytest.raises(ValueError, match="no posterior"):
        pipe(grey_image(0), do={"sex": "Female"}, num_samples=2)
    with pytest.raises(TypeError, match="guidance_scale"):
        pipe(grey_image(0), do={"sex": "Female"}, guidance_strength=2)
    hvae = tiny_model()
    with pytest.raises(TypeError, match="CausalHVAEModel has no option guidance_scale"):
        hvae.counterfactual(torch.zeros(1, 1, SIDE, SIDE), [KNOWN], {"sex": "Female"}, guidance_scale=2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(folder, dtype):
    half = pipeline(
        COUNTERFACTUAL_TASK,
        model=DeepSCMModel.from_pretrained(folder).to(getattr(torch, dtype)),
        image_processor=folder,
    )
    there, null = half(grey_image(0), attributes=KNOWN, do=[{"sex": "Female"}, {}])
    assert change(there) > 1 and change(null) <= 0.5


def test_unknown_attributes_are_hidden_from_the_flow():
    model = tiny_model(mechanism="flow")
    pixels = torch.zeros(2, 1, SIDE, SIDE)
    unknown = SCHEMA.to_tensor([{"age": 40}, {"sex": "Male"}], allow_missing=True)
    seen = []
    model.image_mechanism.attribute_embedding.register_forward_pre_hook(
        lambda m, inputs: seen.append(inputs[0])
    )
    assert torch.isfinite(model(pixels, unknown).loss)
    assert seen[0].isnan().tolist() == [[False] + [True] * 5, [True, False] + [True] * 4]


def test_attributes_of_flow_and_model_must_agree():
    config = tiny_model(mechanism="flow").config.to_dict()
    config["image_config"]["attribute_names"] = ["sex", "age", "site", "finding"]
    with pytest.raises(Exception, match="attribute_names"):
        DeepSCMConfig(**config)


def test_command_passes_options(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    grey_image(0, side=40).save("a.png")
    command = ["counterfactual", "a.png", "--model", folder, "--attribute", "sex=Male", "--do", "sex=Female"]

    def mean_change(*options):
        assert cli.main([*command, *options, "--overwrite"]) == 0
        out = capsys.readouterr().out
        return float(out.split("do(sex=Female)")[1].split("/255")[0])

    plain = mean_change("--option", "num_inference_steps=4")
    assert (
        mean_change("--option", "num_inference_steps=4", "--option", "guidance_scale={sex: 3, age: 1}")
        > plain
    )
    assert Image.open("outputs/a_counterfactual.png").width > 2 * SIDE
    for wrong, words in (
        ("guidance=much", "factual"),
        ("strength=2", "guidance_scale"),
        ("guidance=[", "cannot be read"),
    ):
        assert cli.main([*command, "--option", wrong, "--overwrite"]) == 2
        assert words in capsys.readouterr().err
