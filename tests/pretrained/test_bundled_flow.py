"""The bundled causal flow, in the middle of its training: it loads, composes with the bundled model, and keeps its word."""

import numpy as np
import pytest
from transformers import pipeline

from cf_cxr import CausalFlowModel, CXRImageProcessor, DeepSCMModel
from cf_cxr.examples import example_images
from cf_cxr.pretrained import default_model_path

FLOW = default_model_path().parent / "causal-flow-nih-128"


@pytest.fixture(scope="module")
def pipe():
    landed = DeepSCMModel.from_pretrained(default_model_path())
    flow = CausalFlowModel.from_pretrained(FLOW)
    model = DeepSCMModel.from_parts(landed.attribute_scm, flow, landed.classifier)
    return pipeline("chest-xray-counterfactual", model=model, image_processor=CXRImageProcessor(size=128))


def test_null_is_exact_and_sex_follows_under_guidance(pipe):
    example = next(e for e in example_images() if e.path.name == "00000050_000.png")  # a man
    do = [{}, {"sex": "Female"}]
    null, female = pipe(example.path, attributes=example.attributes, do=do, guidance_scale=2)
    assert np.array_equal(np.asarray(null["image"]), np.asarray(null["factual_image"]))
    before, after = (female["predictions"][when]["sex"]["Female"] for when in ("before", "after"))
    assert before < 0.5 < after
    assert 2 < 127.5 * np.abs(female["difference"]).mean() < 30


def test_all_weights_together_stay_below_40_megabytes():
    assert sum(path.stat().st_size for path in FLOW.parent.glob("*/*.safetensors")) < 40e6
