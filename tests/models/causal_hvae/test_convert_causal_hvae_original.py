"""Converted checkpoints against the literal reference, and everything that can be wrong with a checkpoint."""

import argparse
import json
import math
import pickle

import pytest
import torch

from cf_cxr.models.causal_hvae import CausalHVAEModel
from cf_cxr.models.causal_hvae.convert_causal_hvae_original import (
    CheckpointConversionError,
    config_from_hparams,
    convert_checkpoint,
    main,
    rename,
)
from tests.models.causal_hvae.literal_reference import (
    PAPER_A_192,
    PAPER_A_224,
    LiteralHVAE,
    expand_parents,
    make_hparams,
    randomise,
    save_checkpoint,
)

TOLERANCE = 1e-4

SETTINGS = {
    "exogenous prior": {},
    "conditional prior": {"cond_prior": True},
    "free bits": {"kl_free_bits": 1.0},
    # 24 -> 12 -> 3, padded to 4 -> 1
    "odd resolution": {
        "input_res": 24,
        "enc_arch": "24b1d2,12b2d4,4b2d4,1b1",
        "dec_arch": "1b1,4b2,12b1,24b1",
        "z_max_res": 12,
        "bias_max_res": 24,
    },
    # 20 -> 10 -> 5, padded to 6 -> 3, padded to 4 -> 1
    "odd twice": {
        "input_res": 20,
        "enc_arch": "20b1d2,10b1d2,6b1d2,4b1d4,1b1",
        "dec_arch": "1b1,4b1,6b2,10b1,20b1",
        "widths": [8, 8, 12, 16, 20],
        "z_max_res": 10,
        "bias_max_res": 6,
    },
    "stride-2 stem": {"enc_arch": "16b0,8b2d2,4b1d4,1b1", "widths": [8, 12, 16, 20]},
    "latents everywhere, bias at 1 only": {"z_max_res": 16, "bias_max_res": 2},
    "several blocks": {"enc_arch": "16b2d2,8b2d2,4b2d4,1b2", "dec_arch": "1b2,4b2,8b2,16b2"},
    "widths not divisible": {"widths": [9, 10, 13, 19], "bottleneck": 3, "z_dim": 3, "context_dim": 1},
    "conditional prior, odd": {
        "cond_prior": True,
        "input_res": 24,
        "enc_arch": "24b1d2,12b2d4,4b2d4,1b1",
        "dec_arch": "1b1,4b2,12b1,24b1",
        "z_max_res": 12,
    },
}


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


def inputs(hparams, batch=3, seed=1):
    """Images of different contrast with pixels at both ends of the range, factual and counterfactual parents."""
    g = generator(seed)
    size = hparams["input_res"]
    contrast = torch.linspace(0.1, 0.9, batch)[:, None, None, None]
    x = (torch.rand(batch, 1, size, size, generator=g) * 2 - 1) * contrast + 0.1
    x[:, :, 0], x[:, :, -1] = -1.0, 1.0
    parents = torch.rand(2, batch, hparams["context_dim"], generator=g) * 2 - 1
    return x, parents[0], parents[1]


def write(folder, name="checkpoint.pt", seed=0, padding_removed=False, **changes):
    """A reference with random weights everywhere and its checkpoint file."""
    hparams = make_hparams(**changes)
    reference = randomise(LiteralHVAE(hparams, padding_removed), seed=seed).eval()
    path = folder / name
    save_checkpoint(path, reference, hparams)
    return reference, path


