"""Counterfactual fine-tuning on images whose attributes are written plainly into them."""

import json
import os
import signal
import subprocess
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
from cf_cxr.training.counterfactual_finetuning.arguments import CFTArguments
from cf_cxr.training.counterfactual_finetuning.command import fully_labelled, measure_free_energy
from cf_cxr.training.counterfactual_finetuning.matched_targets import fit_readout_mechanisms
from cf_cxr.training.counterfactual_finetuning.trainer import CFTTrainer
from cf_cxr.training.loop.old_arguments import TrainerArguments
from cf_cxr.training.loop.old_trainer import build_accelerator
from tests.training.loop.tiny import OLD_LOOP as LOOP
from tests.training.loop.tiny import SCHEMA, TinyData, tiny_hvae

ROOT = Path(__file__).parents[3]
GRAPH = {"age": [], "sex": [], "site": []}
BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 4,
    "hidden_sizes": [4, 8],
    "depths": [1, 1],
    "layer_type": "basic",
}


def labelled_data(size=24):
    data = TinyData(size)
    data.attributes = data.attributes.nan_to_num(0.0)
    return data


class HalvesClassifier(AttributeClassifierModel):
    """A classifier with a known reading: sex is the left half's brightness, site 'C' the right half's."""

    def forward(self, pixel_values, labels=None, **kwargs):
        left, right = (half.mean((1, 2, 3)) for half in pixel_values.chunk(2, dim=3))
        zero = torch.zeros_like(left)
        return AttributeClassifierOutput(logits=torch.stack([zero, zero, 6 * left, zero, zero, 6 * right], 1))


def frozen_parts(kind=AttributeClassifierModel):
    torch.manual_seed(1)
    scm = AttributeSCMModel(AttributeSCMConfig(attributes=SCHEMA.to_list(), graph=GRAPH, hidden_sizes=[4]))
    config = AttributeClassifierConfig(
        attributes=SCHEMA.to_list(), image_size=16, backbone_config=BACKBONE, standardize=False
    )
    return scm, [kind(config) for _ in range(2)]


def cft_trainer(folder, *, data=None, bound=1e6, stage=None, kind=AttributeClassifierModel, **loop):
    scm, classifiers = frozen_parts(kind)
    args = TrainerArguments(output_dir=str(folder), **(LOOP | loop))
    stage_args = CFTArguments(**({"augmentation": "none", "target_labels": "soft"} | (stage or {})))
    mechanisms = []
    if stage_args.needs_readouts:
        mechanisms = fit_readout_mechanisms(classifiers, SCHEMA, data or labelled_data(64))
    return CFTTrainer(
        tiny_hvae(),
        args,
        data or labelled_data(),
        accelerator=build_accelerator(args),
        attribute_scm=scm,
        classifiers=classifiers,
        stage_args=stage_args,
        bound=bound,
        readout_mechanisms=mechanisms,
    )


def records(folder, name):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[name] for line in lines if name in json.loads(line)]


@torch.no_grad()
def half_changes(trainer, **do):
    """Mean change of the left and right half when do() is raised from the first class to the last, model in eval."""
    model, data = trainer.model.eval(), written_data(16)
    noise = model.abduct(data.images, SCHEMA.encode(data.attributes))
    images = []
    for value in (0, SCHEMA[next(iter(do))].n_classes - 1):
        changed = data.attributes.clone()
        changed[:, SCHEMA.index(next(iter(do)))] = value
        images.append(model.decode(noise, SCHEMA.encode(changed)))
    return [half.mean().item() for half in (images[1] - images[0]).chunk(2, dim=3)]


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


