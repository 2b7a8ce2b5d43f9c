"""What a run leaves to read: metrics.jsonl, run.json, sample pictures, trackers."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from . import checkpointing
from .output_dir import MANIFEST_FILE, METRICS_FILE, SAMPLES, TRACKERS

logger = logging.getLogger(__name__)


class RunRecords:
    """Writes a run's records; does nothing on other processes than the main one."""

    def __init__(self, folder: str | Path, accelerator: Accelerator) -> None:
        self.folder, self.accelerator = Path(folder), accelerator
        self.manifest: dict[str, Any] = {}

    def start(self, manifest: Mapping[str, Any], step: int, *, trackers: bool) -> None:
        """Begin, or go on after `step`: what a killed run logged later is removed."""
        if trackers:
            if not self.accelerator.log_with and self.accelerator.is_main_process:
                logger.warning(
                    "No tracker is installed (pip install tensorboard); see metrics.jsonl instead."
                )
            self.accelerator.init_trackers(TRACKERS)
        if self.accelerator.is_main_process:
            _drop_after(self.folder / METRICS_FILE, step)
            self.manifest = dict(manifest)
            checkpointing.write_json(self.folder / MANIFEST_FILE, self.manifest)

    def metrics(self, values: Mapping[str, Any], step: int) -> None:
        """Append one line to metrics.jsonl and tell the trackers."""
        if not self.accelerator.is_main_process:
            return
        line = {"step": step, **{name: _json_number(value) for name, value in values.items()}}
        with open(self.folder / METRICS_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.accelerator.log(dict(values), step=step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Save an 8-bit grey picture (H, W) under samples/ and show it in TensorBoard."""
        folder = self.folder / SAMPLES
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"step_{step:08d}_{name}.png")
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({name: pixels[None, None]}, step=step)

    def finish(self, **facts: Any) -> None:
        """Complete run.json, close the trackers and, once all processes are here, their group."""
        if self.accelerator.is_main_process:
            self.manifest.update(facts, finished=True)
            checkpointing.write_json(self.folder / MANIFEST_FILE, self.manifest)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()


def _json_number(value: Any) -> Any:
    """JSON has no NaN or infinity: they become text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _drop_after(path: Path, step: int) -> None:
    """Keep only the lines of metrics.jsonl up to `step`."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # the last line of a killed process may be cut short
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    temporary = path.with_name(f".incomplete-{path.name}")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
