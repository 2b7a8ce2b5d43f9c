"""The loop itself: skipping, accumulation, averaging, output folder, records."""

import json
import logging
import math
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from cf_cxr import CXRImageProcessor
from cf_cxr.models.causal_hvae import CausalHVAEModel
from cf_cxr.packaging.deep_scm import load_image_mechanism, load_image_processor
from cf_cxr.training.causal_hvae.trainer import HVAETrainer
from cf_cxr.training.loop.averaging import WeightAverage
from cf_cxr.training.loop.callbacks import TrainingDivergedError
from cf_cxr.training.loop.checkpointing import CheckpointError, list_checkpoints
from cf_cxr.training.loop.run_folder import OutputDirectoryError
from tests.hub_server import LocalHub
from tests.test_hub import run_client
from tests.training.loop.run_tiny import PlainTrainer
from tests.training.loop.tiny import POISON, TinyData, log_of, tiny_hvae, tiny_trainer


class PoisonedTrainer(HVAETrainer):
    """The loss is NaN when a batch has a marked image."""

    def batch_loss(self, model, batch):
        loss, logs = super().batch_loss(model, batch)
        poisoned = (batch["pixel_values"][:, 0, 0, 0] == POISON).any()
        return loss * (math.nan if poisoned else 1.0), logs


# ------------------------------------------------------------------ a normal run


def test_run_learns_and_leaves_what_it_should(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=30, learning_rate=1e-2, sample_steps=20)
    metrics = trainer.train()
    log = log_of(tmp_path)
    losses = [line["loss"] for line in log if "loss" in line]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    assert log[0].keys() >= {*"step loss nll kl bits_per_dim grad_norm learning_rate".split()}
    assert "images_per_second" in (tmp_path / "metrics.jsonl").read_text()
    assert math.isclose(metrics["eval_bits_per_dim"], metrics["eval_nelbo"] / math.log(2), rel_tol=1e-5)
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["finished"] and manifest["steps"] == 30 and manifest["seed"] == 3
    assert manifest["arguments"]["learning_rate"] == 1e-2 and manifest["versions"]["torch"]
    picture = Image.open(tmp_path / "samples" / "step_00000020_samples.png")
    assert picture.mode == "L" and picture.height == 3 * 16 + 2 * 2
    CausalHVAEModel.from_pretrained(tmp_path)


def test_final_weights_are_the_average_and_the_checkpoint_has_the_raw_ones(tmp_path):
    """Average of two steps by hand: decays are 0, then min(0.9, 2 / 11)."""
    weights = []
    trainer = tiny_trainer(tmp_path, max_steps=2, save_steps=50)
    name, parameter = next(iter(trainer.model.named_parameters()))
    trainer.after_step = lambda logs: weights.append(parameter.detach().clone())
    trainer.train()
    expected = weights[0] + (1 - 2 / 11) * (weights[1] - weights[0])
    final = load_file(tmp_path / "model.safetensors")[name]
    torch.testing.assert_close(final, expected)
    assert torch.equal(load_file(list_checkpoints(tmp_path)[-1] / "model.safetensors")[name], weights[1])
    assert torch.equal(parameter, final)


def test_batch_statistics_are_averaged_with_the_weights():
    model = torch.nn.BatchNorm1d(2)
    average = WeightAverage(dict(model.named_parameters()), {"running_mean": model.running_mean}, 0.5)
    model.running_mean.fill_(8.0)
    average.step()  # decay 0: the first step copies
    model.running_mean.fill_(0.0)
    average.step()  # decay 2/11
    with average.applied():
        torch.testing.assert_close(model.running_mean, torch.full((2,), 8 * 2 / 11))
        with average.applied():
            torch.testing.assert_close(model.running_mean, torch.full((2,), 8 * 2 / 11))
    assert torch.equal(model.running_mean, torch.zeros(2))


