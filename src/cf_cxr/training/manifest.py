"""What a run was: command, arguments, code and library versions, data; written to run.json."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("cf_cxr", "torch", "transformers", "accelerate", "diffusers", "datasets", "safetensors", "numpy")


def library_versions() -> dict[str, str | None]:
    """Installed versions of the libraries that decide on a run's numbers."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_commit() -> str | None:
    """Commit of the source tree, with '+changes' if files differ from it; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def _git(folder: Path, *command: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10
    )
    return result.stdout.strip()


def describe_run(args: Any, accelerator: Any, info: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about a run as plain JSON-able values."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "arguments": dataclasses.asdict(args),
        "seed": args.seed,
        "git_commit": git_commit(),
        "versions": library_versions(),
        "device": str(accelerator.device),
        "num_processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        **info,
    }
