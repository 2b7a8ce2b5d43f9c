"""Turns a trained explainer into a repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..images.image_processing_cxr import CXRImageProcessor
from ..models.progressive_explainer import ProgressiveExplainerModel
from ..training.loop.arguments import _option, parse_arguments
from .folder import FolderArguments


@dataclass
class ExplainerPackagingArguments(FolderArguments):
    """The explainer, where it goes, and what the card says."""

    explainer: str = _option("outputs/explainer", "Trained progressive explainer.")
    output_dir: str = _option("outputs/packaged_explainer", "Where it goes.")


def main(argv: Sequence[str] | None = None) -> Path:
    """Packages from command-line arguments; returns the folder.

    Raises:
        OutputDirectoryError: there is a model already.
        ValueError: a weight is too large for `storage_dtype`.
    """
    description = "Package a trained explainer with a model card."
    (args,) = parse_arguments((ExplainerPackagingArguments,), argv, description=description)
    args.check_folder()
    facts, results = args.read_card(name="explainer")
    model = ProgressiveExplainerModel.from_pretrained(args.explainer).eval()
    return args.write(model, CXRImageProcessor.from_pretrained(args.explainer), facts, results)
