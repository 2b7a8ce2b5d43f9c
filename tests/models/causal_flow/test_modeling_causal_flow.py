import math

import pytest
import torch
from transformers.utils import logging

from cf_cxr import CausalFlowConfig, CausalFlowModel
from cf_cxr.models.image_mechanism import ImageMechanism, repeat_noise
from tests.models.test_modeling_common import ModelCommonTestsMixin

NAMES = ["age", "sex", "site"]
TINY = {
    "attribute_names": NAMES,
    "attribute_sizes": [1, 1, 3],
    "image_size": 16,
    "patch_size": 2,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "attribute_dropout": 0.0,
}
FACTUAL = torch.tensor([[0.2, 0.0, 1.0, 0.0, 0.0], [-0.6, 1.0, 0.0, 0.0, 1.0], [0.9, 1.0, 0.0, 1.0, 0.0]])
TARGET = torch.tensor([[0.9, 0.0, 1.0, 0.0, 0.0], [0.4, 0.0, 0.0, 1.0, 0.0], [0.9, 1.0, 0.0, 1.0, 0.0]])
STD = 0.3
EFFECT = torch.tensor([0.2, -0.3, 0.1, 0.0, -0.1])


class GaussianFlow(CausalFlowModel):
    """The exact velocity of x ~ N(EFFECT . parents, STD^2) in every pixel, in place of the network."""

    def __init__(self):
        super().__init__(CausalFlowConfig(**TINY))
        del self.attribute_embedding
        self.attribute_embedding = lambda parents, generator=None: parents

    def velocity(self, x, time, embedding):
        self.asked = len(x)
        t, loc = time[:, None, None, None], (embedding.nan_to_num() @ EFFECT)[:, None, None, None]
        slope = (t - (1 - t) * STD**2) / (((1 - t) * STD).square() + t.square())
        return slope * (x - (1 - t) * loc) - loc


def images(rows=3, seed=5):
    return torch.rand(rows, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) * 0.8 - 0.4


