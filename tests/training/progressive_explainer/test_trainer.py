"""The explainer follows its classifier, leaves it alone, and can be interrupted."""

import json
import math
import re

import pytest
import torch

from cf_cxr import CXRImageProcessor
from cf_cxr.black_box import BlackBoxError, ImageClassifier, StudentClassifier, as_image_classifier
from cf_cxr.black_box.adapters import import_object, load_black_box
from cf_cxr.models.progressive_explainer import ProgressiveExplainerModel
from cf_cxr.training.loop.batches import pack_masks
from cf_cxr.training.loop.old_checkpointing import CheckpointError, list_checkpoints
from cf_cxr.training.loop.old_trainer import TrainingDivergedError
from cf_cxr.training.progressive_explainer import command as explainer_command
from cf_cxr.training.progressive_explainer.arguments import ExplainerArguments
from cf_cxr.training.progressive_explainer.caches import segmented_batches
from cf_cxr.training.progressive_explainer.command import spread_conditions
from cf_cxr.training.progressive_explainer.losses import NaturalChange, posterior_kl
from tests.black_box.helpers import attribute_model
from tests.training.bad_black_boxes import MESSAGES
from tests.training.loop.test_resume import assert_same_run
from tests.training.progressive_explainer.tiny_explainer import (
    LABELS,
    PatchClassifier,
    PatchData,
    explained,
    tiny_explainer_trainer,
    tiny_generator,
)

HERE = "tests.training.progressive_explainer.tiny_explainer"


def copies(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[n], second[n]) for n in first if not n.endswith("num_batches_tracked"))


def ready(trainer):
    """As `train` leaves a trainer before its first step."""
    trainer._setup()
    trainer.set_mode(True)
    return trainer


# -------------------------------------------------------------- what it learns


def test_posterior_is_followed_and_the_classifier_is_frozen(tmp_path):
    """A linear black box: explanations reach their targets much better after a few steps than before."""
    classifier = PatchClassifier()
    before = copies(classifier)
    trainer = tiny_explainer_trainer(
        tmp_path,
        classifier=classifier,
        stage={"reconstruction_weight": 1.0, "embedding_weight": 0.1, "discriminator_steps": 1},
        max_steps=110,
        learning_rate=8e-3,
        per_device_batch_size=10,
        sample_steps=110,
    )
    trainer.set_mode(False)
    with torch.no_grad():
        untrained = trainer.evaluate()
    assert untrained["slope"] == pytest.approx(0, abs=1e-6)  # a residual generator starts as the identity
    assert untrained["l1_self"] == pytest.approx(0, abs=1e-4) and untrained["validity"] == 0
    trainer.args.eval_steps = 1000
    metrics = trainer.train()
    assert metrics["val_slope"] > 0.5 and metrics["val_mae"] < 0.6 * untrained["mae"]
    assert metrics["val_validity"] > 0.8
    assert same(before, copies(classifier)) and classifier.slope.grad is None
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"kl_target", "kl_cycle", "l1_self", "l1_cycle", "adversarial", "discriminator_loss"} <= set(
        lines[0]
    )
    assert list((tmp_path / "samples").glob("*explanations.png"))
    saved = ProgressiveExplainerModel.from_pretrained(tmp_path)
    x = PatchData(6).images
    reached = classifier.posterior(saved.series(x).flatten(0, 1)).view(6, 10)
    assert (reached[:, -1] - reached[:, 0]).mean() > 0.5


def test_the_loss_is_the_weighted_sum_of_its_terms(tmp_path):
    stage = {
        "adversarial_weight": 2.0,
        "classifier_weight": 3.0,
        "reconstruction_weight": 5.0,
        "embedding_weight": 7.0,
        "discriminator_steps": 1,
    }
    trainer = ready(
        tiny_explainer_trainer(tmp_path, model=tiny_generator(residual_output=False), stage=stage)
    )
    batch = trainer.train_dataset.__getitems__([0, 5, 9, 12])
    torch.manual_seed(4)
    loss, logs = trainer.compute_loss(batch)
    expected = (
        2 * logs["adversarial"]
        + 3 * (logs["kl_target"] + logs["kl_cycle"])
        + 5 * (logs["l1_self"] + logs["l1_cycle"])
        + 7 * logs["embedding_distance"]
    )
    torch.testing.assert_close(loss.detach(), expected)
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