@pytest.mark.parametrize(
    "kind",
    [
        {"target_labels": "soft"},
        {"target_labels": "hard"},
        {"target_labels": "soft", "drift_weight": 0.1},
        {"target_labels": "matched", "auxiliary_loss": "readout", "paired_augmentation": True},
        {"target_labels": "matched_draw"},
    ],
    ids=lambda kind: "-".join(map(str, kind.values())),
)
def test_finetuning_teaches_the_generator_what_the_classifiers_read(tmp_path, kind):
    trainer = cft_trainer(
        tmp_path,
        data=written_data(),
        kind=HalvesClassifier,
        bound=7.0,
        stage=kind | {"do_variables": ["sex"], "attribute_weights": ["age=0"]},
        max_steps=80,
        learning_rate=3e-3,
        save_steps=0,
        ema_decay=0.0,
        eval_steps=-1,
    )
    before, _ = half_changes(trainer, sex=1)
    trainer.train()
    after, _ = half_changes(trainer, sex=1)
    assert after > 0.1 and after - before > 0.1


def auxiliary(trainer, images, factual, counterfactual, variable="sex"):
    """The classifiers' disagreement, by attribute."""
    return trainer._auxiliary(images, images, factual, [counterfactual], [variable])[1]


@pytest.mark.parametrize("augmentation", ["none", "strong"])
def test_paired_matched_targets_ask_nothing_of_a_null_intervention(tmp_path, augmentation):
    data = labelled_data(8)
    stage = {"target_labels": "matched", "auxiliary_loss": "readout", "augmentation": augmentation}
    for paired in (True, False):
        trainer = cft_trainer(tmp_path / str(paired), stage=stage | {"paired_augmentation": paired})
        losses = auxiliary(trainer, data.images, data.attributes, data.attributes)
        if paired or augmentation == "none":
            assert all(float(value) == 0 for value in losses.values())
        else:
            assert float(losses["aux_sex"]) > 0, "augmentation alone moves the classifier"


def test_soft_targets_do_not_push_an_image_that_does_not_change(tmp_path):
    """Each of two classifiers that disagree keeps its own posterior: the gradient at x* = x is 0."""
    data = labelled_data(8)
    untouched = [a.name for a in SCHEMA if a.is_discrete and a.name != "sex"]
    stage = {"attribute_weights": [f"{a.name}={int(a.name in untouched)}" for a in SCHEMA]}
    gradients = {}
    for labels in ("soft", "hard"):
        trainer = cft_trainer(tmp_path / labels, stage=stage | {"target_labels": labels})
        images = data.images.clone().requires_grad_()
        loss, _ = trainer._auxiliary(data.images, images, data.attributes, [data.attributes], ["sex"])
        (gradients[labels],) = torch.autograd.grad(loss, images)
    assert gradients["hard"].abs().max() > 1e-4
    assert gradients["soft"].abs().max() < 1e-3 * gradients["hard"].abs().max()


def test_drift_penalty_counts_untouched_attributes_only(tmp_path):
    data = labelled_data(8)
    changed = data.attributes.clone()
    changed[:, 1] = 1 - changed[:, 1]
    plain = cft_trainer(tmp_path / "a", kind=HalvesClassifier, stage={"target_labels": "soft"})
    held = cft_trainer(
        tmp_path / "b", kind=HalvesClassifier, stage={"target_labels": "soft", "drift_weight": 3.0}
    )
    other = (data.images * 0.5).roll(4, dims=3)
    before, after = (
        t._auxiliary(data.images, other, data.attributes, [changed], ["sex"])[1] for t in (plain, held)
    )
    assert torch.equal(before["aux_sex"], after["aux_sex"])
    assert after["aux_site"] > before["aux_site"] + 1e-4


@pytest.mark.parametrize("paired", [True, False])
def test_several_interventions_in_a_step_are_the_mean_of_single_ones(tmp_path, paired):
    data = labelled_data(8)
    stage = {"target_labels": "matched", "auxiliary_loss": "readout", "paired_augmentation": paired}
    trainer = cft_trainer(tmp_path, stage=stage)
    worlds, images = [], []
    for k, name in enumerate(("sex", "site")):
        changed = data.attributes.clone()
        changed[:, SCHEMA.index(name)] = 1 - changed[:, SCHEMA.index(name)].clamp(max=1)
        worlds.append(changed)
        images.append((data.images * (0.5 + 0.2 * k)).roll(k, dims=3))
    together, _ = trainer._auxiliary(
        data.images, torch.stack(images, 1).flatten(0, 1), data.attributes, worlds, ["sex", "site"]
    )
    single = [
        trainer._auxiliary(data.images, image, data.attributes, [world], [name])[0]
        for image, world, name in zip(images, worlds, ("sex", "site"))
    ]
    torch.testing.assert_close(together, (single[0] + single[1]) / 2)


