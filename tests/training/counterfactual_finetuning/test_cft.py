"""Counterfactual fine-tuning on images whose attributes are written plainly into them."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cf_cxr import AttributeSCMConfig, AttributeSCMModel
from cf_cxr.models.attribute_classifier import (
    AttributeClassifierConfig,
    AttributeClassifierModel,
    AttributeClassifierOutput,
)
from cf_cxr.training.counterfactual_finetuning.arguments import CFTConfig
from cf_cxr.training.counterfactual_finetuning.command import (
    fully_labelled,
    make_targets,
    measure_free_energy,
)
from cf_cxr.training.counterfactual_finetuning.command import main as finetune
from cf_cxr.training.counterfactual_finetuning.targets import TARGETS
from cf_cxr.training.counterfactual_finetuning.trainer import CFTTrainer
from tests.evaluation.tiny_evaluation import BACKBONE, build_parts, strings, write_data
from tests.training.loop.tiny import LOOP, SCHEMA, TinyData, log_of, run_process, tiny_hvae

GRAPH = {"age": [], "sex": [], "site": []}
PLAIN = {"augmentation": "none", "exposure_weight": 0.0, "interventions_per_step": 1, "parents_lr_scale": 1.0}
SEX = torch.tensor([False, True, False])  # affected by do(sex)


def labelled_data(size=24):
    data = TinyData(size)
    data.attributes = data.attributes.nan_to_num(0.0)
    return data


class HalvesClassifier(AttributeClassifierModel):
    """A classifier with a known reading: sex is the left half's brightness, site 'C' the right half's."""

    certainty = 6.0

    def forward(self, pixel_values, labels=None, **kwargs):
        left, right = (self.certainty * half.mean((1, 2, 3)) for half in pixel_values.chunk(2, dim=3))
        zero = torch.zeros_like(left)
        return AttributeClassifierOutput(logits=torch.stack([zero, zero, left, zero, zero, right], 1))


def frozen_parts(kind=AttributeClassifierModel, attributes=3):
    torch.manual_seed(1)
    scm = AttributeSCMModel(AttributeSCMConfig(attributes=SCHEMA.to_list(), graph=GRAPH, hidden_sizes=[4]))
    config = AttributeClassifierConfig(
        attributes=SCHEMA.to_list()[:attributes], image_size=16, backbone_config=BACKBONE, standardize=False
    )
    return scm, [kind(config) for _ in range(2)]


def cft_trainer(folder, *, data=None, bound=1e6, kind=AttributeClassifierModel, parts=None, **settings):
    scm, classifiers = parts or frozen_parts(kind)
    args = CFTConfig(output_dir=str(folder), **(LOOP | PLAIN | settings))
    data = data or labelled_data()
    return CFTTrainer(
        tiny_hvae(),
        args,
        data,
        attribute_scm=scm,
        classifiers=classifiers,
        targets=make_targets(args.target_labels, classifiers, data if len(data) > 40 else labelled_data(64)),
        bound=bound,
    )


def records(folder, name):
    return [line[name] for line in log_of(folder) if name in line]


def disagreement(trainer, counterfactual_images, affected=SEX, column=1):
    """The trainer's, on 8 films of which a class is another."""
    data = labelled_data(8)
    changed = data.attributes.clone()
    changed[:, column] = 1 - changed[:, column].clamp(max=1)
    rows = affected.expand(8, -1)
    return trainer.disagreement(data.images, counterfactual_images, data.attributes, changed, rows)


@torch.no_grad()
def left_change(trainer):
    """Mean change of the left half when do(sex) goes from men to women, model in eval."""
    model, data = trainer.model.eval(), written_data(16)
    noise = model.abduct(data.images, SCHEMA.encode(data.attributes))
    images = []
    for value in (0, 1):
        changed = data.attributes.clone()
        changed[:, 1] = value
        images.append(model.decode(noise, SCHEMA.encode(changed)))
    return (images[1] - images[0])[..., :8].mean().item()


def written_data(size=64):
    """Left half brighter by 0.3 in women, right half by 0.3 at site C; readable, with noise."""
    data = labelled_data(size)
    g = torch.Generator().manual_seed(5)
    left, right = (
        (0.3 * (data.attributes[:, k] == c).float() + 0.1 * torch.randn(size, generator=g) - 0.15)
        for k, c in ((1, 1), (2, 2))
    )
    data.images = data.images * 0.1
    data.images[..., :8] += left[:, None, None, None]
    data.images[..., 8:] += right[:, None, None, None]
    return data


@pytest.mark.parametrize("labels", TARGETS)
def test_finetuning_teaches_the_generator_what_the_classifiers_read(tmp_path, labels):
    settings = {"do_variables": ["sex"], "do_values": "permute", "max_steps": 80, "learning_rate": 3e-3}
    settings |= {"target_labels": labels, "save_strategy": "no", "ema_decay": 0.0}
    trainer = cft_trainer(tmp_path, data=written_data(), kind=HalvesClassifier, bound=7.0, **settings)
    before = left_change(trainer)
    trainer.train()
    assert left_change(trainer) > max(0.1, before + 0.1)