def test_two_half_batches_are_one_batch(tmp_path):
    """Same images per step, so the same weights up to rounding."""
    results = []
    for size, accumulation in ((4, 1), (2, 2)):
        folder = tmp_path / str(size)
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        tiny_trainer(folder, train=TinyData(12), kind=PlainTrainer, max_steps=5, **settings).train()
        losses = [line["loss"] for line in log_of(folder) if "loss" in line]
        results.append((load_file(folder / "model.safetensors"), losses))
    (first, losses), (second, others) = results
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)
    assert losses == pytest.approx(others, rel=1e-5)


@pytest.mark.parametrize(
    ("option", "tolerance"),
    [
        ("channels_last", 1e-4),
        ("activation_checkpointing", 1e-4),
        ("bf16", 0.02),
        pytest.param("torch_compile", 1e-2, marks=pytest.mark.slow),  # compiled code draws its own noise
    ],
)
def test_options_do_not_change_the_result(tmp_path, monkeypatch, option, tolerance):
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "propagate", False)
    losses = []
    for value in (False, True):
        folder = tmp_path / str(value)
        tiny_trainer(folder, max_steps=3, eval_strategy="no", **{option: value}).train()
        losses.append([line["loss"] for line in log_of(folder)])
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)


# --------------------------------------------------------------- steps that fail


class Watching(TrainerCallback):
    """Notes of every step whether it changed a weight."""

    def __init__(self):
        self.changed = []

    def on_step_begin(self, args, state, control, model, **kwargs):
        self.held = [p.detach().clone() for p in model.parameters()]

    def on_step_end(self, args, state, control, model, **kwargs):
        self.changed.append(any(not torch.equal(a, b) for a, b in zip(self.held, model.parameters())))


def test_step_with_nan_is_skipped_and_counted(tmp_path):
    """One marked image in 24: one step of every epoch of six is skipped, and changes no weight."""
    data, watching = TinyData(24, poison=[5]), Watching()
    trainer = tiny_trainer(
        tmp_path, train=data, kind=PoisonedTrainer, max_steps=12, eval_strategy="no", warmup_steps=0
    )
    trainer.add_callback(watching)
    trainer.train()
    assert trainer.skipped_steps == 2 and log_of(tmp_path)[-1]["skipped_steps"] == 2
    assert sum(watching.changed[:6]) == sum(watching.changed[6:]) == 5
    assert all(w.isfinite().all() for w in load_file(tmp_path / "model.safetensors").values())


def test_exploding_gradient_is_skipped(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=3, skip_threshold=1e-3, eval_strategy="no", weight_decay=0.5)
    start = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    assert trainer.skipped_steps == 3
    assert all(torch.equal(start[name], tensor) for name, tensor in trainer.model.state_dict().items())


def test_persistent_nan_stops_the_run_with_an_explanation(tmp_path):
    settings = {"max_steps": 50, "save_steps": 2, "max_consecutive_skips": 3, "eval_strategy": "no"}
    trainer = tiny_trainer(tmp_path, kind=PoisonedTrainer, **settings)
    trainer.after_step = lambda logs: trainer.train_dataset.images.fill_(POISON)
    with pytest.raises(TrainingDivergedError) as error:
        trainer.train()
    text = str(error.value)
    for part in ("step 6", "last 4 steps", "loss nan", "--learning_rate", "0.003", "NaN in the images"):
        assert part in text
    last = list_checkpoints(tmp_path)[-1]
    assert str(last) in text
    assert all(w.isfinite().all() for w in load_file(last / "model.safetensors").values())
    assert not (tmp_path / "model.safetensors").exists()


def test_batch_statistics_survive_a_skipped_step(tmp_path):
    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(1)

        def save_pretrained(self, folder, state_dict=None):
            os.makedirs(folder, exist_ok=True)
            save_file(self.state_dict(), Path(folder) / "model.safetensors")

    class Trainer(HVAETrainer):
        def batch_loss(self, model, batch):
            pixels = torch.where(batch["pixel_values"] == POISON, math.nan, batch["pixel_values"])
            return model.norm(pixels).square().mean(), {}

    trainer = tiny_trainer(
        tmp_path, train=TinyData(8, poison=[0]), kind=Trainer, model=Normed(), max_steps=4, eval_strategy="no"
    )
    trainer.train()
    assert trainer.skipped_steps == 2
    assert trainer.model.norm.running_mean.isfinite().all()