def test_untouched_attributes_may_be_left_out(tmp_path):
    data = labelled_data(8)
    changed = data.attributes.clone()
    changed[:, 1] = 1 - changed[:, 1]
    totals = []
    for weight in (0.0, 0.5, 1.0):
        stage = {"target_labels": "hard", "untouched_weight": weight}
        trainer = cft_trainer(tmp_path / str(weight), stage=stage)
        total, logs = trainer._auxiliary(data.images, data.images, data.attributes, [changed], ["sex"])
        totals.append(total)
    torch.testing.assert_close(totals[0], logs["aux_sex"])
    torch.testing.assert_close(totals[1] - totals[0], (logs["aux_age"] + logs["aux_site"]) / 2)
    torch.testing.assert_close(totals[2], logs["aux_age"] + logs["aux_sex"] + logs["aux_site"])


def test_changed_values_are_never_the_factual_ones(tmp_path):
    data = labelled_data(64)
    trainer = cft_trainer(tmp_path, stage={"do_values": "changed"})
    for name, classes in (("sex", 2), ("site", 3)):
        factual = data.attributes[:, SCHEMA.index(name)]
        drawn = torch.stack([trainer._draw_values(data.attributes, name) for _ in range(20)])
        assert (drawn != factual).all() and set(drawn.unique().tolist()) == set(map(float, range(classes)))
    ages = trainer._draw_values(data.attributes, "age")
    assert sorted(ages.tolist()) == sorted(data.attributes[:, 0].tolist())


def test_layers_that_read_the_parents_may_learn_faster(tmp_path):
    trainer = cft_trainer(
        tmp_path, stage={"parents_lr_scale": 5.0}, max_steps=1, learning_rate=1e-3, warmup_steps=0
    )
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.train()
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates[1] == pytest.approx(5 * rates[0])
    names = {id(p): n for n, p in trainer.model.named_parameters()}
    assert all("z_proj" in names[id(p)] for p in trainer.optimizer.param_groups[1]["params"])
    moved = {k: (v - before[k]).abs().max().item() for k, v in trainer.model.state_dict().items()}
    assert max(v for k, v in moved.items() if "z_proj" in k) > 3 * max(
        v for k, v in moved.items() if "z_proj" not in k
    )


def test_a_readout_loss_of_hard_labels_is_refused():
    with pytest.raises(ValueError, match="logit of a hard label is infinite"):
        CFTArguments(target_labels="hard", auxiliary_loss="readout")
    with pytest.raises(ValueError, match="drift_weight is -1"):
        CFTArguments(drift_weight=-1)


def test_matched_targets_without_mechanisms_are_refused(tmp_path):
    trainer = cft_trainer(tmp_path, stage={"target_labels": "matched"})
    with pytest.raises(ValueError, match="0 readout mechanisms for 2 classifiers"):
        CFTTrainer(
            tiny_hvae(),
            trainer.args,
            labelled_data(),
            attribute_scm=trainer.scm,
            classifiers=trainer.classifiers,
            stage_args=trainer.stage_args,
            bound=1.0,
        )


def test_only_the_image_mechanism_learns(tmp_path):
    trainer = cft_trainer(tmp_path, max_steps=2)
    frozen = [trainer.scm, *trainer.classifiers]
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in frozen]
    image = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.train()
    for model, state in zip(frozen, before):
        assert not model.training
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())
    assert any(not torch.equal(v, trainer.model.state_dict()[k]) for k, v in image.items())