def test_classifier_may_see_augmented_explanations(tmp_path):
    seen = {}
    for name in ("none", "geometry"):
        trainer = ready(tiny_explainer_trainer(tmp_path / name, stage={"augmentation": name}))
        whole = trainer.classifier.compute_posterior
        trainer.classifier.compute_posterior = lambda x, n=name, f=whole: seen.update({n: x.detach()}) or f(x)
        batch = trainer.train_dataset.__getitems__(list(range(8)))
        torch.manual_seed(0)
        trainer.compute_loss(batch)
    x = batch["pixel_values"][4:]  # the generator's part; an untrained residual generator returns it
    torch.testing.assert_close(seen["none"], torch.cat([x, x]))
    assert not torch.allclose(seen["geometry"], seen["none"], atol=0.05)
    late = ready(
        tiny_explainer_trainer(
            tmp_path / "late", stage={"augmentation": "geometry", "augmentation_until": 0.5}, max_steps=4
        )
    )
    whole = late.classifier.compute_posterior
    for step in (1, 2):
        late.global_step = step
        late.classifier.compute_posterior = lambda x, f=whole, s=step: seen.update({s: x.detach()}) or f(x)
        late.compute_loss(batch)
    torch.testing.assert_close(seen[2], torch.cat([x, x]))  # from half the steps on as it is
    assert not torch.allclose(seen[1], seen[2], atol=0.05)
    with pytest.raises(ValueError, match="--augmentation_until is 1.5.*from 0 to 1"):
        ExplainerArguments(augmentation_until=1.5)


def test_the_natural_length_of_the_change_counts(tmp_path):
    natural = NaturalChange(explained(PatchClassifier()).batches.images, grid=4)
    losses = {}
    for weight in (0.0, 2.0):
        trainer = ready(
            tiny_explainer_trainer(
                tmp_path / str(weight),
                model=tiny_generator(residual_output=False),
                stage={"natural_weight": weight, "natural_change_object": natural},
            )
        )
        batch = trainer.train_dataset.__getitems__(list(range(8)))
        torch.manual_seed(3)
        losses[weight], logs = trainer.compute_loss(batch)
    assert logs["natural"] > 0
    torch.testing.assert_close(losses[2.0] - losses[0.0], 2 * logs["natural"], rtol=1e-4, atol=1e-4)


def test_rows_per_bin_may_learn_faster(tmp_path):
    trainer = ready(tiny_explainer_trainer(tmp_path, stage={"condition_lr_scale": 5.0}))
    others, rows = trainer.optimizer.param_groups
    assert rows["lr"] == pytest.approx(5 * others["lr"])
    assert {p.shape[0] for p in rows["params"]} == {10} and len(rows["params"]) == 2 * (2 + 1)
    assert len(others["params"]) + len(rows["params"]) == len(trainer.parameters)
    with pytest.raises(ValueError, match="condition_lr_scale"):
        ExplainerArguments(condition_lr_scale=0.0)


def test_shifts_per_bin_may_start_apart():
    """Opposite at the outermost bins, in even steps between them, and the middle of the bins stays 0."""
    model = tiny_generator()
    spread_conditions(model, 0.5)
    for norm in [model.norm_out, model.up_blocks[0].norm1]:
        assert norm.beta.std() > 0.05
        torch.testing.assert_close(norm.beta, -norm.beta.flip(0))
        torch.testing.assert_close(norm.beta.diff(dim=0, n=2), torch.zeros(8, norm.beta.shape[1]))
    assert not model.down_blocks[0].norm1.beta.any()
    x = PatchData(3).images
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(x, 9).pixel_values, x
        )  # a residual output still starts at no change


def test_apart_they_leave_the_saddle_point(tmp_path):
    """Without a discriminator and with preservation that sets in slowly, explanations follow their targets."""
    model = tiny_generator()
    spread_conditions(model, 0.5)
    stage = {
        "adversarial_weight": 0.0,
        "reconstruction_weight": 20.0,
        "embedding_weight": 1.0,
        "preservation_start": 0.002,
        "preservation_warmup_steps": 260,
    }
    loop = {"max_steps": 68, "learning_rate": 8e-3, "per_device_batch_size": 8, "logging_steps": 34}
    trainer = tiny_explainer_trainer(tmp_path, model=model, stage=stage, **loop)
    trainer.args.eval_steps = 1000
    metrics = trainer.train()
    assert metrics["val_slope"] > 0.6 and metrics["val_mae"] < 0.12