class TestCausalFlow(ModelCommonTestsMixin):
    model_class = CausalFlowModel
    batch_tolerance = {"rtol": 1e-4, "atol": 1e-4}
    prediction = "reconstruction"
    num_hidden_states = 9

    def config(self):
        return CausalFlowConfig(**TINY)

    def inputs(self):
        parents = FACTUAL.clone()
        parents[2] = torch.nan
        return {"pixel_values": images(), "parents": parents}

    def batch_outputs(self, model, inputs):
        noise = model.abduct(**inputs)
        return {
            "latents": noise.latents,
            "image": model.decode(noise, 1 - inputs["parents"], guidance_scale={"age": 2.0, "sex": 1.5}),
        }

    def random_outputs(self, model, inputs, generator):
        return {
            "loss": model(**inputs, generator=generator).loss,
            "sample": model.sample(inputs["parents"], generator=generator),
        }

    def test_is_an_image_mechanism(self):
        assert isinstance(self.model(), ImageMechanism)

    @pytest.mark.parametrize("omega", [0.0, 1.0, 3.5, {"age": 4.0, "site": 0.5}], ids=str)
    @pytest.mark.parametrize("steps", [1, 8])
    def test_null_intervention_returns_the_image_for_every_omega(self, omega, steps):
        model, inputs = self.model(), self.inputs()
        with torch.no_grad():
            noise = model.abduct(**inputs, num_inference_steps=steps)
            back = model.decode(noise, inputs["parents"], guidance_scale=omega)
        torch.testing.assert_close(back, inputs["pixel_values"], rtol=0, atol=1e-4)

    @torch.no_grad()
    def test_null_in_half_precision_is_within_half_a_grey_level(self):
        for dtype in (torch.bfloat16, torch.float16):
            model, inputs = self.model(dtype), self.inputs()
            back = model.decode(model.abduct(**inputs), inputs["parents"], guidance_scale=2.0)
            assert back.dtype == torch.float32
            assert 127.5 * (back - inputs["pixel_values"]).abs().mean() <= 0.5

    @torch.no_grad()
    def test_two_cycles_of_an_intervention_come_back(self):
        model, x = self.model(), images()
        there = model.decode(model.abduct(x, FACTUAL), TARGET)
        assert (there - x)[:2].abs().mean() > 1e-3
        torch.testing.assert_close(there[2], x[2], rtol=0, atol=1e-4)
        noise = model.abduct(x, FACTUAL)
        twice = model.decode(repeat_noise(noise, 2), FACTUAL.repeat_interleave(2, 0))
        torch.testing.assert_close(twice, x.repeat_interleave(2, 0), rtol=0, atol=1e-4)

    @torch.no_grad()
    def test_equal_scales_by_name_are_one_scale(self):
        model = self.model()
        noise = model.abduct(images(), FACTUAL)
        one = model.decode(noise, TARGET, guidance_scale=1.7)
        named = model.decode(noise, TARGET, guidance_scale=dict.fromkeys(NAMES, 1.7))
        torch.testing.assert_close(one, named)
        plain = model.decode(noise, TARGET)
        torch.testing.assert_close(plain, model.decode(noise, TARGET, guidance_scale={"age": 1.0}))
        assert (one - plain)[:2].abs().max() > 1e-3

    @torch.no_grad()
    def test_the_scale_of_an_attribute_that_keeps_its_value_does_nothing(self):
        model = self.model()
        noise = model.abduct(images(), FACTUAL)
        plain = model.decode(noise, TARGET)[0]  # where age alone changes
        torch.testing.assert_close(model.decode(noise, TARGET, guidance_scale={"sex": 5.0})[0], plain)
        assert (model.decode(noise, TARGET, guidance_scale={"age": 5.0})[0] - plain).abs().max() > 1e-3

    def test_number_of_network_passes(self):
        model, rows = self.model(), []
        model.unet.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
        with torch.no_grad():
            noise = model.abduct(images(), FACTUAL, num_inference_steps=4)
            assert rows == [3] * 6
            rows.clear()
            model.decode(noise, TARGET)
            assert rows == [3] * 5
            rows.clear()
            model.decode(noise, TARGET, guidance_scale=2.0)
            assert rows == [5] * 5  # factual world of all, other world of the two that change

    def test_unknown_parents_are_the_dropped_code(self):
        model, x = self.model(), images()
        hidden = FACTUAL.clone()
        hidden[:, 1] = torch.nan
        torch.manual_seed(0)
        expected = model(x, hidden).loss
        with torch.no_grad():
            for parameter in model.attribute_embedding.values[1].parameters():
                parameter.add_(1.0)
        torch.manual_seed(0)
        torch.testing.assert_close(model(x, hidden).loss, expected)
        torch.manual_seed(0)
        assert not torch.allclose(model(x, FACTUAL).loss, expected)

    def test_attributes_are_hidden_independently_in_training(self):
        model = CausalFlowModel(CausalFlowConfig(**TINY | {"attribute_dropout": 0.3}))
        embedding = model.attribute_embedding.train()
        for index, value in enumerate(embedding.values):  # known: 0; hidden: 1, 2 or 4
            torch.nn.init.zeros_(value[2].weight)
            torch.nn.init.zeros_(value[2].bias)
            torch.nn.init.constant_(embedding.unknown.weight[index], 2.0**index)
        codes = embedding(FACTUAL[:1].expand(20000, -1), torch.Generator().manual_seed(0))[:, 0].long()
        hidden = torch.stack([codes % 2, codes // 2 % 2, codes // 4]).float()
        torch.testing.assert_close(hidden.mean(1), torch.full((3,), 0.3), rtol=0, atol=0.02)
        assert (torch.corrcoef(hidden) - torch.eye(3)).abs().max() < 0.03
        assert not embedding.eval()(FACTUAL).any()

    def test_loss_falls_on_64_images(self):
        torch.manual_seed(0)
        model = CausalFlowModel(CausalFlowConfig(**TINY | {"data_std": 0.25})).train()
        x, parents = images(64), FACTUAL[torch.arange(64) % 3]
        x = 0.2 * x + (parents @ EFFECT)[:, None, None, None]
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
        for _ in range(120):
            loss = model(x, parents).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-20:]) < 0.5 * sum(losses[:5]) * 4

    def test_compiles_and_runs_in_autocast(self):
        model, x = self.model(), images()
        with torch.no_grad():
            noise = model.abduct(x, FACTUAL)
            expected = model.decode(noise, TARGET)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = model.decode(model.abduct(x, FACTUAL), TARGET)
        assert 127.5 * (half - expected).abs().mean() < 1.0

    @pytest.mark.slow
    @torch.no_grad()
    def test_torch_compile_gives_the_same_numbers(self):
        model, x = self.model(), images()
        expected = model.decode(model.abduct(x, FACTUAL), TARGET)
        model.unet.compile(fullgraph=True)
        torch.testing.assert_close(
            model.decode(model.abduct(x, FACTUAL), TARGET), expected, rtol=0, atol=1e-4
        )

    def test_progress_bar(self, capsys):
        logging.enable_progress_bar()  # other tests switch bars off
        model = self.model()
        with torch.no_grad():
            model.abduct(images(), FACTUAL, num_inference_steps=3)
            assert capsys.readouterr().err == ""
            model.abduct(images(), FACTUAL, num_inference_steps=3, show_progress=True)
        assert "Flow" in (shown := capsys.readouterr().err) and "/3" in shown

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda m: m.abduct(torch.full((3, 1, 16, 16), math.nan), FACTUAL), "NaN"),
            (lambda m: m.abduct(torch.zeros(3, 1, 8, 8), FACTUAL), r"\(batch, 1, 16, 16\)"),
            (lambda m: m.abduct(images(), FACTUAL[:, :2]), r"\(3, 5\)"),
            (lambda m: m.abduct(images(), FACTUAL, sample=True), "no posterior"),
            (lambda m: m.abduct(images(), FACTUAL, num_inference_steps=0), "num_inference_steps=0"),
            (lambda m: m.decode(m.abduct(images(), FACTUAL), TARGET, guidance="more"), "factual"),
            (lambda m: m.decode(m.abduct(images(), FACTUAL), TARGET, guidance_scale={"agee": 2}), "agee"),
            (lambda m: m.decode(m.abduct(images(), FACTUAL), TARGET, guidance_scale="much"), "much"),
            (lambda m: m.decode(m.abduct(images(), FACTUAL), TARGET, guidance_scale=math.nan), "finite"),
            (lambda m: m.abduct(images(), FACTUAL, num_inference_steps=10**9), "1000"),
        ],
    )
    def test_bad_input_is_named(self, call, words):
        with pytest.raises(ValueError, match=words), torch.no_grad():
            call(self.model())

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"image_size": 18}, "multiple of 4"),
            ({"patch_size": 0}, r"patch_size.*\n.*got 0"),
            ({"block_out_channels": []}, "block_out_channels"),
            ({"attribute_dropout": 1.0}, "attribute_dropout"),
            ({"attribute_sizes": [1, 0, 3]}, r"attribute_sizes.*\n.*\[1, 0, 3\]"),
            ({"attribute_names": ["age", "age", "site"]}, "one name"),
        ],
    )
    def test_impossible_configurations_are_named(self, change, words):
        with pytest.raises(Exception, match=words):
            CausalFlowConfig(**TINY | change)


