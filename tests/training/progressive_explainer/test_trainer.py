"""The explainer follows its classifier, leaves it alone, and can be interrupted."""

import json
import math
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from cf_cxr.models.progressive_explainer import ProgressiveExplainerModel
from cf_cxr.training.loop.callbacks import TrainingDivergedError
from cf_cxr.training.loop.checkpointing import CheckpointError
from cf_cxr.training.loop.run_folder import OutputDirectoryError
from cf_cxr.training.progressive_explainer.arguments import ExplainerConfig
from cf_cxr.training.progressive_explainer.command import spread_conditions
from cf_cxr.training.progressive_explainer.losses import MahalanobisPrior, posterior_kl
from cf_cxr.training.progressive_explainer.trainer import ExplainerTrainer
from tests.training.loop.test_resume import assert_same_run
from tests.training.loop.tiny import log_of, run_process
from tests.training.progressive_explainer.tiny_explainer import (
    RESUMED,
    PatchClassifier,
    PatchData,
    explained,
    same_noise_run,
    tiny_explainer_trainer,
    tiny_generator,
    whole_generator,
)

HERE = "tests.training.progressive_explainer.tiny_explainer"


def copies(module):
    """All but what every forward pass in training moves on."""
    state = module.state_dict().items()
    counters = ("num_batches_tracked", "._u", "._v")
    return {name: tensor.detach().clone() for name, tensor in state if not name.endswith(counters)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def four_of(trainer):
    return trainer.train_dataset.__getitems__([0, 5, 9, 12])


# -------------------------------------------------------------- what it learns


@pytest.mark.parametrize("discriminator", [True, False])
def test_posterior_is_followed_and_the_classifier_is_frozen(tmp_path, discriminator):
    """A linear black box: explanations reach their targets much better after a few steps than before.

    Without a discriminator preservation sets in slowly, which leads away from the saddle point as well.
    """
    classifier, model = PatchClassifier(), tiny_generator()
    before = copies(classifier)
    settings = {"reconstruction_weight": 1.0, "embedding_weight": 0.1, "learning_rate": 8e-3}
    settings |= {"max_steps": 110, "sample_steps": 110, "discriminator_steps": 1}
    if not discriminator:
        spread_conditions(model)
        settings |= {"max_steps": 60, "sample_steps": 60, "discriminator_steps": 0}
        settings |= {"preservation_warmup_steps": 200}
    settings |= {"per_device_train_batch_size": 10, "eval_strategy": "steps", "eval_steps": 1000}
    trainer = tiny_explainer_trainer(tmp_path, classifier=classifier, model=model, **settings)
    with trainer.looking(0):
        untrained = trainer.evaluation_metrics()
    assert untrained["slope"] == pytest.approx(0, abs=1e-6)  # a residual generator starts as the identity
    assert untrained["l1_self"] == pytest.approx(0, abs=1e-4) and untrained["validity"] == 0
    metrics = trainer.train()
    assert metrics["eval_slope"] > 0.5 and metrics["eval_mae"] < 0.6 * untrained["mae"]
    assert metrics["eval_validity"] > 0.8
    assert same(before, copies(classifier)) and classifier.slope.grad is None
    lines = log_of(tmp_path)
    logged = {"kl_target", "kl_cycle", "l1_self", "l1_cycle", "embedding_distance", "change"}
    assert logged <= lines[1].keys() and ("adversarial" in lines[1]) == discriminator
    assert list((tmp_path / "samples").glob("*explanations.png"))
    saved = ProgressiveExplainerModel.from_pretrained(tmp_path)
    reached = classifier.posterior(saved.series(PatchData(6).images).flatten(0, 1)).view(6, 10)
    assert (reached[:, -1] - reached[:, 0]).mean() > 0.5


def test_the_loss_is_the_weighted_sum_of_its_terms(tmp_path):
    """The reconstruction and embedding weights rise from a tenth over 4 steps: 0.1, 0.178, 0.316, 0.562, then 1."""
    weights = {"classifier_weight": 3.0, "reconstruction_weight": 5.0, "embedding_weight": 7.0}
    weights |= {"mahalanobis_weight": 2.0, "preservation_warmup_steps": 4}
    prior = MahalanobisPrior(PatchData().images, grid=4)
    trainer = tiny_explainer_trainer(tmp_path, model=whole_generator(), prior=prior, **weights)
    batch = four_of(trainer)
    for step, share in enumerate([0.1, 0.1**0.75, 0.1**0.5, 0.1**0.25, 1.0, 1.0]):
        trainer.state.global_step = step
        torch.manual_seed(4)
        loss, logs = trainer.generator_loss(batch)
        expected = (
            logs["adversarial"]
            + 3 * (logs["kl_target"] + logs["kl_cycle"])
            + share * (5 * (logs["l1_self"] + logs["l1_cycle"]) + 7 * logs["embedding_distance"])
            + 2 * logs["mahalanobis"]
        )
        torch.testing.assert_close(loss, expected)
        assert logs["preservation_share"].item() == pytest.approx(share)
    # the classifier's term, from the same targets and batch statistics
    torch.manual_seed(4)
    targets = torch.randint(10, (4,))
    own = trainer.bins.index(batch["posterior"])
    with torch.no_grad():
        x = batch["pixel_values"]
        e = trainer.model.encode(x)
        both = trainer.model.decode(torch.cat([e, e]), torch.cat([targets, own]), torch.cat([x, x]))
        reached = trainer.classifier(both[:4])
    torch.testing.assert_close(logs["kl_target"], posterior_kl((targets + 0.5) / 10, reached))
    torch.testing.assert_close(logs["mahalanobis"], trainer.prior(both[:4] - x))


def test_classifier_may_see_augmented_explanations_until_four_fifths_of_the_steps(tmp_path):
    trainer = tiny_explainer_trainer(tmp_path, augmentation="geometry", max_steps=5)
    whole, seen = trainer.classifier.compute_posterior, {}
    batch = four_of(trainer)
    for step in (3, 4):
        trainer.state.global_step = step
        trainer.classifier.compute_posterior = lambda x, s=step: seen.update({s: x.detach()}) or whole(x)
        trainer.generator_loss(batch)
    x = batch["pixel_values"]  # an untrained residual generator returns it
    torch.testing.assert_close(seen[4], torch.cat([x, x]))
    assert not torch.allclose(seen[3], seen[4], atol=0.05)


@pytest.mark.parametrize("labels", [("lungs", "devices"), ()])
@pytest.mark.parametrize("lungs_only", [False, True])
def test_where_reconstruction_counts(tmp_path, labels, lungs_only):
    """By hand, for a generator whose output is 0 everywhere: L1 per region is the mean |x| there."""
    model = whole_generator()
    torch.nn.init.zeros_(model.conv_out.weight)
    train = explained(PatchClassifier(), labels=labels)
    settings = {"model": model, "train": train, "lungs_only": lungs_only}
    if lungs_only and not labels:
        with pytest.raises(ValueError, match="'lungs'"):
            tiny_explainer_trainer(tmp_path, **settings)
        return
    trainer = tiny_explainer_trainer(tmp_path, discriminator_steps=0, **settings)
    batch = four_of(trainer)
    _, logs = trainer.generator_loss(batch)
    x = batch["pixel_values"][:, 0].abs()
    patch, row = x[:, 4:12, 4:12].mean(), x[:, 1].mean()
    rest = x.clone()
    rest[:, 4:12, 4:12] = rest[:, 1] = torch.nan
    expected = patch if lungs_only else patch + row + rest.nanmean() if labels else x.mean()
    torch.testing.assert_close(logs["l1_self"], expected)
    torch.testing.assert_close(logs["l1_cycle"], expected)


def test_rows_per_bin_start_apart_and_learn_faster(tmp_path):
    """Shifts are opposite at the outermost bins, in even steps between them, and the middle of the bins stays 0."""
    model = tiny_generator()
    spread_conditions(model)
    for norm in [model.norm_out, model.up_blocks[0].norm1]:
        assert norm.beta.std() > 0.05
        torch.testing.assert_close(norm.beta, -norm.beta.flip(0))
        torch.testing.assert_close(norm.beta.diff(dim=0, n=2), torch.zeros(8, norm.beta.shape[1]))
    assert not model.down_blocks[0].norm1.beta.any()
    x = PatchData(3).images
    with torch.no_grad():  # a residual output still starts at no change
        torch.testing.assert_close(model.eval()(x, 9).pixel_values, x)
    trainer = tiny_explainer_trainer(tmp_path)
    others, rows = trainer.optimizer.param_groups
    assert rows["lr"] == pytest.approx(3 * others["lr"])
    assert {p.shape[0] for p in rows["params"]} == {10} and len(rows["params"]) == 2 * (2 + 1)
    assert len(others["params"]) + len(rows["params"]) == len(list(trainer.model.parameters()))


# ------------------------------------------------------------- two optimisers


class Watched(ExplainerTrainer):
    """Keeps both networks before and after the discriminator's steps, and the images of those."""

    def discriminator_loss(self, batch):
        self.seen = [*getattr(self, "seen", []), batch["pixel_values"]]
        self.before = getattr(self, "before", None) or (copies(self.model), copies(self.discriminator))
        return super().discriminator_loss(batch)

    def generator_loss(self, batch):
        self.between = copies(self.model), copies(self.discriminator)
        self.seen = [*self.seen, batch["pixel_values"]]
        return super().generator_loss(batch)


def test_discriminator_steps_leave_the_generator_untouched_and_the_reverse(tmp_path):
    """And each has images of its own, of which the last ones are the generator's too."""
    settings = {"model": whole_generator(), "max_steps": 1, "discriminator_steps": 3, "ema_decay": 0.0}
    trainer = tiny_explainer_trainer(tmp_path, kind=Watched, per_device_train_batch_size=10, **settings)
    trainer.train()
    generator, discriminator = zip(trainer.before, trainer.between, strict=True)
    assert same(*generator) and not same(*discriminator)
    assert same(discriminator[1], copies(trainer.discriminator))
    assert not same(generator[1], copies(trainer.model))
    *first, last, generators = trainer.seen
    assert len(first) == 2 and all(len(x) == 10 for x in trainer.seen) and torch.equal(last, generators)
    assert len({x.sum().item() for x in (*first, last)}) == 3
    posterior = PatchClassifier().posterior(torch.cat([*first, last]))
    shown = torch.bincount(trainer.bins.index(posterior), minlength=10)
    has_images = torch.bincount(trainer.bins.index(trainer.train_dataset.posterior), minlength=10) > 0
    assert torch.equal(shown > 0, has_images)


def test_every_bin_is_shown_equally_often(tmp_path):
    """Bins of 30, 8, 2 and no images: a third each, as a function of the seed."""
    posterior = torch.tensor([0.05] * 30 + [0.15] * 8 + [0.95] * 2)
    order = {}
    for seed in (3, 3, 4):
        trainer = tiny_explainer_trainer(tmp_path, discriminator_steps=0, max_steps=150, seed=seed)
        trainer.train_dataset.posterior = posterior
        shown = torch.cat([batch["posterior"] for batch in trainer.get_train_dataloader()])
        assert len(shown) == 600
        counts = torch.bincount(trainer.bins.index(shown), minlength=10)
        assert counts[[0, 1, 9]].tolist() == pytest.approx([200] * 3, abs=40) and counts.sum() == 600
        assert torch.equal(order.setdefault(seed, shown), shown)
    assert not torch.equal(order[3], order[4])


def test_discriminator_learns_to_tell_real_from_generated(tmp_path):
    """The generator is held at a constant image: the hinge loss falls from 2 towards 0."""
    model = whole_generator()
    torch.nn.init.zeros_(model.conv_out.weight)
    settings = {"learning_rate": 1e-2, "max_steps": 40, "reconstruction_weight": 0.0, "embedding_weight": 0.0}
    trainer = tiny_explainer_trainer(tmp_path, model=model, classifier_weight=0.0, **settings)
    model.requires_grad_(False)
    model.conv_in.bias.requires_grad_(True)  # of no effect
    trainer.train()
    losses = [line["discriminator_loss"] for line in log_of(tmp_path)]
    assert losses[0] > 1 and sum(losses[-5:]) / 5 < 0.3


class Broken(ExplainerTrainer):
    """One of whose losses is NaN, in the first `steps`."""

    broken, steps = "discriminator_loss", 9

    def discriminator_loss(self, batch):
        return self._break("discriminator_loss", *super().discriminator_loss(batch))

    def generator_loss(self, batch):
        return self._break("generator_loss", *super().generator_loss(batch))

    def _break(self, name, loss, logs):
        return loss * (math.nan if name == self.broken and self.state.global_step < self.steps else 1), logs


@pytest.mark.parametrize("broken", ["discriminator_loss", "generator_loss"])
def test_a_bad_step_of_either_network_skips_the_generators(tmp_path, monkeypatch, broken):
    monkeypatch.setattr(Broken, "broken", broken)
    settings = {"kind": Broken, "model": whole_generator(), "max_consecutive_skips": 2, "max_steps": 9}
    trainer = tiny_explainer_trainer(tmp_path / "all", **settings)
    before, weights = copies(trainer.model), copies(trainer.discriminator)
    with pytest.raises(TrainingDivergedError, match="last 3 steps were all skipped"):
        trainer.train()
    assert same(before, copies(trainer.model))
    assert same(weights, copies(trainer.discriminator)) == (broken == "discriminator_loss")
    monkeypatch.setattr(Broken, "steps", 1)
    trainer = tiny_explainer_trainer(tmp_path / "one", **settings, logging_steps=3)
    trainer.train()
    assert trainer.skipped_steps == 1
    assert all(math.isfinite(line["loss"]) for line in log_of(tmp_path / "one"))


@pytest.mark.parametrize(
    "options", [{"activation_checkpointing": True}, {"bf16": True, "channels_last": True}], ids=str
)
def test_options_of_the_loop_hardly_change_a_step(tmp_path, options):
    """Adam's first steps have the size of the learning rate, in the gradient's direction."""
    after = []
    for name, settings in {"plain": {}, "options": options}.items():
        settings = {"max_steps": 1, "ema_decay": 0.0, **settings}
        trainer = tiny_explainer_trainer(tmp_path / name, model=whole_generator(), **settings)
        trainer.train()
        after.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert (after[0] - after[1]).abs().mean() < 0.1 * 3e-3


def test_wrong_parts_are_refused(tmp_path):
    def refused(message, **settings):
        with pytest.raises(ValueError, match=message):
            tiny_explainer_trainer(tmp_path, **settings)

    opaque = PatchClassifier(differentiable=False)
    refused("no gradient.*student", classifier=opaque, train=explained(PatchClassifier()))
    refused("bf16", fp16=True)
    refused("200 images|one step needs", per_device_train_batch_size=41)
    refused("reconstruction_weight is -1.0", reconstruction_weight=-1.0)
    refused("discriminator_steps is -1", discriminator_steps=-1)
    refused("lungs_only needs lungs", lungs_only=True, segmenter="none")
    refused("image_size is 16 in the generator, but 32", kind=other_discriminator)


def other_discriminator(*args, discriminator, **parts):
    discriminator.config.image_size = 32
    return ExplainerTrainer(*args, discriminator=discriminator, **parts)


# ------------------------------------------------------------------ to resume


def resumable(folder, kind=ExplainerTrainer, **settings):
    return tiny_explainer_trainer(folder, kind=kind, model=whole_generator(), **(RESUMED | settings))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "run"
    resumable(folder).train()
    yield folder
    torch.set_num_threads(threads)


class Terminated(ExplainerTrainer):
    def after_step(self, logs):
        if self.state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_interrupted_and_resumed_ends_with_the_same_bits(uninterrupted, tmp_path, capsys, how):
    folder = tmp_path / "run"
    if how == "SIGTERM":
        with pytest.raises(SystemExit) as ended:
            resumable(folder, Terminated).train()
        assert ended.value.code == 143 and "--resume_from_checkpoint latest" in capsys.readouterr().out
        left = ["checkpoint-2", "checkpoint-4"]
    else:
        assert run_process(HERE, folder).returncode == -signal.SIGKILL
        left = ["checkpoint-2"]
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == left
    torch.rand(7)
    resumable(folder, resume_from_checkpoint="latest").train()
    assert_same_run(uninterrupted, folder)


def test_a_folder_or_checkpoint_that_is_not_this_runs_is_refused(uninterrupted):
    with pytest.raises(OutputDirectoryError, match="already holds a run"):
        resumable(uninterrupted).train()
    latest = {"resume_from_checkpoint": "latest", "max_steps": 6}
    with pytest.raises(CheckpointError, match="explained the classifier"):
        resumable(uninterrupted, classifier=PatchClassifier(slope=3), **latest).train()
    file = sorted(uninterrupted.glob("checkpoint-*"))[-1] / "loop.pt"
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-9])
        with pytest.raises(CheckpointError, match="loop.pt.*cut short"):
            resumable(uninterrupted, **latest).train()
    finally:
        file.write_bytes(content)


def test_two_processes_learn_what_one_learns_from_as_many_micro_batches(tmp_path):
    """From the same targets; a discriminator's estimate of singular values moves with every micro-batch."""
    found = run_process(HERE, tmp_path, processes=2)
    assert found.returncode == 0, found.stderr[-3000:]
    same_noise_run(tmp_path / "one", 0, gradient_accumulation_steps=2)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "generator"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3)
    manifest = json.loads((tmp_path / "both" / "run.json").read_text())
    assert manifest["num_processes"] == 2 and manifest["finished"] and not manifest["skipped_steps"]


def test_default_widths_reach_8_pixels():
    config, most = ExplainerConfig(use_cpu=True, report_to="none"), [16, 32, 64, 128, 128, 128]
    assert [config.widths_at(side) for side in (64, 128, 224)] == [most[:4], most[:5], most]