def test_preservation_rises_geometrically(tmp_path):
    """From 0.01 over 4 steps: 0.01, 0.0316, 0.1, 0.316, then 1; the same factor on both terms of the loss."""
    stage = {"preservation_start": 0.01, "preservation_warmup_steps": 4, "adversarial_weight": 0.0}
    trainer = ready(
        tiny_explainer_trainer(tmp_path, model=tiny_generator(residual_output=False), stage=stage)
    )
    batch = trainer.train_dataset.__getitems__([0, 5, 9, 12])
    for step, share in enumerate([0.01, 0.1**1.5, 0.1, 0.1**0.5, 1.0, 1.0]):
        trainer.global_step = step
        loss, logs = trainer.compute_loss(batch)
        preserved = logs["l1_self"] + logs["l1_cycle"] + logs["embedding_distance"]
        expected = logs["kl_target"] + logs["kl_cycle"] + share * 100 * preserved
        torch.testing.assert_close(loss.detach(), expected)
        assert logs["preservation_share"] == pytest.approx(share)
    with pytest.raises(ValueError, match="preservation_start is 0"):
        ExplainerArguments(preservation_start=0.0, preservation_warmup_steps=4)
    with pytest.raises(ValueError, match="preservation_warmup_steps"):
        ExplainerArguments(preservation_start=0.1)


@pytest.mark.parametrize("source", ["true masks", "segmenter", "none", "lungs only"])
def test_where_reconstruction_counts(tmp_path, source):
    """By hand, for a generator whose output is 0 everywhere: L1 per region is the mean |x| there."""

    class Segmenter:
        def segment(self, pixel_values):
            masks = PatchData(len(pixel_values)).masks
            return dict(zip(LABELS, masks.unbind(1)))

    stage = {"adversarial_weight": 0.0}
    if source == "segmenter":
        stage |= {"true_masks": False, "segmenter": "x", "segmenter_object": Segmenter()}
    if source == "lungs only":
        stage["baseline"] = "lungs_only"
    model = tiny_generator(residual_output=False)
    torch.nn.init.zeros_(model.conv_out.weight)
    trainer = ready(tiny_explainer_trainer(tmp_path, model=model, stage=stage))
    if source == "none":
        trainer.mask_labels = []
    batch = trainer.train_dataset.__getitems__([0, 5, 9, 12])
    _, logs = trainer.compute_loss(batch)
    x = batch["pixel_values"][:, 0].abs()
    patch, row = x[:, 4:12, 4:12].mean(), x[:, 1].mean()
    rest = x.clone()
    rest[:, 4:12, 4:12] = rest[:, 1] = torch.nan
    expected = {"lungs only": patch, "none": x.mean()}.get(source, patch + row + rest.nanmean())
    torch.testing.assert_close(logs["l1_self"], expected)
    torch.testing.assert_close(logs["l1_cycle"], expected)
    assert "adversarial" not in logs


# ------------------------------------------------------------- two optimisers


def test_discriminator_steps_leave_the_generator_untouched_and_the_reverse(tmp_path):
    trainer = ready(tiny_explainer_trainer(tmp_path, model=tiny_generator(residual_output=False)))
    batch = trainer.train_dataset.__getitems__(list(range(8)))
    generator, discriminator = copies(trainer.model), copies(trainer.adversary.discriminator)
    logs = trainer._train_discriminator([batch])
    assert same(generator, copies(trainer.model))
    assert all(p.grad is None for p in trainer.model.parameters())
    after = copies(trainer.adversary.discriminator)
    assert not torch.equal(
        after["blocks.0.conv1.parametrizations.weight.original"],
        discriminator["blocks.0.conv1.parametrizations.weight.original"],
    )
    assert logs["discriminator_loss"] > 0
    loss, _ = trainer.compute_loss(batch)
    loss.backward()
    assert all(p.grad is None and p.requires_grad for p in trainer.adversary.parameters)
    assert trainer.model.conv_in.weight.grad.any()
    for name, value in copies(trainer.adversary.discriminator).items():
        if not name.endswith(("._u", "._v")):
            assert torch.equal(value, after[name])


