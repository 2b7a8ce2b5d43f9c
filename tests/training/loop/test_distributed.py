"""Two processes on the CPU, started by `accelerate launch`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cf_cxr.training.loop.checkpointing import list_checkpoints
from cf_cxr.training.loop.launch import processes_missing, requested_processes, start_missing_processes
from tests.training.loop.tiny import tiny_trainer

ROOT = Path(__file__).parents[3]


def launch(*words, script="tests/training/loop/run_tiny.py"):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "MASTER_"))}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", script, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def log(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_do_what_one_does_with_the_double_batch(tmp_path):
    """Plain gradient descent on posterior means: the same images give the same steps, up to rounding.

    The validation split has 7 images, which two processes cannot share evenly.
    """
    words = ["--max_steps", "4", "--save_steps", "2", "--per_device_batch_size"]
    result = launch("--output_dir", str(tmp_path / "two"), *words, "2")
    assert result.returncode == 0, result.stderr[-3000:]
    from tests.training.loop.run_tiny import PlainTrainer

    one = tiny_trainer(
        tmp_path / "one", kind=PlainTrainer, max_steps=4, save_steps=2, per_device_batch_size=4
    )
    one.train()
    assert json.loads((tmp_path / "two" / "run.json").read_text())["num_processes"] == 2
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    start = one.initial
    assert any(not (start[name] - first[name]).abs().max() < 1e-4 for name in first)
    for name in first:
        assert (first[name] - second[name]).abs().max() < 1e-5, name
    for a, b in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"images_per_second"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
    assert len(list_checkpoints(tmp_path / "two")) == 2


def test_number_of_processes_is_read_from_the_launchers_command():
    assert requested_processes(["python", "accelerate", "launch", "--num_processes", "2", "x.py"]) == 2
    assert requested_processes(["accelerate", "launch", "--num-processes=3", "x.py"]) == 3
    assert requested_processes(["accelerate", "launch", "x.py"]) is None


def test_only_a_launcher_that_started_too_few_is_helped(monkeypatch):
    several = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}
    assert processes_missing(several)
    assert not processes_missing({"ACCELERATE_MIXED_PRECISION": "no"})  # one process was asked for
    assert not processes_missing(several | {"RANK": "0", "WORLD_SIZE": "2"})  # already started
    assert not processes_missing({"MASTER_ADDR": "10.0.0.1"})  # somebody else's variable
    for name, value in several.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="torchrun --nproc_per_node"):
        start_missing_processes(cpu=True)  # pytest's parent does not name a number
