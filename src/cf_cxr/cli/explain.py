"""`cf-cxr explain`: why a classifier decides as it does about one's own X-rays."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..explaining.explanation import Explanation
from ..pipelines import EXPLANATION_TASK
from ..pretrained import DEFAULT_EXPLAINER, default_explainer_path
from ..visualization.drawing import printable
from ..visualization.explanations import animation, contact_sheet
from .files import UsageError, file_stems, refuse_files, write_png, write_whole
from .shared import Record, add_command, add_image_options, call_options, load_pipeline, provenance

DEFAULT_OUTPUT = Path("outputs/explanation")
RECORD = "explanation.json"
ANIMATIONS = ("gif", "webp", "none")
_PASSED_ON = ("classifier", "class_name", "steps", "target", "force", "variable")
NO_DIRECTORY = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".json")  # as a name that --output is given

_DESCRIPTION = """\
Shows why a classifier of chest X-rays decides as it does: the radiograph, changed step by step until the classifier
decides otherwise, with the posterior that it gives every step. What does not change is no reason for its decision.

An explainer is trained for one classifier. Without --model and --classifier the bundled explainer shows the bundled
classifier's reasons for its finding. With --model a causal model (such as cf-cxr-nih-128), any classifier can be
asked: the finding itself is moved, and the classifier may follow or not.

For every image, in the output directory:
  NAME_explanation.png     contact sheet: the query, the series with the posterior asked for and reached, and what
                           changed (red is brighter, blue is darker than the query)
  NAME_explanation.gif     the same as an animation, there and back
  NAME_counterfactual.png  the first image that the classifier decides otherwise about, if there is one
and for all of them explanation.json, with every number and, in words, whether the decision flipped."""

_EXAMPLES = """\
examples:
  cf-cxr explain chest.png
      why the bundled classifier sees a finding, or none

  cf-cxr explain a.png b.dcm --classifier ./my_classifier --class-name Effusion --model ./my_explainer --output why/
      one's own classifier (a folder or Hub name of a transformers image-classification model, an attribute
      classifier of this package, or a student), and the explainer that was trained for it

  cf-cxr explain chest.png --model ./cf-cxr-nih-128 --class-name finding=Effusion --attribute age=63
      the causal model's explanation of its own classifier; --variable finding=Effusion says which of its variables
      the class is, where another classifier's name differs

  cf-cxr explain chest.png --steps 5 --target 0.1 --animation webp
      fewer images, and not further than the boundary of the bundled classifier
"""


class ExplainFiles(NamedTuple):
    """The files of one image: contact sheet, counterfactual, and animation if there is one."""

    sheet: Path
    counterfactual: Path
    animation: Path | None


def add_explain_command(commands: Any) -> None:
    """Adds `explain` to the subcommands of `cf-cxr`."""
    parser = add_command(
        commands,
        "explain",
        run_explain,
        help="why a classifier decides as it does about your own X-rays",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
    )
    add_image_options(
        parser,
        attribute="with a causal model: what is known about the image; the rest is inferred. May be repeated",
        output=f"directory (default: {DEFAULT_OUTPUT})",
        default=DEFAULT_OUTPUT,
        metavar="DIR",
    )
    parser.add_argument(
        "--classifier",
        metavar="PATH_OR_ID",
        help="folder or Hub name of the classifier (default: the one the bundled explainer was trained for)",
    )
    parser.add_argument(
        "--class-name",
        "--class_name",
        metavar="NAME",
        help="the class whose decision is explained, where the classifier has several",
    )
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="images per series (default: 10)")
    parser.add_argument(
        "--target",
        type=float,
        metavar="P",
        help="the classifier's posterior to aim at (default: the far end of the other decision)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="use an explainer that was trained for another classifier all the same",
    )
    parser.add_argument(
        "--animation", choices=ANIMATIONS, default="gif", help="kind of animation (default: gif)"
    )
    parser.add_argument(
        "--variable",
        metavar="NAME=VALUE",
        help="with a causal model: its variable that the classifier's class is",
    )


def run_explain(arguments: argparse.Namespace) -> int:
    """Explanations of the given images; returns the exit code."""
    options = call_options(arguments)
    files, record = plan_explanations(
        arguments.images, arguments.output, arguments.animation, arguments.overwrite
    )
    pipe = load_pipeline(arguments, EXPLANATION_TASK, default_explainer_path())
    options |= {name: getattr(arguments, name) for name in _PASSED_ON}
    try:
        outputs = pipe((image for image in arguments.images), **options)
    except TypeError as error:  # an option for a model of another kind
        raise UsageError(str(error)) from error
    header = {**provenance(arguments, pipe, DEFAULT_EXPLAINER), "classifier": arguments.classifier}
    with Record(record, arguments, header, "explanations") as journal:
        for image, output, paths in zip(arguments.images, outputs, files):
            journal.add(image, output, partial(_entry, output, image, paths, arguments.overwrite))
    written = [path.name for paths in files for path in paths if path and path.is_file()]
    return journal.finish(f"{arguments.output}/: {', '.join(written)}, {record.name}")


def _entry(explanation: Explanation, image: str, paths: ExplainFiles, overwrite: bool) -> dict[str, Any]:
    """Writes and prints one explanation; returns what to record."""
    names = {"sheet": paths.sheet.name}
    write_png(contact_sheet(explanation, names=[Path(image).name]), paths.sheet, overwrite)
    if explanation.counterfactual is not None:
        names["counterfactual"] = paths.counterfactual.name
        write_png(explanation.counterfactual, paths.counterfactual, overwrite)
    elif overwrite:  # of an earlier run: it does not belong to this explanation
        paths.counterfactual.unlink(missing_ok=True)
    if paths.animation:
        names["animation"] = paths.animation.name
        write = partial(animation, explanation, format=paths.animation.suffix[1:])
        write_whole(paths.animation, write, overwrite)
    print(f"{printable(Path(image).name)}: {printable(explanation.message)}")
    return {**explanation.to_dict(), **names, "name": printable(explanation.name)}


def plan_explanations(
    images: Sequence[str], output: Path, animation: str = "gif", overwrite: bool = False
) -> tuple[list[ExplainFiles], Path]:
    """Names the files of a run and makes sure that none is in the way.

    Args:
        images: inputs, paths or addresses.
        output: the directory.
        animation: `"gif"`, `"webp"` or `"none"`.
        overwrite: whether existing files may be replaced.

    Returns:
        The files of each image, and the record of all.

    Raises:
        UsageError: `output` is a file, or as `refuse_files`.
    """
    if output.is_file() or (output.suffix.lower() in NO_DIRECTORY and not output.is_dir()):
        raise UsageError(f"--output {output}: this is a file; give a directory.")
    files = [
        ExplainFiles(
            output / f"{stem}_explanation.png",
            output / f"{stem}_counterfactual.png",
            None if animation == "none" else output / f"{stem}_explanation.{animation}",
        )
        for stem in file_stems(images)
    ]
    record = output / RECORD
    refuse_files([*(path for paths in files for path in paths if path), record], images, overwrite)
    return files, record
