import math

import pytest
import torch
from scipy.stats import norm

from cf_cxr import CausalHVAEConfig, CausalHVAEModel
from cf_cxr.models.causal_hvae.modeling_causal_hvae import DiscretizedGaussian, broadcast_conv1x1, gaussian_kl
from cf_cxr.models.image_mechanism import ImageMechanism, repeat_noise
from tests.models.test_modeling_common import ModelCommonTestsMixin

TINY = {
    "image_size": 16,
    "context_dim": 3,
    "encoder_blocks": "16b1d2,8b1d2,4b1d4,1b1",
    "decoder_blocks": "1b1,4b2,8b1,16b1",
    "widths": [8, 8, 12, 16],
    "z_dim": 3,
    "z_max_res": 8,
    "bias_max_res": 8,
    "beta": 2.0,
}


class TestCausalHVAE(ModelCommonTestsMixin):
    model_class = CausalHVAEModel
    prediction = "reconstruction"
    num_hidden_states = 8

    def config(self):
        return CausalHVAEConfig(**TINY)

    def inputs(self):
        g = torch.Generator().manual_seed(5)
        return {
            "pixel_values": torch.rand(3, 1, 16, 16, generator=g) * 2 - 1,
            "parents": torch.rand(3, 3, generator=g),
        }

    def batch_outputs(self, model, inputs):
        noise = model.abduct(**inputs)
        return {"latents": noise.latents, "image": model.decode(noise, 1 - inputs["parents"])}

    def random_outputs(self, model, inputs, generator):
        return {
            "loss": model(**inputs, generator=generator).loss,
            "latents": model.abduct(**inputs, sample=True, generator=generator).latents,
            "sample": model.sample(inputs["parents"], generator=generator),
        }

    def test_is_an_image_mechanism(self):
        assert isinstance(self.model(), ImageMechanism)

    def test_null_intervention_returns_the_image(self):
        model, inputs = self.model(), self.inputs()
        for sample in (False, True):
            noise = model.abduct(**inputs, sample=sample)
            back = model.decode(noise, inputs["parents"])
            torch.testing.assert_close(back, inputs["pixel_values"], rtol=0, atol=1e-5)
            changed = model.decode(noise, inputs["parents"] + 1)
            assert (changed - inputs["pixel_values"]).abs().mean() > 1e-3

    def test_abduct_then_decode_is_the_counterfactual_of_the_training_pass(self):
        model, inputs = self.model(), self.inputs()
        target = 1 - inputs["parents"]
        output = model(**inputs, counterfactual_parents=target, sample_posterior=False)
        torch.testing.assert_close(output.counterfactual, model.decode(model.abduct(**inputs), target))

    def test_one_encoder_and_one_decoder_pass_for_abduction(self):
        model, inputs, calls = self.model(), self.inputs(), []
        model.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
        model.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
        noise = model.abduct(**inputs)
        assert calls == ["encoder", "decoder"]
        model.decode(repeat_noise(noise, 4), inputs["parents"].repeat_interleave(4, 0))
        assert calls == ["encoder", "decoder", "decoder"]
        calls.clear()
        model(**inputs, counterfactual_parents=inputs["parents"])
        assert calls == ["encoder", "decoder", "decoder"]

    def test_beta_and_free_bits_weigh_the_kl(self):
        inputs = self.inputs()
        output = self.model()(**inputs, sample_posterior=False)
        torch.testing.assert_close(output.loss, output.nll + 2.0 * output.kl)
        config = CausalHVAEConfig(**TINY, free_bits=1000.0)
        channels = sum(3 for spec in config.decoder_specs() if spec.stochastic)
        held = CausalHVAEModel(config).eval()(**inputs)
        assert held.kl.item() == pytest.approx(channels * 1000.0 / 256)

    def test_compiles_to_the_same_numbers_in_autocast_channels_last(self):
        model, inputs = self.model(), self.inputs()
        expected = model(**inputs).loss
        model = model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(**inputs).loss, expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(**inputs).loss.item() == pytest.approx(expected.item(), rel=0.02)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"pixel_values": torch.full((3, 1, 16, 16), math.nan)}, "NaN"),
            ({"pixel_values": torch.full((3, 1, 16, 16), 255.0)}, "255"),
            ({"pixel_values": torch.zeros(3, 1, 8, 8)}, r"\(batch, 1, 16, 16\)"),
            ({"parents": torch.zeros(3, 2)}, r"\(3, 3\)"),
        ],
    )
    def test_bad_tensors_are_refused(self, change, words):
        with pytest.raises(ValueError, match=words):
            self.model().abduct(**{**self.inputs(), **change})


def test_paper_a_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = CausalHVAEModel(CausalHVAEConfig.paper_a_192(context_dim=6))
    assert sum(p.numel() for p in model.parameters()) == 7_976_658


def test_broadcast_convolution_equals_the_expanded_one():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4 + 3 + 5, 7, 1)
    first, vector, second = torch.randn(2, 4, 6, 6), torch.randn(2, 3), torch.randn(2, 5, 6, 6)
    expanded = torch.cat([first, vector[:, :, None, None].expand(2, 3, 6, 6), second], dim=1)
    torch.testing.assert_close(broadcast_conv1x1(conv, first, vector, second), conv(expanded))


def test_bin_probabilities_are_those_of_a_normal_and_sum_to_one():
    levels = torch.arange(256).float() / 127.5 - 1
    loc, scale = torch.full_like(levels, 0.1), 0.3
    log_prob = DiscretizedGaussian.log_prob(levels, loc, torch.full_like(levels, math.log(scale)))
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    x = levels[100].item()
    exact = norm.cdf((x + 1 / 255 - 0.1) / scale) - norm.cdf((x - 1 / 255 - 0.1) / scale)
    assert log_prob[100].exp().item() == pytest.approx(exact, rel=5e-3)


def test_gaussian_kl_equals_torch_distributions():
    torch.manual_seed(0)
    q_loc, q_logscale, p_loc, p_logscale = torch.randn(4, 100)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(q_loc, q_logscale.exp()),
        torch.distributions.Normal(p_loc, p_logscale.exp()),
    )
    torch.testing.assert_close(
        gaussian_kl(q_loc, q_logscale, p_loc, p_logscale), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder_blocks": "16x1"}, "16x1"),
        ({"decoder_blocks": "2b1,16b1"}, "start at 1"),
        ({"decoder_blocks": "1b1,4b1,8b1"}, "must end at image_size"),
        ({"decoder_blocks": "1b1,2b1,8b1,16b1"}, "resolution 2"),
        ({"widths": [8, 8]}, "stages"),
        ({"x_like": "diag_logistic"}, "diag_logistic"),
        ({"context_dim": 0}, "context_dim"),
    ],
)
def test_impossible_architectures_say_what_is_wrong(settings, words):
    with pytest.raises(Exception, match=words):
        CausalHVAEConfig(**{**TINY, **settings})
