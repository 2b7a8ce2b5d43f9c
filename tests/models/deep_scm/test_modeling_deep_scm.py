import copy

import pytest
import torch

from cf_cxr import (
    AttributeClassifierConfig,
    AttributeSCMConfig,
    AttributeValueError,
    CausalHVAEConfig,
    DeepSCMConfig,
    DeepSCMModel,
    UnknownAttributeError,
)
from tests.models.test_modeling_common import ModelCommonTestsMixin, assert_same
from tests.pipelines.tiny import GRAPH, SCHEMA, SIDE, tiny_model

FACTUAL = [
    {"age": 50, "sex": "Male", "site": "A", "finding": "No Finding"},
    {"age": 71.5, "sex": "Female", "site": "C", "finding": "Effusion"},
    {"age": 8, "sex": "Male", "site": "B", "finding": "No Finding"},
]


class TestDeepSCM(ModelCommonTestsMixin):
    model_class = DeepSCMModel
    num_hidden_states = 3

    def config(self):
        return tiny_model().config

    def inputs(self):
        g = torch.Generator().manual_seed(5)
        return {
            "pixel_values": torch.rand(3, 1, SIDE, SIDE, generator=g) * 2 - 1,
            "attributes": SCHEMA.to_tensor(FACTUAL),
        }

    def batch_outputs(self, model, inputs):
        outputs = model.counterfactual(**inputs, do=[{"sex": "Female"}, {"site": "B"}])
        return {"image": outputs.pixel_values, "logits": model(**inputs).logits}

    def random_outputs(self, model, inputs, generator):
        return {
            "loss": model(**inputs, generator=generator).loss,
            "image": model.counterfactual(**inputs, do={"site": "B"}, num_samples=3, generator=generator).std,
        }

    def test_null_intervention_returns_image_and_attributes(self):
        model, inputs = self.model(), self.inputs()
        for samples in (1, 3):
            result = model.counterfactual(**inputs, do={}, num_samples=samples)
            torch.testing.assert_close(result.pixel_values[:, 0], inputs["pixel_values"], rtol=0, atol=1e-5)
            assert torch.equal(result.attributes[:, 0], inputs["attributes"])

    def test_many_interventions_equal_one_at_a_time(self):
        model, inputs = tiny_model(), self.inputs()
        dos = [{"sex": "Female"}, {"site": "B", "age": 30}, {}, {"finding": "Effusion"}]
        noise = model.abduct(**inputs)
        together = model.counterfactual(None, None, dos, noise=noise)
        assert together.pixel_values.shape == (3, 4, 1, SIDE, SIDE)
        for k, do in enumerate(dos):
            alone = model.counterfactual(None, None, do, noise=noise)
            torch.testing.assert_close(together.pixel_values[:, k], alone.pixel_values[:, 0])
            assert torch.equal(together.attributes[:, k], alone.attributes[:, 0])
        assert (together.pixel_values[:, 1] - inputs["pixel_values"]).abs().max() > 1e-3

    def test_abducts_once_for_many_interventions(self):
        model, calls = self.model(), []
        model.image_mechanism.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
        model.image_mechanism.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
        model.counterfactual(**self.inputs(), do=[{"sex": "Male"}, {"sex": "Female"}, {"age": 80}])
        assert calls == ["encoder", "decoder", "decoder"]

    def test_only_the_variable_and_its_descendants_change(self):
        result = self.model().counterfactual(**self.inputs(), do={"age": 90})
        before, after = self.inputs()["attributes"], result.attributes[:, 0]
        for name in ("sex", "site"):
            assert torch.equal(before[:, SCHEMA.index(name)], after[:, SCHEMA.index(name)])
        assert (after[:, SCHEMA.index("age")] == 90).all()

    def test_samples_give_mean_and_deviation(self):
        model, inputs = tiny_model(), self.inputs()
        g = torch.Generator().manual_seed(1)
        noise = model.abduct(**inputs, num_samples=5, generator=g)
        result = model.counterfactual(None, None, {"site": "B"}, noise=noise)
        rows = model._decode(noise, result.attributes)[:, :, 0]
        torch.testing.assert_close(result.pixel_values[:, 0], rows.mean(1))
        torch.testing.assert_close(result.std[:, 0], rows.std(1))

    def test_impossible_questions_are_refused(self):
        model, inputs = self.model(), self.inputs()
        with pytest.raises(UnknownAttributeError, match="weight"):
            model.counterfactual(**inputs, do={"weight": 80})
        with pytest.raises(AttributeValueError, match="Banana"):
            model.counterfactual(**inputs, do={"sex": "Banana"})
        with pytest.raises(AttributeValueError, match="finding is missing"):
            model.counterfactual(inputs["pixel_values"], [{"age": 3, "sex": "Male", "site": "A"}] * 3, do={})
        with pytest.raises(ValueError, match="3 images but attributes of 1"):
            model.counterfactual(inputs["pixel_values"], FACTUAL[0], do={})
        with pytest.raises(ValueError, match="empty list"):
            model.counterfactual(**inputs, do=[])
        with pytest.raises(ValueError, match="num_samples=0"):
            model.counterfactual(**inputs, do={}, num_samples=0)

    def test_from_parts_copies_the_weights(self):
        model = self.model()
        assembled = DeepSCMModel.from_parts(model.attribute_scm, model.image_mechanism, model.classifier)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, assembled.state_dict()[name]), name

    @pytest.mark.parametrize(
        ("mechanism", "dtype"),
        [("hvae", torch.bfloat16), ("hvae", torch.float16), ("flow", torch.float16)],
        ids=["hvae-bf16", "hvae-fp16", "flow-fp16"],
    )
    def test_half_precision(self, tmp_path, mechanism, dtype):
        model, inputs, do = tiny_model(mechanism=mechanism), self.inputs(), {"sex": "Female"}
        options = {"num_inference_steps": 4} if mechanism == "flow" else {}
        model.config.classifier_config.backbone_config.dtype = torch.float32  # as trained classifiers say
        model.save_pretrained(tmp_path)
        loaded = DeepSCMModel.from_pretrained(tmp_path, dtype=dtype)
        parts = loaded.attribute_scm, loaded.image_mechanism, loaded.classifier
        expected, posterior = (
            model.counterfactual(**inputs, do=do, **options).pixel_values,
            model.predict(inputs["pixel_values"]),
        )
        for half in (loaded, DeepSCMModel.from_parts(*parts), copy.deepcopy(model).to(dtype)):
            assert {p.dtype for p in half.parameters()} == {dtype}
            pixel_values = half.counterfactual(**inputs, do=do, **options).pixel_values
            assert (pixel_values - expected).abs().mean() < 2 / 127.5  # grey levels
            assert (half.predict(inputs["pixel_values"])["sex"] - posterior["sex"]).abs().max() < 0.02

    def test_parts_of_two_types_are_assembled_in_the_wider_one(self):
        model = self.model()
        model.image_mechanism.to(torch.bfloat16)
        whole = DeepSCMModel.from_parts(model.attribute_scm, model.image_mechanism, model.classifier)
        assert {p.dtype for p in whole.parameters()} == {torch.float32}
        assert whole(**self.inputs()).loss.isfinite()

    @pytest.mark.slow
    def test_exports_and_compiles_to_one_graph(self):
        model, inputs = self.model(), self.inputs()
        expected = model(**inputs)
        exported = torch.export.export(model, (), inputs, strict=False).module()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        for traced in (exported, compiled):
            assert_same(dict(expected), dict(traced(**inputs)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"image_config": CausalHVAEConfig(context_dim=3)}, "width 6"),
        (
            {"classifier_config": AttributeClassifierConfig(attributes=SCHEMA.to_list()[:2], image_size=64)},
            "different attributes",
        ),
        (
            {"classifier_config": AttributeClassifierConfig(attributes=SCHEMA.to_list(), image_size=128)},
            "128-pixel",
        ),
    ],
)
def test_parts_must_fit(part, words):
    scm = AttributeSCMConfig(attributes=SCHEMA.to_list(), graph=GRAPH)
    with pytest.raises(Exception, match=words):
        DeepSCMConfig(scm_config=scm, **part)
