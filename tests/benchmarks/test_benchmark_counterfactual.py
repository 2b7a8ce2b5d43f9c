"""The benchmark of counterfactuals runs, counts the passes that the documentation claims, and writes its JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("benchmark_counterfactual.py")


@pytest.mark.slow
def test_passes_of_both_sides(tmp_path):
    words = "--setting tiny --batch 2 --repeats 1 --threads 1 --interventions 4 --ours fp32 --json".split()
    command = [sys.executable, SCRIPT, *words, tmp_path / "benchmark.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "abduct + K=4" in done.stdout and "speed-up" in done.stdout
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert report["largest_difference"] < 1e-4
    passes = {(r["case"], r["side"]): (r["encoder_passes"], r["decoder_passes"]) for r in report["rows"]}
    assert passes == {
        ("abduct + K=4", "literal"): (4, 12),
        ("abduct + K=4", "literal, abduct once"): (1, 6),
        ("abduct + K=4", "ours fp32"): (1, 2),
        ("CFT step", "literal"): (2, 4),
        ("CFT step", "ours fp32"): (1, 2),
    }
    assert all(r["seconds"] > 0 and r["peak_mib"] > r["peak_above_idle_mib"] >= 0 for r in report["rows"])