class TestGaussianToy:
    """x ~ N(loc, STD^2): the flow is x_t = (1 - t) loc + sqrt((1 - t)^2 STD^2 + t^2) (x - loc) / STD, so the noise is
    (x - loc) / STD and a counterfactual moves by the change of loc, times omega under guidance."""

    def test_the_networks_scaling_is_the_exact_velocity_around_zero(self):
        model = CausalFlowModel(CausalFlowConfig(**TINY | {"data_std": STD}))
        for parameter in model.unet.conv_out.parameters():
            torch.nn.init.zeros_(parameter)
        x, time = images(), torch.tensor([0.0, 0.3, 1.0])
        embedding = model.attribute_embedding(FACTUAL)
        exact = GaussianFlow().velocity(x, time, torch.zeros(3, 5))
        torch.testing.assert_close(model.velocity(x, time, embedding), exact)

    def test_velocity_is_the_regression_of_the_loss(self):
        """E[e - x | x_t] minimises the loss; any other affine field has a larger one."""
        model = GaussianFlow()
        g = torch.Generator().manual_seed(0)
        parents = FACTUAL[torch.arange(600) % 3]
        x = (parents @ EFFECT)[:, None, None, None] + STD * torch.randn(600, 1, 16, 16, generator=g)
        x = x.clamp(-1, 1)
        best = model(x, parents, generator=torch.Generator().manual_seed(1)).loss.item()
        exact = model.velocity
        for scale, shift in ((0.97, 0.0), (1.03, 0.0), (1.0, 0.05), (1.0, -0.05)):
            model.velocity = lambda *a, s=scale, d=shift: s * exact(*a) + d
            assert model(x, parents, generator=torch.Generator().manual_seed(1)).loss.item() > best

    def test_abduction_and_counterfactual_in_closed_form(self):
        model, x = GaussianFlow(), images()
        noise = model.abduct(x, FACTUAL, num_inference_steps=64)
        loc, target = ((p @ EFFECT)[:, None, None, None] for p in (FACTUAL, TARGET))
        torch.testing.assert_close(noise.latents[0], (x - loc) / STD, rtol=0, atol=0.01)
        for omega in (1.0, 2.0):
            found = model.decode(noise, TARGET, guidance_scale=omega)
            expected = (x + omega * (target - loc)).clamp(-1, 1)
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
        scales = {"age": 2.0, "sex": 0.5, "site": 1.0}
        effects = EFFECT * torch.tensor([2.0, 0.5, 1.0, 1.0, 1.0])
        expected = (x + ((TARGET - FACTUAL) @ effects)[:, None, None, None]).clamp(-1, 1)
        torch.testing.assert_close(
            model.decode(noise, TARGET, guidance_scale=scales), expected, rtol=0, atol=2e-3
        )

    def test_classifier_free_guidance_in_closed_form(self):
        """Its null intervention moves too: by (omega - 1) loc, away from the mean of nothing known."""
        model, x = GaussianFlow(), images()
        noise = model.abduct(x, FACTUAL, num_inference_steps=64)
        loc = (FACTUAL @ EFFECT)[:, None, None, None]
        found = model.decode(noise, FACTUAL, guidance_scale=2.0, guidance="classifier_free")
        torch.testing.assert_close(found, x + loc, rtol=0, atol=2e-3)

    def test_solver_is_of_second_order_and_its_own_inverse(self):
        """dx/dt = x cos 3t has the solution x exp(sin(3t) / 3)."""
        model, x = GaussianFlow(), images()
        errors = []
        for steps in (32, 64, 128):
            found, _ = model.integrate(
                lambda x, t: x * math.cos(3 * t), x.double(), x.double(), model.times(steps)
            )
            errors.append((found - x * math.exp(math.sin(3) / 3)).abs().max().item())
        assert errors[0] / errors[2] == pytest.approx(16, rel=0.15)
        field, times = model._field(FACTUAL), model.times(5)
        state = model.integrate(field, x, torch.ones_like(x), times)
        start, velocity = model.integrate(field, *state, times[::-1])
        torch.testing.assert_close(start, x, rtol=0, atol=1e-5)
        torch.testing.assert_close(velocity, torch.ones_like(x), rtol=0, atol=1e-4)

    def test_samples_have_the_mean_and_spread_of_their_parents(self):
        parents = 0.2 * FACTUAL.repeat_interleave(40, 0)
        found = GaussianFlow().sample(
            parents, generator=torch.Generator().manual_seed(0), num_inference_steps=32
        )
        found = found.reshape(3, -1)
        torch.testing.assert_close(found.mean(1), 0.2 * FACTUAL @ EFFECT, rtol=0, atol=0.01)
        torch.testing.assert_close(found.std(1), torch.full((3,), STD), rtol=0.03, atol=0)
