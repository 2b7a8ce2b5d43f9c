import pytest
import torch

from cf_cxr.models.progressive_explainer import (
    ExplainerDiscriminator,
    ExplainerDiscriminatorConfig,
    ProgressiveExplainerConfig,
    ProgressiveExplainerModel,
)
from tests.models.test_modeling_common import ModelCommonTestsMixin


def images(seed=0):
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class ExplainerTests(ModelCommonTestsMixin):
    model_class = ProgressiveExplainerModel
    options: dict = {}
    prediction = "pixel_values"
    num_hidden_states = 5

    def config(self):
        return ProgressiveExplainerConfig(
            image_size=16,
            num_bins=4,
            widths=[4, 6, 8],
            class_name="effusion",
            classifier_fingerprint="sha256:0",
            threshold=0.4,
            **self.options,
        )

    def inputs(self):
        return {"pixel_values": images(), "target_bins": torch.tensor([3, 0, 2]), "labels": images(1)}

    def batch_outputs(self, model, inputs):
        return {
            **super().batch_outputs(model, inputs),
            "series": model.series(inputs["pixel_values"], torch.tensor([1, 3])),
        }


class TestProgressiveExplainer(ExplainerTests):
    @pytest.mark.parametrize("reentrant", [False, True])
    def test_gradient_checkpointing_counts_a_batch_once(self, reentrant):
        plain, checkpointed = self.model().train(), self.model().train()
        checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
        for model in (plain, checkpointed):
            for _ in range(2):
                model(**self.inputs()).loss.backward()
        expected, got = dict(plain.named_buffers()), dict(checkpointed.named_buffers())
        assert any("running_var" in name for name in expected)
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], msg=name)


class TestWithResidualOutput(ExplainerTests):
    options = {"residual_output": True}


class TestWithGroupNorm(ExplainerTests):
    options = {"norm_type": "group", "norm_groups": 4}


class TestExplainerDiscriminator(ModelCommonTestsMixin):
    model_class = ExplainerDiscriminator
    prediction = "scores"
    num_hidden_states = 3

    def config(self):
        return ExplainerDiscriminatorConfig(image_size=16, num_bins=4, widths=[4, 6, 8])

    def inputs(self):
        return {
            "pixel_values": images(),
            "target_bins": torch.tensor([3, 1, 2]),
            "labels": torch.tensor([1, 0, 1]),
        }