def test_discriminator_learns_to_tell_real_from_generated(tmp_path):
    """The generator is held at a constant image: the hinge loss falls from 2 towards 0."""
    model = tiny_generator(residual_output=False)
    torch.nn.init.zeros_(model.conv_out.weight)
    trainer = ready(
        tiny_explainer_trainer(tmp_path, model=model, stage={"discriminator_learning_rate": 1e-2})
    )
    batch = trainer.train_dataset.__getitems__(list(range(8)))
    losses = [trainer._train_discriminator([batch])["discriminator_loss"] for _ in range(25)]
    assert losses[0] > 1.2 and losses[-1] < 0.3


def test_every_discriminator_step_has_images_of_its_own(tmp_path):
    trainer = ready(tiny_explainer_trainer(tmp_path, stage={"discriminator_steps": 3}, max_steps=2))
    assert trainer.step_images == 12 and trainer.steps_per_epoch == 40 // 12
    (first, second) = list(trainer._train_loader())
    assert len(first["posterior"]) == 12
    seen = []
    trainer.discriminator_loss = lambda part: (
        seen.append(part["pixel_values"]) or next(iter(trainer.adversary.parameters)).sum()
    )
    trainer.adversary.step = lambda scale: (0.0, True)
    trainer._train_discriminator([first])
    assert torch.equal(torch.cat(seen), first["pixel_values"])
    bins = trainer.bins.index(torch.cat([first["posterior"], second["posterior"]]))
    assert torch.bincount(bins, minlength=10)[:10].max() <= 3  # 24 images of 10 bins


def test_a_bad_discriminator_step_skips_the_whole_step(tmp_path):
    trainer = tiny_explainer_trainer(tmp_path, max_consecutive_skips=2, max_steps=9)
    before = copies(trainer.model)
    whole = trainer.adversary.loss
    trainer.adversary.loss = lambda *args: whole(*args) * math.nan
    weights = copies(trainer.adversary.discriminator)
    with pytest.raises(TrainingDivergedError, match="last 3 steps were all skipped"):
        trainer.train()
    assert same(before, copies(trainer.model))
    original = "linear.parametrizations.weight.original"
    assert torch.equal(weights[original], trainer.adversary.discriminator.state_dict()[original])


def test_wrong_parts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no gradient.*student"):
        tiny_explainer_trainer(
            tmp_path, classifier=PatchClassifier(differentiable=False), train=explained(PatchClassifier())
        )
    trainer = tiny_explainer_trainer(tmp_path)
    trainer.accelerator = type("A", (), {"mixed_precision": "fp16"})
    with pytest.raises(ValueError, match="bf16"):
        trainer._check(trainer.classifier, trainer.adversary.discriminator)
    trainer.accelerator.mixed_precision = "no"
    trainer.model.config.num_bins = 5
    with pytest.raises(ValueError, match="num_bins is 5 .* 10"):
        trainer._check(trainer.classifier, trainer.adversary.discriminator)
    with pytest.raises(ValueError, match="lungs_only needs lungs"):
        ExplainerArguments(baseline="lungs_only", segmenter="none")
    with pytest.raises(ValueError, match="reconstruction"):
        ExplainerArguments(reconstruction_weight=-1)


# ------------------------------------------------------------------ to resume


def test_resumed_run_ends_with_the_same_bits(tmp_path):
    settings = {"max_steps": 5, "save_steps": 2, "gradient_accumulation_steps": 2, "per_device_batch_size": 3}

    def generator():
        return tiny_generator(residual_output=False)

    tiny_explainer_trainer(tmp_path / "one", model=generator(), **settings).train()

    class Stop(Exception):
        pass

    trainer = tiny_explainer_trainer(tmp_path / "two", model=generator(), **settings)
    trainer.after_step = lambda logs: (_ for _ in ()).throw(Stop) if trainer.global_step == 4 else None
    with pytest.raises(Stop):
        trainer.train()
    assert [p.name for p in list_checkpoints(tmp_path / "two")] == ["checkpoint-00000002"]
    torch.rand(7)
    again = tiny_explainer_trainer(
        tmp_path / "two", resume_from_checkpoint="latest", model=generator(), **settings
    )
    again.train()
    assert_same_run(tmp_path / "one", tmp_path / "two")

    other = PatchClassifier(slope=3)
    refused = tiny_explainer_trainer(
        tmp_path / "two",
        classifier=other,
        resume_from_checkpoint="latest",
        model=generator(),
        **(settings | {"max_steps": 6}),
    )
    with pytest.raises(CheckpointError, match="explained the classifier"):
        refused.train()