def edit(path, **entries):
    """Replace entries of a checkpoint file; None removes an entry."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(path, weights_only=True)
    checkpoint.update(entries)
    torch.save({key: value for key, value in checkpoint.items() if value is not None}, path)


def differences(reference, model, hparams, batch=3):
    """Largest absolute difference of each compared quantity, given the same noise."""
    x, parents, cf_parents = inputs(hparams, batch)
    found = {}
    with torch.no_grad():
        theirs = reference(x, parents, beta=hparams["beta"], generator=generator())
        ours = model(x, parents, generator=generator())
        found |= {"elbo": theirs["elbo"] - ours.loss, "nll": theirs["nll"] - ours.nll}
        found["kl"] = theirs["kl"] - ours.kl

        latents = reference.abduct(x, parents, generator=generator())
        noise = model.abduct(x, parents, sample=True, generator=generator())
        assert len(noise.latents) == len(latents)
        found["latents"] = torch.cat([(z - w).flatten() for z, w in zip(latents, noise.latents, strict=True)])

        loc, scale = reference.forward_latents(latents, parents)
        found["decode"] = model.decode(noise, parents) - (loc + scale * ((x - loc) / scale)).clamp(-1, 1)
        found["residual"] = noise.residual * scale - (x - loc)
        counterfactual = reference.counterfactual(x, parents, cf_parents, generator=generator())
        assert (counterfactual - x).abs().mean() > 0.05, "the comparison would be vacuous"
        found["counterfactual"] = model.decode(noise, cf_parents) - counterfactual
        for t in (1.0, 0.3):
            loc, _ = reference.sample(cf_parents, temperature=t, generator=generator())
            image = model.sample(cf_parents, temperature=t, generator=generator(), return_loc=True)
            found[f"sample at {t}"] = image - loc
    return {name: value.abs().max().item() for name, value in found.items()}


def assert_equal(reference, model, hparams, batch=3):
    found = differences(reference, model, hparams, batch)
    assert max(found.values()) < TOLERANCE, found


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS.keys())
def test_converted_weights_reproduce_the_reference(tmp_path, changes):
    reference, path = write(tmp_path, **changes)
    convert_checkpoint(path, tmp_path / "converted")
    model = CausalHVAEModel.from_pretrained(tmp_path / "converted")
    assert_equal(reference, model, make_hparams(**changes))


@pytest.mark.slow
def test_paper_a_at_192_reproduces_the_reference(tmp_path):
    reference, path = write(tmp_path, z_dim=16, **PAPER_A_192)
    model = convert_checkpoint(path, tmp_path / "converted")
    assert model.num_parameters() == 7_976_658
    assert_equal(reference, model, make_hparams(z_dim=16, **PAPER_A_192), batch=2)


def test_latents_at_an_odd_resolution_mean_an_encoder_without_padding(tmp_path):
    """28 -> 14 -> 7 -> 1, the scales of the 224x224 setting that are odd or next to it."""
    changes = {
        "input_res": 28,
        "enc_arch": "28b1d2,14b1d2,7b2d7,1b1",
        "dec_arch": "1b1,7b2,14b1,28b1",
        "z_max_res": 14,
        "bias_max_res": 14,
    }
    reference, path = write(tmp_path, padding_removed=True, **changes)
    convert_checkpoint(path, tmp_path / "converted")
    assert_equal(reference, CausalHVAEModel.from_pretrained(tmp_path / "converted"), make_hparams(**changes))


def test_the_settings_of_paper_a_at_224_are_accepted():
    config = config_from_hparams(make_hparams(z_dim=16, **PAPER_A_224))
    assert config.encoder_resolutions() == [224, 112, 56, 28, 14, 7, 1]


@pytest.mark.slow
def test_paper_a_at_224_reproduces_the_reference(tmp_path):
    reference, path = write(tmp_path, z_dim=16, padding_removed=True, **PAPER_A_224)
    model = convert_checkpoint(path, tmp_path / "converted")
    assert_equal(reference, model, make_hparams(z_dim=16, **PAPER_A_224), batch=2)


def test_free_bits_apply_to_the_mean_over_the_batch(tmp_path):
    """The floor is put between two images' KL of one channel, where the order of mean and floor matters."""
    reference, path = write(tmp_path)
    model = convert_checkpoint(path, tmp_path / "converted")
    x, parents, _ = inputs(make_hparams())
    with torch.no_grad():
        maps = expand_parents(parents, 16)
        _, layers = reference.decoder(maps, acts=reference.encoder(x), generator=generator())
        kl = torch.cat([layer["kl"].sum((2, 3)) for layer in layers], dim=1)  # images x channels
        low, high = kl.aminmax(dim=0)
        floor = ((low + high) / 2)[(high - low).argmax()].item()
        expected = kl.mean(0).clamp(min=floor).sum() / x[0].numel()
        assert (kl.clamp(min=floor).mean(0).sum() / x[0].numel() - expected).abs() > TOLERANCE

        model.config.free_bits = reference.hp.kl_free_bits = floor
        theirs = reference(x, parents, generator=generator())["kl"]
        ours = model(x, parents, generator=generator()).kl
    torch.testing.assert_close(theirs, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_scales_below_the_bound_are_clamped(tmp_path):
    """exp(-9) is the smallest pixel scale; random weights do not come near it by themselves."""
    reference, path = write(tmp_path)
    with torch.no_grad():
        reference.likelihood.x_logscale.bias.fill_(-9.0)
        assert (reference.likelihood.x_logscale(torch.randn(1, 8, 9, 9)) < -9).any()
    save_checkpoint(path, reference, make_hparams())
    model = convert_checkpoint(path, tmp_path / "converted")
    x, parents, cf_parents = inputs(make_hparams())
    with torch.no_grad():
        expected = reference.counterfactual(x, parents, cf_parents, generator=generator())
        noise = model.abduct(x, parents, sample=True, generator=generator())
        _, scale = reference.forward_latents(noise.latents, cf_parents)
        assert (scale == math.exp(-9)).float().mean() > 0.1, "the bound would not be tested"
        torch.testing.assert_close(model.decode(noise, cf_parents), expected, rtol=0, atol=TOLERANCE)


def test_gradients_reproduce_the_reference(tmp_path):
    reference, path = write(tmp_path)
    model = convert_checkpoint(path, tmp_path / "converted")
    hparams = make_hparams()
    x, parents, _ = inputs(hparams)
    reference(x, parents, beta=hparams["beta"], generator=generator())["elbo"].backward()
    model(x, parents, generator=generator()).loss.backward()
    ours = dict(model.named_parameters())
    compared = 0
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None and rename(name) in ours:
            torch.testing.assert_close(
                ours[rename(name)].grad,
                parameter.grad,
                rtol=1e-3,
                atol=1e-4,
                msg=lambda m, n=name: f"{n}: {m}",
            )
            compared += 1
    assert compared > 100


MUTATIONS = {
    "posterior reads [features, parents, h]": (
        "decoder.blocks.1.posterior.reduce.weight",
        lambda w: torch.cat([w[:, 19:], w[:, 16:19], w[:, :16]], 1),
    ),
    "posterior reads [h, features, parents]": (
        "decoder.blocks.2.posterior.reduce.weight",
        lambda w: torch.cat([w[:, :16], w[:, 19:], w[:, 16:19]], 1),
    ),
    "z_proj reads [parents, z]": ("decoder.blocks.2.z_proj.weight", lambda w: w.roll(3, 1)),
    "z_feat_proj reads [features, z]": ("decoder.blocks.0.z_feat_proj.weight", lambda w: w.roll(4, 1)),
    "prior gives [logscale, loc, ...]": (
        "decoder.blocks.1.prior.expand.weight",
        lambda w: torch.cat([w[4:8], w[:4], w[8:]]),
    ),
    "no bias at 4x4": ("decoder.bias.1", torch.zeros_like),
    "no bias at 1x1": ("decoder.bias.0", torch.zeros_like),
    "no skip projection": ("encoder.blocks.3.block.width_proj.weight", torch.zeros_like),
    "transposed kernel": ("encoder.stem.weight", lambda w: w.transpose(2, 3)),
}


@pytest.mark.parametrize("name, change", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_the_comparison_notices_a_wrong_layout(tmp_path, name, change):
    reference, path = write(tmp_path)
    model = convert_checkpoint(path, tmp_path / "converted")
    weight = model.get_parameter(name)
    with torch.no_grad():
        weight.copy_(change(weight.clone()))
    assert max(differences(reference, model, make_hparams()).values()) > 10 * TOLERANCE


def prefixed(prefix, model):
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def first_version(reference):
    """Paper A's code knows no conditional prior, and calls the free bits `free_bits`."""
    newer = ("cond_prior", "q_correction", "kl_free_bits", "vae", "vr", "hps")
    hparams = {k: v for k, v in make_hparams().items() if k not in newer}
    return {"hparams": hparams | {"free_bits": 0.0, "device": torch.device("cpu")}}


FORMS = {
    "settings as a namespace": lambda reference: {"hparams": argparse.Namespace(**make_hparams())},
    "first version": first_version,
    **{
        f"wrapped as {prefix}": lambda reference, prefix=prefix: {
            "ema_model_state_dict": prefixed(prefix, reference)
        }
        for prefix in ("module.", "ema_model.", "_orig_mod.", "ema_model.module.")
    },
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_other_forms_of_a_checkpoint_give_the_same_model(tmp_path, form):
    reference, path = write(tmp_path)
    edit(path, **form(reference))
    assert_equal(reference, convert_checkpoint(path, tmp_path / "converted"), make_hparams())


@pytest.mark.parametrize("both_in_one", [False, True])
def test_averaged_weights_by_default_and_raw_ones_on_request(tmp_path, both_in_one):
    """Also of a saved average, which holds both models."""
    reference, path = write(tmp_path)
    raw = randomise(LiteralHVAE(make_hparams()), seed=9)
    entries = {"model_state_dict": raw.state_dict()}
    if both_in_one:
        state = prefixed("online_model.", raw) | prefixed("ema_model.", reference)
        state |= {"initted": torch.tensor([1.0]), "step": torch.tensor([7])}
        entries = {"ema_model_state_dict": state, "model_state_dict": state}
    edit(path, **entries)
    assert_equal(reference, convert_checkpoint(path, tmp_path / "ema"), make_hparams())
    assert_equal(raw, convert_checkpoint(path, tmp_path / "raw", use_ema=False), make_hparams())


def test_unused_projection_and_buffer_are_left_out_with_a_note(tmp_path):
    reference, path = write(tmp_path)  # the first down-sampling block keeps its width
    assert "encoder.blocks.1.width_proj.weight" in reference.state_dict()
    model = convert_checkpoint(path, tmp_path / "converted")
    assert not [name for name in model.state_dict() if name.startswith("encoder.blocks.1.block.width_proj")]
    record = json.loads((tmp_path / "converted" / "conversion.json").read_text())
    assert {"encoder.blocks.1.width_proj.weight", "log2", "ema_model_state_dict"} <= {
        note.rsplit(" ", 1)[-1] for note in record["notes"]
    }
    assert record["step"] == 42 and record["source"] == "checkpoint.pt"


def test_settings_of_the_checkpoint_become_the_configuration():
    changes = {
        "beta": 0.3,
        "kl_free_bits": 0.25,
        "cond_prior": True,
        "std_init": 0.1,
        "x_like": "shared_dgauss",
    }
    config = config_from_hparams(make_hparams(**changes) | {"beta_target": 9.0})  # of a warm-up
    assert (config.beta, config.free_bits, config.cond_prior, config.std_init) == (9.0, 0.25, True, 0.1)
    assert config.x_like == "shared_dgauss" and config.image_size == 16 and config.context_dim == 3
    assert (config.z_dim, config.bottleneck, config.z_max_res, config.bias_max_res) == (4, 4, 8, 8)
    assert config_from_hparams(make_hparams(beta=9.0)).beta == 9.0


def test_checkpoint_of_counterfactual_fine_tuning(tmp_path):
    """It holds the image model as `vae.` beside other parts, and does not repeat the architecture."""
    _, pretrained = write(tmp_path, "pretrained.pt")
    reference, path = write(tmp_path, "finetuned.pt", seed=3)
    state = prefixed("vae.", reference)
    state |= {"lmbda": torch.ones(1), "eps": torch.ones(1), "pgm.flow.weight": torch.zeros(3)}
    edit(path, ema_model_state_dict=state, hparams={"lr": 1e-4, "damping": 10})
    refuses(path, "hparams_from")
    model = convert_checkpoint(path, tmp_path / "converted", hparams_from=pretrained)
    assert_equal(reference, model, make_hparams())
    assert "lmbda" in (tmp_path / "converted" / "conversion.json").read_text()


def test_command_line_and_nothing_is_overwritten_unasked(tmp_path, capsys):
    reference, path = write(tmp_path)
    other, second = write(tmp_path, "second.pt", seed=4)
    output = tmp_path / "converted"
    assert main([str(path), str(output), "--no_ema"]) == 0
    assert "parameters, 16x16" in capsys.readouterr().out
    assert main([str(second), str(output)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert_equal(reference, CausalHVAEModel.from_pretrained(output), make_hparams())
    assert main([str(second), str(output), "--overwrite"]) == 0
    assert_equal(other, CausalHVAEModel.from_pretrained(output), make_hparams())
    assert main([str(tmp_path / "absent.pt"), str(tmp_path / "other")]) == 1
    assert "absent.pt" in capsys.readouterr().err
    with pytest.raises(FileExistsError, match="is a file"):
        convert_checkpoint(path, second)


# ----------------------------------------------------------------------------------------------- bad input


def refuses(path, match, **options):
    """The conversion raises, and leaves nothing behind."""
    output = path.parent / "refused"
    with pytest.raises((CheckpointConversionError, FileNotFoundError), match=match) as caught:
        convert_checkpoint(path, output, **options)
    assert [p.name for p in path.parent.iterdir() if "refused" in p.name] == []
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, no checkpoint", b"\x89PNG\r\n\x1a\n" + bytes(64), b"PK\x03\x04", 0.02, 0.5, 0.999],
)
def test_other_kinds_of_file_and_truncated_ones(tmp_path, content):
    _, path = write(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(content * len(whole))] if isinstance(content, float) else content)
    refuses(path, "checkpoint.pt .* not a readable PyTorch checkpoint.*truncated")
    refuses(tmp_path / "nothing.pt", "nothing.pt")


class WritesAFile:
    """Unpickling this runs code."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_refused_and_not_run(tmp_path, zipped):
    path, trace = tmp_path / "checkpoint.pt", tmp_path / "trace"
    content = {"hparams": WritesAFile(trace), "model_state_dict": {}, "ema_model_state_dict": {}}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    refuses(path, "open' *. It was refused" if zipped else "refused|not a readable")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("setup", "what", "script"),
    [
        ("sup_pgm", "attribute model", "train_scm.py"),
        ("sup_aux", "attribute predictor", "train_classifier.py"),
        ("sup_determ", "attribute classifier", "train_classifier.py"),
    ],
)
def test_checkpoints_of_the_other_parts_say_what_they_are(tmp_path, setup, what, script):
    """All three are written by train_pgm.py from one module: settings without an architecture, and a `setup`."""
    path = tmp_path / "checkpoint.pt"
    weights = {"sex_logit": torch.zeros(1), "encoder_s.net.conv1.weight": torch.zeros(4, 1, 3, 3)}
    hparams = {"setup": setup, "widths": [32, 32], "input_res": 224, "enc_net": "cnn"}
    torch.save({"hparams": hparams, "model_state_dict": weights, "ema_model_state_dict": weights}, path)
    message = refuses(path, f"checkpoint.pt.*{what}.*{setup}.*{script}")
    assert "hparams_from" not in message
    assert what in refuses(path, what, hparams_from=write(tmp_path, "hvae.pt")[1])


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"q_correction": True}, "q_correction=True"),
        ({"hps": "ukbb192"}, "ukbb192.*ReLU"),
        ({"vae": "simple"}, "vae='simple'"),
        ({"x_like": "diag_gauss"}, "diag_gauss"),
        ({"input_channels": 3}, "input_channels=3"),
        ({"enc_arch": "16x1d2"}, "16x1d2"),
        ({"dec_arch": "1b1,7b2,8b1,16b1"}, "latents at resolution 7"),
        ({"widths": [8, 8]}, "widths"),
        ({"widths": 8}, "do not describe a network"),
        ({"context_dim": 5}, r"z_proj.weight: shape \(16, 7, 1, 1\), expected \(16, 9, 1, 1\)"),
    ],
)
def test_settings_without_a_counterpart(tmp_path, changes, match):
    _, path = write(tmp_path)
    edit(path, hparams=make_hparams(**changes))
    refuses(path, match)


def test_missing_and_foreign_entries_are_named(tmp_path):
    reference, path = write(tmp_path)
    edit(path, hparams={k: v for k, v in make_hparams().items() if k not in ("dec_arch", "widths")})
    refuses(path, "lacks dec_arch, widths")
    edit(path, hparams=make_hparams(), ema_model_state_dict={"fc.weight": torch.zeros(2, 2)})
    refuses(path, "holds 0 tensors named .*fc.weight")
    edit(path, ema_model_state_dict=None)
    refuses(path, "no 'ema_model_state_dict'.*use_ema=False")
    edit(path, hparams=None)
    refuses(path, "no 'hparams' entry .it has: best_loss, epoch", use_ema=False)
    edit(path, hparams=3)
    refuses(path, "'hparams' is a int", use_ema=False)
    torch.save([torch.zeros(2)], path)
    refuses(path, "holds a list")


def test_tensors_that_do_not_fit_are_listed(tmp_path):
    reference, path = write(tmp_path)
    state = dict(reference.state_dict())
    del state["decoder.blocks.1.z_proj.bias"], state["likelihood.x_loc.weight"]
    state["decoder.blocks.9.z_proj.bias"] = torch.zeros(3)
    state["encoder.blocks.0.conv.3.weight"] = torch.zeros(2, 2, 5, 5)
    state["decoder.bias.0"] = torch.full((1, 16, 1, 1), torch.nan)
    edit(path, ema_model_state_dict=state)
    message = refuses(path, "do not fit")
    for part in (
        "missing: decoder.blocks.1.z_proj.bias, likelihood.x_loc.weight",
        "unknown: decoder.blocks.9.z_proj.bias",
        "encoder.blocks.0.block.spatial_1.weight: shape (2, 2, 5, 5), expected (2, 2, 3, 3)",
        "decoder.bias.0: NaN",
    ):
        assert part in message
