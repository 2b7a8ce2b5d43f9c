"""What became of every image of a `cf-cxr` run: failures are named as they happen, numbers kept as JSON."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..images.grey_levels import GREY_LEVELS
from ..visualization.counterfactuals import already_so, printable
from .files import write_whole
from .model import DISCLAIMER


@dataclass
class Record:
    """The record of a run, written when its `with` block ends, also by an exception, if any image could be used.

    Attributes:
        path: of the JSON file.
        images: of the run, as they were given.
        header: what holds for all images.
        key: name of the list of images in the file.
        overwrite: whether the file may be replaced.
        debug: whether to print tracebacks.
    """

    path: Path
    images: Sequence[str]
    header: Mapping[str, Any]
    key: str
    overwrite: bool = False
    debug: bool = False
    entries: list[dict[str, Any]] = field(default_factory=list)

    def add(self, image: str, output: Any, work: Callable[[], Mapping[str, Any]]) -> None:
        """Does the work on one image, prints an error if it fails, and records what it returns.

        Args:
            image: its file.
            output: the pipeline's; `{"error": ..., "file": ...}` where it failed.
            work: prints and writes; returns what to record.
        """
        name = printable(image)
        try:
            if isinstance(output, Mapping):
                self.entries.append({"file": name, "error": printable(output["error"])})
            else:
                self.entries.append({"file": name, **work()})
                return
        except Exception as error:
            if self.debug:
                traceback.print_exc()
            self.entries.append({"file": name, "error": printable(f"{error}" or type(error).__name__)})
        message = self.entries[-1]["error"]
        print(f"cf-cxr: error: {'' if name in message else name + ': '}{message}", file=sys.stderr)

    @property
    def failed(self) -> int:
        """How many images could not be used."""
        return sum("error" in entry for entry in self.entries)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.failed < len(self.entries):
            text = json.dumps({**self.header, self.key: self.entries}, indent=2) + "\n"
            write_whole(self.path, lambda path: path.write_text(text, encoding="utf-8"), self.overwrite)

    def finish(self, wrote: str) -> int:
        """Prints the last lines; returns the exit code."""
        if self.failed < len(self.entries):
            print(f"Wrote {printable(wrote)}.")
            print(DISCLAIMER)
        if self.failed:
            print(f"cf-cxr: {self.failed} of {len(self.images)} images could not be used.", file=sys.stderr)
        return 1 if self.failed else 0


def counterfactual_entry(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of one image's counterfactuals in JSON's types; changes in grey levels of 255."""
    first = results[0]
    return {
        "factual_attributes": first["factual_attributes"],
        "given_by": first["given_by"],
        "units": first["units"],
        "predictions": first["predictions"]["before"],
        "out_of_distribution": first["out_of_distribution"],
        "counterfactuals": [
            {
                "do": result["do"],
                "already": already_so(result),
                "attributes": result["attributes"],
                "predictions": result["predictions"]["after"],
                "mean_change": round(float(abs(result["difference"]).mean()) * GREY_LEVELS, 3),
                "largest_change": round(float(abs(result["difference"]).max()) * GREY_LEVELS, 3),
            }
            for result in results
        ],
    }


__all__ = ["Record", "counterfactual_entry"]