def test_intervened_values_are_permuted_or_balanced(tmp_path):
    data = labelled_data()
    data.attributes[:, 1] = 0  # nobody is female
    factual = data.attributes
    permuted = cft_trainer(tmp_path / "a", data=data)._draw_values(factual, "age")
    assert sorted(permuted.tolist()) == sorted(factual[:, 0].tolist()) and not torch.equal(
        permuted, factual[:, 0]
    )
    balanced = cft_trainer(tmp_path / "b", data=data, stage={"do_values": "balanced"})
    draws = torch.stack([balanced._draw_values(factual, "sex") for _ in range(50)])
    assert abs(draws.mean().item() - 0.5) < 0.06
    assert sorted(balanced._draw_values(factual, "age").tolist()) == sorted(factual[:, 0].tolist())


def test_step_costs_one_encoder_and_two_decoder_passes(tmp_path):
    trainer, calls = cft_trainer(tmp_path, max_steps=1), []
    trainer.model.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    trainer.model.decoder.register_forward_hook(lambda *_: calls.append("decoder"))
    trainer.train()
    assert calls == ["encoder", "decoder", "decoder"]


def test_violated_constraint_raises_the_multiplier(tmp_path):
    loose, tight = (
        cft_trainer(tmp_path / "loose"),
        cft_trainer(tmp_path / "tight", bound=-5.0, skip_threshold=0),
    )
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


def test_rows_with_unknown_attributes_are_left_out():
    data = TinyData(24)
    subset = fully_labelled(data)
    assert len(subset) == int((~data.attributes.isnan().any(1)).sum()) < 24
    assert not subset.__getitems__(list(range(len(subset))))["attributes"].isnan().any()
    data.attributes[:] = torch.nan
    with pytest.raises(ValueError, match="all attributes known"):
        fully_labelled(data)


@pytest.mark.parametrize("text", ["weight=1", "age", "age=-1", "age=old"])
def test_malformed_attribute_weights_are_refused(text):
    with pytest.raises(ValueError, match="name=number"):
        CFTArguments(attribute_weights=[text]).weights(SCHEMA.names)


def test_classifier_of_other_attributes_is_refused(tmp_path):
    scm, _ = frozen_parts()
    other = AttributeClassifierModel(
        AttributeClassifierConfig(attributes=SCHEMA.to_list()[:2], image_size=16, backbone_config=BACKBONE)
    )
    args = TrainerArguments(output_dir=str(tmp_path), **LOOP)
    with pytest.raises(ValueError, match="train both alike"):
        CFTTrainer(
            tiny_hvae(),
            args,
            labelled_data(),
            attribute_scm=scm,
            classifiers=[other],
            stage_args=CFTArguments(),
            bound=1.0,
        )


def launch(folder, *words, processes=1, kill=""):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "MASTER_"))}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = inherited | {"OMP_NUM_THREADS": "1", "TINY_KILL": kill, "PYTHONPATH": path}
    launcher = (
        ["-m", "accelerate.commands.launch", "--num_processes", str(processes)] if processes > 1 else []
    )
    command = [
        sys.executable,
        *launcher,
        "tests/training/counterfactual_finetuning/run_tiny_cft.py",
        str(folder),
        *words,
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_killed_and_resumed_run_ends_with_the_same_bits(tmp_path):
    assert launch(tmp_path / "whole").returncode == 0
    assert launch(tmp_path / "killed", kill="7").returncode == -signal.SIGKILL
    result = launch(tmp_path / "killed", "latest")
    assert result.returncode == 0, result.stderr[-2000:]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_two_processes_train_one_model(tmp_path):
    result = launch(tmp_path / "two", processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    run = json.loads((tmp_path / "two" / "run.json").read_text())
    assert run["num_processes"] == 2 and run["finished"]
    assert len(records(tmp_path / "two", "auxiliary")) == 12


def main():
    """A run in a process of its own: folder, then optionally what to resume from."""
    folder, *resume = sys.argv[1:]
    trainer = cft_trainer(
        Path(folder), bound=-5.0, skip_threshold=0, resume_from_checkpoint=resume[0] if resume else None
    )
    if kill := os.environ.get("TINY_KILL"):
        after = trainer.after_step

        def after_step(logs):
            after(logs)
            if trainer.global_step >= int(kill):
                os.kill(os.getpid(), signal.SIGKILL)

        trainer.after_step = after_step
    trainer.train()
