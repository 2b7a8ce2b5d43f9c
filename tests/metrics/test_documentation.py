"""The examples of docs/metrics.md run and say what the page says."""

import re
from pathlib import Path

import pytest

import cf_cxr.metrics as metrics

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.S)), {})  # noqa: S102
    cell, difference, slope, distance, same_cell = capsys.readouterr().out.strip().splitlines()
    estimate, low, high = eval(cell)
    assert 0 < low < estimate < high
    assert eval(difference)[1] > 0
    assert eval(slope)[0] == pytest.approx(0.8, abs=0.02)
    assert eval(distance) == 0
    assert eval(same_cell)[0] == estimate


def test_every_module_is_named():
    assert all(f"`{name}`" in PAGE for name in metrics.NAMES)
