"""Two processes on the CPU, started by `torchrun`."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file

from cf_cxr.training.causal_hvae.trainer import HVAEConfig
from cf_cxr.training.loop.checkpointing import list_checkpoints
from cf_cxr.training.loop.launch import refuse_missing_processes
from tests.training.loop.tiny import log_of, run_process, tiny_trainer


def launch(output_dir, *words):
    return run_process("tests.training.loop.run_tiny", "--output_dir", output_dir, *words, processes=2)


def test_two_processes_do_what_one_does_with_the_double_batch(tmp_path):
    """Plain gradient descent on posterior means: the same images give the same steps, up to rounding.

    The validation split has 7 images, which two processes cannot share evenly.
    """
    words = ["--max_steps", "4", "--save_steps", "2", "--per_device_train_batch_size"]
    result = launch(tmp_path / "two", *words, 2)
    assert result.returncode == 0, result.stderr[-3000:]
    from tests.training.loop.run_tiny import PlainTrainer

    one = tiny_trainer(
        tmp_path / "one", kind=PlainTrainer, max_steps=4, save_steps=2, per_device_train_batch_size=4
    )
    one.train()
    assert json.loads((tmp_path / "two" / "run.json").read_text())["num_processes"] == 2
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    start = one.initial
    assert any(not (start[name] - first[name]).abs().max() < 1e-4 for name in first)
    for name in first:
        assert (first[name] - second[name]).abs().max() < 1e-5, name
    noise = [(tmp_path / "two" / f"noise_{rank}.txt").read_text().split() for rank in (0, 1)]
    assert len({*noise[0], *noise[1]}) == 8  # of four steps of two processes
    for a, b in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert len(list_checkpoints(tmp_path / "two")) == 2


@pytest.mark.slow
def test_two_processes_go_on_where_they_were_stopped(tmp_path):
    """In the middle of the second epoch, with the same bits at the end."""
    words = "--save_steps 4 --per_device_train_batch_size 4 --ema_decay 0.5".split()
    for name, more in (("one", ["5"]), ("two", ["4"]), ("two", ["5", "--resume_from_checkpoint", "latest"])):
        result = launch(tmp_path / name, *words, "--max_steps", *more)
        assert result.returncode == 0, result.stderr[-3000:]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_launcher_that_started_one_process_of_several_is_refused(monkeypatch):
    several = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}
    for name in (*several, "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in several.items():
        refuse_missing_processes()  # one process was asked for, or the variable is somebody else's
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="torchrun --standalone --nproc_per_node"):
        HVAEConfig()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    HVAEConfig()  # there are two; they do not meet yet, since data are prepared before
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_a_process_that_stops_ends_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_STOP", "1")
    started = time.monotonic()
    result = launch(tmp_path, "--max_steps", 4, "--ddp_timeout", 10)
    assert result.returncode != 0 and time.monotonic() - started < 180