# ------------------------------------------------------------------ output folder


def test_folder_with_a_run_is_refused_unless_asked(tmp_path):
    tiny_trainer(tmp_path, max_steps=2).train()
    (tmp_path / "notes.txt").write_text("mine")
    weights = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(OutputDirectoryError, match="already holds a run.*--overwrite_output_dir"):
        tiny_trainer(tmp_path, max_steps=3).train()
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    tiny_trainer(tmp_path, max_steps=3, save_steps=50, overwrite_output_dir=True).train()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-3"]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "model.safetensors").read_bytes() != weights


def test_resuming_elsewhere_does_not_mix_runs(tmp_path):
    tiny_trainer(tmp_path / "a", max_steps=2).train()
    tiny_trainer(tmp_path / "b", max_steps=2).train()
    checkpoint = list_checkpoints(tmp_path / "a")[-1]
    with pytest.raises(OutputDirectoryError, match="already holds a run"):
        tiny_trainer(tmp_path / "b", max_steps=3, resume_from_checkpoint=str(checkpoint)).train()
    tiny_trainer(tmp_path / "c", max_steps=3, resume_from_checkpoint=str(checkpoint)).train()
    assert [line["step"] for line in log_of(tmp_path / "c")] == [1, 2, 2, 3, 3]


def test_latest_without_a_checkpoint_starts_anew_with_a_warning(tmp_path, caplog):
    tiny_trainer(tmp_path, max_steps=2, resume_from_checkpoint="latest").train()
    assert "starting at step 0" in caplog.text
    assert log_of(tmp_path)[0]["step"] == 1


def test_the_second_run_in_a_folder_is_refused_while_the_first_goes_on(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=2, eval_strategy="no")
    refused = []

    def second(logs):
        with pytest.raises(OutputDirectoryError, match="Another process is training in") as error:
            tiny_trainer(tmp_path, max_steps=2, resume_from_checkpoint="latest").train()
        refused.append(error)

    trainer.after_step = second
    trainer.train()
    assert len(refused) == 2 and json.loads((tmp_path / "run.json").read_text())["finished"]


def test_sigterm_saves_and_ends_with_a_word(tmp_path, capsys):
    trainer = tiny_trainer(tmp_path, max_steps=9, save_steps=50, eval_strategy="no")
    trainer.after_step = lambda logs: trainer.state.global_step == 3 and os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        trainer.train()
    assert left.value.code == 143
    assert "Stopped by SIGTERM after step 4, which is saved; go on with --resume" in capsys.readouterr().out
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-4"]
    assert not (tmp_path / "model.safetensors").exists()
    tiny_trainer(tmp_path, max_steps=9, save_steps=50, resume_from_checkpoint="latest").train()
    assert json.loads((tmp_path / "run.json").read_text())["steps"] == 9


@pytest.mark.parametrize(
    ("full", "name", "settings"),
    [
        (4, "checkpoint-4", {"save_steps": 2}),
        (
            1,
            "best.safetensors",
            {"eval_strategy": "epoch", "metric_for_best_model": "nll", "save_strategy": "no"},
        ),
        (4, "model.safetensors", {"save_strategy": "no"}),
    ],
)
def test_a_full_disk_is_named_and_nothing_is_left_behind(tmp_path, full, name, settings):
    """A limit on the size of files fails all writers as a full disk does."""
    trainer = tiny_trainer(tmp_path, **{"max_steps": 4, "eval_strategy": "no", "eval_steps": None} | settings)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(logs):
        if trainer.state.global_step == full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    trainer.after_step = fill
    try:
        with pytest.raises(CheckpointError, match=rf"{name}' could not be written.* MB free .*Make room"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob(".incomplete-*"))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2"] * ("save_steps" in settings)


# ----------------------------------------------------------------- order of images