@pytest.mark.parametrize("augmentation", ["none", "strong"])
@pytest.mark.parametrize("labels", ["soft", "matched"])
def test_an_image_that_does_not_change_is_not_pushed(tmp_path, labels, augmentation):
    """Where nothing is affected x* = x has gradient 0, whatever augmentation does to the answers: each of two
    classifiers that disagree keeps its own. Hard labels do push."""
    gradients = {}
    for kind in (labels, "hard"):
        scm, classifiers = frozen_parts(HalvesClassifier)
        classifiers[1].certainty = 2.0
        parts = (scm, classifiers)
        trainer = cft_trainer(tmp_path / kind, parts=parts, target_labels=kind, augmentation=augmentation)
        images = labelled_data(8).images.requires_grad_()
        total, _ = disagreement(trainer, images, torch.zeros(3, dtype=torch.bool))
        (gradients[kind],) = torch.autograd.grad(total, images)
    assert gradients["hard"].abs().max() > 1e-4
    assert gradients[labels].abs().max() < 1e-3 * gradients["hard"].abs().max()


def test_several_interventions_in_a_step_are_rows_of_one_image_each(tmp_path):
    trainer, data, seen = cft_trainer(tmp_path, interventions_per_step=3), labelled_data(4), []
    trainer.disagreement = lambda *rows: (seen.extend(rows), (torch.zeros(()), {}))[1]
    trainer.batch_loss(trainer.model, {"pixel_values": data.images, "attributes": data.attributes})
    images, changed_images, factual, counterfactual, affected = seen
    assert torch.equal(images, data.images.repeat_interleave(3, 0)) and len(changed_images) == 12
    assert torch.equal(factual, data.attributes.repeat_interleave(3, 0))
    assert ((factual != counterfactual) <= affected).all() and (affected.sum(1) == 1).all()
    assert (affected.unflatten(0, (4, 3)).sum(1) == 1).all(), "every variable once for every image"
    assert (factual != counterfactual)[:, 1:].any(1).sum() == 8, "a discrete value is always another one"


def test_untouched_attributes_may_be_left_out(tmp_path):
    totals = {}
    for weight in (0.0, 0.5, 1.0):
        trainer = cft_trainer(tmp_path / str(weight), target_labels="hard", untouched_weight=weight)
        totals[weight], parts = disagreement(trainer, labelled_data(8).images)
    torch.testing.assert_close(totals[0.0], parts["aux_sex"])
    torch.testing.assert_close(totals[0.5], parts["aux_sex"] + (parts["aux_age"] + parts["aux_site"]) / 2)
    torch.testing.assert_close(totals[1.0], sum(parts.values()))


@pytest.mark.parametrize("how", ["changed", "balanced", "permute"])
def test_intervened_values(tmp_path, how):
    data = labelled_data(64)
    if how == "balanced":
        data.attributes[:, 1] = 0  # nobody is female
    trainer = cft_trainer(tmp_path, do_values=how)
    for name, classes in (("sex", 2), ("site", 3)):
        factual = data.attributes[:, SCHEMA.index(name)]
        drawn = torch.stack([trainer.draw_values(data.attributes, name) for _ in range(20)])
        if how == "permute":
            assert (drawn.sort(1).values == factual.sort().values).all() and (drawn != factual).any()
            continue
        assert set(drawn.unique().tolist()) == set(map(float, range(classes)))
        if how == "changed":
            assert (drawn != factual).all()
        else:
            assert abs((drawn == 0).float().mean() - 1 / classes) < 0.05
    ages = trainer.draw_values(data.attributes, "age")
    assert sorted(ages.tolist()) == sorted(data.attributes[:, 0].tolist())


def test_layers_that_read_the_parents_may_learn_faster(tmp_path):
    trainer = cft_trainer(tmp_path, parents_lr_scale=5.0, max_steps=1, learning_rate=1e-3, warmup_steps=0)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.train()
    others, *_, reading = trainer.optimizer.param_groups
    assert reading["lr"] == pytest.approx(5 * others["lr"])
    assert reading["weight_decay"] == others["weight_decay"] == 0.05
    names = {id(p): n for n, p in trainer.model.named_parameters()}
    assert all("z_proj" in names[id(p)] for p in reading["params"])
    moved = {k: (v - before[k]).abs().max().item() for k, v in trainer.model.state_dict().items()}
    assert max(v for k, v in moved.items() if "z_proj" in k) > 3 * max(
        v for k, v in moved.items() if "z_proj" not in k
    )


@pytest.mark.parametrize("name", ["matching_gain", "interventions_per_step", "parents_lr_scale"])
def test_numbers_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"--{name} is 0"):
        CFTConfig(**{name: 0})


