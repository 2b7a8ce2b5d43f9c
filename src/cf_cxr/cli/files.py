"""Where the `cf-cxr` command puts its pictures: names settled before any work, files written whole or not at all."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ..files import write_atomically

RECORD = Path("counterfactual.json")


class UsageError(Exception):
    """Something about the command line that the user can put right."""


@dataclass
class OutputPlan:
    """The files that a run will write.

    Attributes:
        picture: one picture of everything, or None.
        per_image: else, for each image, the picture of it and then its counterfactuals.
        record: the JSON file of all numbers.
    """

    picture: Path | None = None
    per_image: list[list[Path]] = field(default_factory=list)
    record: Path = RECORD

    @property
    def files(self) -> list[Path]:
        """All files of the plan."""
        pictures = [self.picture] if self.picture else [path for paths in self.per_image for path in paths]
        return [*pictures, self.record]


def output_path(text: str) -> Path:
    """The path that an option names, for argparse."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give a path")
    return Path(text)


def plan_output(
    images: Sequence[str],
    dos: Sequence[Mapping[str, str]],
    output: Path | None,
    overwrite: bool,
    record: Path | None = None,
) -> OutputPlan:
    """Names the files of a run and makes sure that none is in the way.

    Args:
        images: inputs, paths or URLs.
        dos: the interventions.
        output: a name ending in `.png` for one picture of everything; a directory for a picture of each image and
            each counterfactual by itself; None for `outputs/<image>_counterfactual.png`, or `outputs/` for several.
        overwrite: whether existing files may be replaced.
        record: the JSON file; None for one beside the picture, or in the directory.

    Raises:
        UsageError: `output` is neither a PNG nor a directory, or as `refuse_files`.
    """
    stems = file_stems(images)
    if output is None:
        output = Path("outputs") / f"{stems[0]}_counterfactual.png" if len(images) == 1 else Path("outputs")
    if output.suffix.lower() == ".png" and not output.is_dir():
        plan = OutputPlan(picture=output, record=record or output.with_suffix(".json"))
    elif output.is_file() or (output.suffix and not output.is_dir()):
        raise UsageError(f"--output {output}: give a name that ends in .png, or a directory.")
    else:
        labels = ["grid", *_unique(["do_" + "_".join(f"{k}={v}" for k, v in do.items()) for do in dos])]
        plan = OutputPlan(
            per_image=[[output / f"{stem}_{_safe(label)}.png" for label in labels] for stem in stems],
            record=record or output / RECORD,
        )
    refuse_files(plan.files, images, overwrite)
    return plan


def write_png(image: Any, path: Path, overwrite: bool = False) -> None:
    """Writes a PIL image, in full or not at all; makes missing folders.

    Raises:
        UsageError: the file exists and `overwrite` is False.
    """
    write_whole(path, lambda partial: image.save(partial, format="PNG"), overwrite)


def write_whole(path: Path, content: str | Callable[[Path], Any], overwrite: bool = False) -> None:
    """As `write_atomically`; makes missing folders.

    Raises:
        UsageError: the file exists and `overwrite` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; choose another --output, or replace it with --overwrite.")
    write_atomically(path, content)


def refuse_files(files: Sequence[Path], images: Sequence[str], overwrite: bool) -> None:
    """Makes sure before any work that every file can be written, and that none is in the way.

    Args:
        files: to write.
        images: the inputs, which are never replaced.
        overwrite: whether existing files may be replaced.

    Raises:
        UsageError: a file exists and may not be replaced, is an input, a folder or named twice; or its folder is a file
            or cannot be written to.
    """
    inputs = {os.path.realpath(image) for image in images}
    taken: set[Path] = set()
    for path in files:
        if path in taken:
            raise UsageError(f"{path} is to hold two things at once; choose another name for one of them.")
        taken.add(path)
        if path.is_dir():
            raise UsageError(f"{path} is a folder, but a file is to be written there; choose another name.")
        if path.exists() and os.path.realpath(path) in inputs and overwrite:
            raise UsageError(f"{path} is one of the images; choose another --output.")
    for folder in {path.parent for path in taken}:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not there.is_dir():
            raise UsageError(f"{there} is a file, but a folder is needed there; choose another name.")
        if not os.access(there, os.W_OK | os.X_OK):
            raise UsageError(f"Nothing can be written in the folder {there}; choose another name.")
    existing = [path for path in files if path.exists()]
    if existing and not overwrite:
        more = f" (and {len(existing) - 1} more of the files to write)" if len(existing) > 1 else ""
        raise UsageError(
            f"{existing[0]} exists{more}; choose another --output, or replace it with --overwrite."
        )


def free_name(path: Path) -> Path:
    """The path itself, or with the first number from 2 that no file has: `demo.png`, `demo_2.png`, ..."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.stem}_{number}{path.suffix}"), number + 1
    return candidate


def file_stems(images: Sequence[str]) -> list[str]:
    """What to call the outputs of each input, a path or an address: its name without ending, numbered if repeated."""
    return _unique([_stem(image) for image in images])


def _stem(image: str) -> str:
    is_url = image.startswith(("http://", "https://"))
    return (PurePosixPath(urlsplit(image).path).stem if is_url else Path(image).stem) or "image"


def _safe(name: str) -> str:
    return re.sub(r"[^\w.=+-]+", "-", name)


def _unique(names: Sequence[str]) -> list[str]:
    """Numbers repeated names: a, a_2, b."""
    taken: set[str] = set()
    result = []
    for name in names:
        candidate, number = name, 2
        while candidate in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate)
        result.append(candidate)
    return result