def test_every_epoch_shows_every_image_once_and_differs_from_the_next(tmp_path):
    orders = []
    for seed in (3, 4):
        seen = []
        trainer = tiny_trainer(
            tmp_path / str(seed), max_steps=12, seed=seed, eval_strategy="no", learning_rate=1e-9
        )
        trainer.data_collator = lambda batch, seen=seen: (
            seen.extend(batch["attributes"][:, 0].tolist()) or batch
        )
        trainer.train()
        orders.append(seen)
    for order in orders:
        everyone = sorted(TinyData().attributes[:, 0].tolist())
        assert sorted(order[:24]) == sorted(order[24:]) == everyone and order[:24] != order[24:]
    assert orders[0] != orders[1]


def test_too_few_images_for_a_step(tmp_path):
    with pytest.raises(ValueError, match="3 images, but one step needs 4.*per_device_train_batch_size"):
        tiny_trainer(tmp_path, train=TinyData(3), model=tiny_hvae())


def test_a_checkpoint_can_be_packaged_with_its_averaged_weights(tmp_path):
    trainer = tiny_trainer(
        tmp_path, max_steps=4, save_steps=2, save_total_limit=0, ema_decay=0.5, lr_scheduler_type="constant"
    )
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    name = "likelihood.x_loc.weight"
    averaged, raw = (load_file(checkpoint / f"{kind}.safetensors")[name] for kind in ("ema", "model"))
    loaded = load_image_mechanism(checkpoint)
    assert torch.equal(loaded.state_dict()[name], averaged) and not torch.equal(averaged, raw)
    final = load_image_mechanism(tmp_path).state_dict()[name]
    assert torch.equal(final, load_file(tmp_path / "model.safetensors")[name])
    assert not torch.equal(final, averaged)
    CXRImageProcessor(size=8, crop_mode="pad").save_pretrained(tmp_path)
    assert load_image_processor(checkpoint, 16).crop_mode == "pad"
    assert load_image_processor(checkpoint / "none", 16).size == {"height": 16, "width": 16}


# ------------------------------------------------------------------------ elsewhere


def test_the_final_model_is_pushed_with_its_card_and_nothing_else(tmp_path):
    script = """
        from tests.training.loop.tiny import main
        main([*os.environ["WORDS"].split(), "--push_to_hub", "--hub_model_id", "me/tiny", "--hub_token", "hf_secret"])
        print(json.dumps({}))
    """
    with LocalHub() as hub:
        words = f"--output_dir {tmp_path / 'new'} --max_steps 2 --save_steps 1 --eval_strategy no"
        run_client(hub, tmp_path, script, WORDS=words)
        files = dict(hub.repositories["me/tiny"].files)
        (tmp_path / "carded").mkdir()
        (tmp_path / "carded" / "README.md").write_text("---\nlicense: mit\n---\nMine.")
        run_client(hub, tmp_path, script, WORDS=words.replace("new", "carded"))
        card = hub.repositories["me/tiny"].files["README.md"].decode()
    assert set(files) - {".gitattributes"} == {"README.md", "config.json", "model.safetensors"}
    assert files["model.safetensors"] == (tmp_path / "new" / "model.safetensors").read_bytes()
    assert "tiny" in files["README.md"].decode() and card.endswith("Mine.")
    assert not list(tmp_path.rglob("training_args.bin")) and not list(tmp_path.rglob("*.pth"))
    assert "hf_secret" not in (tmp_path / "new" / "run.json").read_text()


def test_any_tracker_is_told(tmp_path):
    """A tracker of transformers is a callback; TensorBoard also gets the pictures."""
    tiny_trainer(tmp_path, max_steps=2, sample_steps=2, report_to=["tensorboard"], eval_strategy="no").train()
    (events,) = (tmp_path / "runs").glob("**/events*")
    reader = EventAccumulator(str(events.parent)).Reload()
    assert {"train/loss", "train/kl", "train/grad_norm"} <= set(reader.Tags()["scalars"])
    assert reader.Tags()["images"] == ["samples"]
    with pytest.raises(ValueError, match="nobody"):
        tiny_trainer(tmp_path / "two", report_to=["nobody"])