def test_only_the_image_mechanism_learns_by_one_encoder_and_two_decoder_passes(tmp_path):
    trainer, calls = cft_trainer(tmp_path, max_steps=2), []
    trainer.model.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    trainer.model.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
    frozen = [trainer.scm, *trainer.classifiers]
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in frozen]
    image = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.train()
    assert calls == ["encoder", "decoder", "decoder"] * 2
    for model, state in zip(frozen, before):
        assert not model.training
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())
    assert any(not torch.equal(v, trainer.model.state_dict()[k]) for k, v in image.items())


def test_violated_constraint_raises_the_multiplier(tmp_path):
    loose = cft_trainer(tmp_path / "loose")
    tight = cft_trainer(tmp_path / "tight", bound=-5.0, skip_threshold=0)
    for trainer in (loose, tight):
        trainer.train()
    assert loose.constraint.multiplier == 0
    assert tight.constraint.multiplier > 1


def test_measured_bound_is_the_mean_free_energy():
    data, model = labelled_data(6), tiny_hvae().eval()
    model.forward, forward = (
        lambda *a, **k: forward(*a, **{**k, "sample_posterior": False, "generator": None}),
        model.forward,
    )
    with torch.no_grad():
        expected = forward(data.images, SCHEMA.encode(data.attributes), sample_posterior=False).loss
    measured = measure_free_energy(model, SCHEMA, data, batch_size=2)
    assert measured == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    "words", [["--use_cpu"], ["--target_labels", "matched", "--cache_images", "--use_cpu"]]
)
def test_command_measures_the_bound_and_leaves_an_image_mechanism(tmp_path, words):
    parts, data = build_parts(tmp_path / "parts"), write_data(tmp_path / "data")
    finetune(
        strings(
            "--image_mechanism", parts / "hvae", "--attribute_scm", parts / "scm", "--classifiers", parts / "classifier",
            parts / "second", "--data_dir", data, "--resolution", 16, "--output_dir", tmp_path / "out", "--cache_dir",
            tmp_path / "cache", "--max_steps", 2, "--warmup_steps", 0, "--sample_steps", 2, "--report_to", "none", *words,
        )
    )  # fmt: skip
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["finished"] and run["metrics"]["eval_free_energy"] < run["bound"] + 0.5
    before, after = (load_file(path / "model.safetensors") for path in (parts / "hvae", tmp_path / "out"))
    assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)
    assert list((tmp_path / "out" / "samples").glob("*counterfactuals.png"))


def test_rows_with_unknown_attributes_are_left_out():
    data = TinyData(24)
    subset = fully_labelled(data)
    assert len(subset) == int((~data.attributes.isnan().any(1)).sum()) < 24
    assert not subset.__getitems__(list(range(len(subset))))["attributes"].isnan().any()
    data.attributes[:] = torch.nan
    with pytest.raises(ValueError, match="all attributes known"):
        fully_labelled(data)


def test_classifier_of_other_attributes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="train both alike"):
        cft_trainer(tmp_path, parts=frozen_parts(attributes=2))


def run_main(folder, *words, **more):
    """The run of `main` below in processes of its own."""
    return run_process(
        "tests.training.counterfactual_finetuning.test_cft", "--output_dir", folder, *words, **more
    )


def test_killed_and_resumed_run_ends_with_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_main(whole).returncode == 0
    assert run_main(killed, TINY_KILL="7").returncode == -signal.SIGKILL
    result = run_main(killed, "--resume_from_checkpoint", "latest")
    assert result.returncode == 0, result.stderr[-2000:]
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert (
        records(whole, "multiplier") == records(killed, "multiplier") and records(whole, "multiplier")[-1] > 1
    )


def test_two_processes_train_one_model(tmp_path):
    result = run_main(tmp_path, processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["num_processes"] == 2 and run["finished"]
    assert len(records(tmp_path, "auxiliary")) == 12 and records(tmp_path, "multiplier")[-1] > 1
    first, second = ((tmp_path / f"weights_{rank}.txt").read_text() for rank in (0, 1))
    assert first == second, "their noise differs; with gradients of their own so would their weights"


def main(argv=None):
    """A run of 12 steps under a constraint that cannot be kept."""
    words = dict(zip(argv[::2], argv[1::2], strict=True))
    resume = words.get("--resume_from_checkpoint")
    trainer = cft_trainer(
        Path(words["--output_dir"]), bound=-5.0, skip_threshold=0, resume_from_checkpoint=resume
    )
    if kill := os.environ.get("TINY_KILL"):
        after = trainer.after_step

        def after_step(logs):
            after(logs)
            if trainer.state.global_step >= int(kill):
                os.kill(os.getpid(), signal.SIGKILL)

        trainer.after_step = after_step
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    (trainer.output_dir / f"weights_{trainer.args.process_index}.txt").write_text(str(weights.tolist()))


if __name__ == "__main__":
    main(sys.argv[1:])