# ---------------------------------------------------------------- the command


def test_classifiers_by_name(tmp_path, monkeypatch):
    black_box = load_black_box(f"{HERE}:predict", "lower left", '{"identity": "v1", "threshold": 0.4}')
    assert isinstance(black_box, ImageClassifier) and not black_box.differentiable
    assert black_box.threshold == 0.4 and black_box.class_name == "lower left"
    assert isinstance(load_black_box(f"{HERE}:make_classifier"), PatchClassifier)
    assert isinstance(load_black_box(f"{HERE}:PatchClassifier"), PatchClassifier)
    (tmp_path / "own_module.py").write_text(
        "def answer(images):\n    return images.mean((1, 2, 3)) / 2 + 0.5\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_black_box("own_module:answer", "brightness").posterior(torch.zeros(2, 1, 8, 8)).tolist() == [
        0.5,
        0.5,
    ]
    for name, message in {
        "no_such_module:f": "no_such_module",
        f"{HERE}:nothing": "has no 'nothing'",
    }.items():
        with pytest.raises(ValueError, match=message):
            import_object(name)
    with pytest.raises(ValueError, match="no JSON"):
        load_black_box(f"{HERE}:predict", "x", "index=3")
    with pytest.raises(ValueError, match="JSON object"):
        load_black_box(f"{HERE}:predict", "x", "[3]")
    with pytest.raises(BlackBoxError, match="class_name"):
        load_black_box(f"{HERE}:predict")


def test_the_classifier_of_a_causal_model_is_meant(tmp_path):
    from tests.pipelines.tiny import tiny_model

    model = tiny_model()
    model.save_pretrained(tmp_path)
    expected = as_image_classifier(model.classifier.eval(), "finding")
    assert load_black_box(str(tmp_path), "finding").fingerprint() == expected.fingerprint()


