"""A run that was killed and resumed ends with the same bits as one that was not."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cf_cxr.files import sha256_of
from cf_cxr.training.loop.checkpointing import CheckpointError, list_checkpoints
from tests.training.loop.tiny import TinyData, log_of, main, run_process, tiny_hvae, tiny_trainer


def run_killed(output_dir, *words, kill=""):
    result = run_process("tests.training.loop.tiny", "--output_dir", output_dir, *words, TINY_KILL=kill)
    assert result.returncode == (-signal.SIGKILL if kill else 0), result.stderr[-3000:]


def assert_same_state(first, second):
    if torch.is_tensor(first):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same_state(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for a, b in zip(first, second):
            assert_same_state(a, b)
    else:
        assert first == second


def assert_same_run(first, second):
    """Final weights, last checkpoint (raw weights, average, optimiser) and the log are bit-identical."""
    a, b = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert_same_state(a, b)
    last, other = list_checkpoints(first)[-1], list_checkpoints(second)[-1]
    assert last.name == other.name
    for name in ("model.safetensors", "ema.safetensors"):
        assert_same_state(load_file(last / name), load_file(other / name))
    for name in ("optimizer.pt", "scheduler.pt", "loop.pt"):
        assert_same_state(*(torch.load(path / name, weights_only=True) for path in (last, other)))
    assert log_of(first) == log_of(second)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    threads = torch.get_num_threads()
    main(["--output_dir", str(folder)])
    torch.set_num_threads(threads)
    return folder


def test_killed_and_resumed_run_ends_with_the_same_bits(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    run_killed(folder, kill="step:7")
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-4"]
    assert log_of(folder)[-1]["step"] == 7 - 1  # the seventh step was done but not logged
    run_killed(folder, "--resume_from_checkpoint", "latest", kill="writing:8")
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-4"]
    run_killed(folder, "--resume_from_checkpoint", "latest")
    assert_same_run(uninterrupted, folder)
    assert json.loads((folder / "run.json").read_text())["finished"] is True


@pytest.mark.slow
@pytest.mark.parametrize("kill", ["step:1", "writing:4", "deleting:4", "writing:12"])
def test_killed_at_other_moments(uninterrupted, tmp_path, kill):
    folder = tmp_path / "run"
    run_killed(folder, "--save_total_limit", "2", kill=kill)
    run_killed(folder, "--save_total_limit", "2", "--resume_from_checkpoint", "latest")
    assert_same_run(uninterrupted, folder)
    assert not list(folder.glob(".incomplete-*"))


def test_resume_in_the_same_process_matches_too(tmp_path):
    """Cheap variant with accumulation and a cosine schedule: two legs against one."""
    settings = {"max_steps": 6, "save_steps": 3, "per_device_train_batch_size": 2}
    settings |= {"gradient_accumulation_steps": 2, "lr_scheduler_type": "cosine"}
    tiny_trainer(tmp_path / "one", **settings).train()

    class Stop(Exception):
        pass

    trainer = tiny_trainer(tmp_path / "two", **settings)
    trainer.after_step = lambda logs: (_ for _ in ()).throw(Stop) if trainer.state.global_step == 5 else None
    with pytest.raises(Stop):
        trainer.train()
    torch.rand(17)  # global state of the generators must not matter
    tiny_trainer(tmp_path / "two", resume_from_checkpoint="latest", **settings).train()
    assert_same_run(tmp_path / "one", tmp_path / "two")


class Counter:
    """A registered object with a tensor."""

    def __init__(self):
        self.value = torch.zeros(())

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_registered_objects_are_restored(tmp_path):
    def trainer(**loop):
        made = tiny_trainer(tmp_path, save_steps=50, **loop)
        made.counter = Counter()
        made.register("counter", made.counter)
        made.after_step = lambda logs: made.counter.value.add_(1)
        return made

    trainer(max_steps=3).train()
    resumed = trainer(max_steps=5, resume_from_checkpoint="latest")
    resumed.train()
    assert resumed.counter.value == 5


@pytest.fixture
def two_checkpoints(tmp_path):
    tiny_trainer(tmp_path, max_steps=4, save_steps=2, eval_strategy="no").train()
    assert len(list_checkpoints(tmp_path)) == 2
    return tmp_path


def cut(file):
    file.write_bytes(file.read_bytes()[:-20])


def change(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", cut, "it was cut short"),
        ("ema.safetensors", change, "SHA-256"),
        ("optimizer.pt", Path.unlink, "is missing"),
        ("trainer_state.json", cut, "it was cut short"),
        ("checksums.json", cut, "is damaged"),
    ],
)
def test_damaged_checkpoint_is_named_with_the_remedy(two_checkpoints, name, damage, message):
    older, newest = list_checkpoints(two_checkpoints)
    file = newest / name
    damage(file)
    with pytest.raises(CheckpointError, match=message) as error:
        tiny_trainer(two_checkpoints, max_steps=6, resume_from_checkpoint="latest").train()
    assert str(file) in str(error.value)
    assert f"--resume_from_checkpoint {older}" in str(error.value)
    if damage is change:  # the remedy works, and the damaged checkpoint is not found again
        again = {"max_steps": 6, "save_steps": 50, "resume_from_checkpoint": str(older)}
        tiny_trainer(two_checkpoints, **again).train()
        assert [path.name for path in list_checkpoints(two_checkpoints)][-1] == "checkpoint-6"
        assert (two_checkpoints / f"abandoned-{newest.name}").is_dir()


def test_checkpoints_that_are_none(two_checkpoints):
    with pytest.raises(CheckpointError, match="does not exist.*older checkpoint is whole"):
        tiny_trainer(two_checkpoints, resume_from_checkpoint=str(two_checkpoints / "checkpoint-99")).train()
    newest = list_checkpoints(two_checkpoints)[-1]
    (newest / "checksums.json").rename(newest / "training.pt")
    with pytest.raises(CheckpointError, match="written by an earlier version"):
        tiny_trainer(two_checkpoints, resume_from_checkpoint=str(newest)).train()


def test_checkpoint_of_another_model(two_checkpoints):
    model = tiny_hvae(widths=[8, 12, 16, 32])
    with pytest.raises(CheckpointError, match="does not fit the model"):
        tiny_trainer(two_checkpoints, model=model, resume_from_checkpoint="latest").train()


def test_checkpoint_with_code_in_it_is_refused(two_checkpoints):
    newest = list_checkpoints(two_checkpoints)[-1]
    torch.save({"registered": TinyData(1)}, newest / "loop.pt")
    state = json.loads((newest / "checksums.json").read_text())
    file = newest / "loop.pt"
    state["files"]["loop.pt"] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    (newest / "checksums.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="checkpoint-4.*could run code.*checkpoint-2"):
        tiny_trainer(two_checkpoints, max_steps=6, resume_from_checkpoint="latest").train()


def test_oldest_checkpoints_are_deleted(tmp_path):
    tiny_trainer(tmp_path, max_steps=5, save_steps=1, save_total_limit=2, eval_strategy="no").train()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-5"]