def command(tmp_path, *words):
    return explainer_command.main(
        [
            *("--dataset", "phantom", "--resolution", "32", "--num_images", "40", "--cache_images", "true"),
            *("--cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "run")),
            *("--widths", "8", "8", "--residual_output", "true", "--max_steps", "2", "--sample_steps", "0"),
            *("--per_device_batch_size", "2", "--discriminator_steps", "2", "--learning_rate", "0.001"),
            *("--cpu", "true", "--report_to", "none", "--disable_tqdm", "true", *words),
        ]
    )


def test_a_function_without_gradients_is_explained_through_a_student(tmp_path, caplog):
    words = [
        *("--classifier", f"{HERE}:predict", "--class_name", "lower left"),
        *("--classifier_options", '{"identity": "predict 1", "threshold": 0.6}'),
        *("--true_masks", "true", "--force_student", "true", "--student_epochs", "2"),
    ]
    with pytest.warns(UserWarning, match="does not repeat its black box"):
        command(tmp_path, *words)
    run = tmp_path / "run"
    manifest = json.loads((run / "run.json").read_text())
    black_box = load_black_box(f"{HERE}:predict", "lower left", {"identity": "predict 1", "threshold": 0.6})
    model = ProgressiveExplainerModel.from_pretrained(run)
    student = StudentClassifier.from_pretrained(run / "student")
    assert model.config.classifier_fingerprint == student.fingerprint()
    assert model.config.black_box_fingerprint == black_box.fingerprint()
    assert model.config.class_name == "lower left" and model.config.threshold == 0.6
    told = manifest["explained"]
    assert told["student"] == {
        "fingerprint": student.fingerprint(),
        "fidelity": student.fidelity.to_dict(),
    }
    assert not told["differentiable"] and told["fingerprint"] == black_box.fingerprint()
    assert sum(manifest["images_per_bin"]) == 40
    assert 0 <= manifest["metrics"]["val_mae_black_box"] <= 1
    # an untrained student answers in few bins
    assert re.search(r"No training image has a posterior in bin \d \(.*Nothing is relabelled", caplog.text)
    # a second run does not overwrite the student before it is refused
    weights = (run / "student" / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="already holds a run"):
        command(tmp_path, *words)
    assert (run / "student" / "model.safetensors").read_bytes() == weights
    # a resumed run takes the student that is there
    command(tmp_path, *words, "--resume_from_checkpoint", "latest", "--max_steps", "3")
    assert (run / "student" / "model.safetensors").read_bytes() == weights
    assert json.loads((run / "run.json").read_text())["steps"] == 3


def test_command_with_a_differentiable_classifier_and_the_baseline(tmp_path):
    model = command(
        tmp_path,
        "--classifier",
        f"{HERE}:make_classifier",
        "--true_masks",
        "true",
        "--baseline",
        "lungs_only",
        "--natural_weight",
        "1",
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("natural", -1) >= 0 for line in lines)
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["stage"]["baseline"] == "lungs_only" and "student" not in manifest["explained"]
    assert model.config.class_name == "bright patch"
    assert model.config.classifier_fingerprint == PatchClassifier().fingerprint()
    assert model.config.black_box_fingerprint is None
    longer = explainer_command.build_explainer(
        ExplainerArguments(init_from=str(tmp_path / "run")), PatchClassifier(slope=2), 32
    )
    assert longer.config.classifier_fingerprint == PatchClassifier(slope=2).fingerprint()
    saved = ProgressiveExplainerModel.from_pretrained(tmp_path / "run")
    assert CXRImageProcessor.from_pretrained(tmp_path / "run").usual_films["distance_limit"] > 0
    assert torch.equal(longer.conv_in.weight, saved.conv_in.weight)
    with pytest.raises(ValueError, match="10 bins"):
        explainer_command.build_explainer(
            ExplainerArguments(init_from=str(tmp_path / "run"), num_bins=5), PatchClassifier(), 32
        )
    with pytest.raises(ValueError, match="without segment"):
        explainer_command.load_segmenter(f"{HERE}:make_classifier")


def test_black_boxes_that_cannot_be_are_refused_before_anything_is_written(tmp_path):
    for name, message in MESSAGES.items():
        black_box = ("--classifier", f"tests.training.bad_black_boxes:{name}", "--class_name", "x")
        with pytest.raises(BlackBoxError, match=message):
            command(tmp_path, *black_box, "--true_masks", "true", "--force_student", "true")
    attribute_model().save_pretrained(tmp_path / "classifier")
    with pytest.raises(BlackBoxError, match="Unknown class 'edema'.*finding=effusion"):
        command(tmp_path, "--classifier", str(tmp_path / "classifier"), "--class_name", "edema")
    assert not (tmp_path / "run").exists()


def test_command_with_a_segmenter_computes_its_masks_once(tmp_path, monkeypatch):
    from cf_cxr.models.anatomy_segmenter import AnatomySegmenterConfig, AnatomySegmenterModel

    folder = tmp_path / "segmenter"
    AnatomySegmenterModel(AnatomySegmenterConfig(widths=[8, 8], image_size=32)).save_pretrained(folder)
    asked = []
    whole = AnatomySegmenterModel.segment
    monkeypatch.setattr(
        AnatomySegmenterModel,
        "segment",
        lambda self, pixels, *rest: asked.append(len(pixels)) or whole(self, pixels, *rest),
    )
    words = ["--classifier", f"{HERE}:make_classifier", "--segmenter", str(folder)]
    command(tmp_path, *words)
    assert sum(asked) == 40 + 5 + 2  # training and validation images, and one of each for the labels
    asked.clear()
    command(tmp_path, *words, "--overwrite_output_dir", "true")
    assert sum(asked) == 2
    asked.clear()
    command(tmp_path, *words, "--overwrite_output_dir", "true", "--precompute_masks", "false")
    assert asked == [2, 2]  # one batch per step


def test_masks_found_once_are_those_of_the_segmenter(tmp_path):
    class Bright(torch.nn.Module):
        def segment(self, pixel_values):
            return {"bright": pixel_values[:, 0] > 0.2, "dark": pixel_values[:, 0] < -0.2}

    data = PatchData(10)
    for _ in range(2):  # computed, then read
        batches = segmented_batches(Bright(), data, tmp_path, batch_size=4, progress=False)
        masks = batches.__getitems__([7, 2])["masks"]
        x = data.images[[7, 2]]
        assert torch.equal(masks, torch.cat([x > 0.2, x < -0.2], dim=1))
        assert batches.labels == ("bright", "dark")
    with pytest.raises(ValueError, match="At most 8"):
        pack_masks(torch.zeros(1, 9, 2, 2, dtype=torch.bool))
