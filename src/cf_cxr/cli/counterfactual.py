"""`cf-cxr demo` and `cf-cxr counterfactual`: the bundled examples, and one's own X-rays."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from transformers.utils import logging

from ..examples import example_images
from ..images.grey_levels import GREY_LEVELS
from ..pipelines import COUNTERFACTUAL_TASK
from ..pretrained import DEFAULT_MODEL, default_model_path
from ..visualization.counterfactuals import already_so, counterfactual_grid, describe_do, origin_note
from ..visualization.drawing import printable
from .files import RECORD, UsageError, free_name, output_path, plan_output, refuse_files, write_png
from .shared import (
    DISCLAIMER,
    Record,
    add_command,
    add_image_options,
    call_options,
    load_pipeline,
    parse_assignments,
    provenance,
)

DEMO_OUTPUT = Path("outputs/cf_cxr_demo.png")
EXAMPLES = """\
examples:
  cf-cxr demo
      runs on the bundled X-rays and writes outputs/cf_cxr_demo.png

  cf-cxr counterfactual chest.png --do finding=Effusion
      one counterfactual; age, sex and the rest are inferred from the image (from the header of a DICOM file)

  cf-cxr counterfactual chest.dcm --attribute age=63 --attribute sex=Male \\
      --do finding=Effusion --do sex=Female --output chest_cf.png
      states what is known, and asks two questions: one column each

  cf-cxr counterfactual chest.png --do "sex=Female,age=80"
      one intervention on two variables (so does --do sex=Female --do age=80 --joint)

  cf-cxr counterfactual *.png --do age=80 --batch-size 8 --output results/
      many images; a file that cannot be read is reported, the rest goes on

  cf-cxr explain chest.png
      why the bundled classifier sees an effusion, or none; see cf-cxr explain --help
"""


def add_demo_command(commands: Any) -> None:
    """Adds `demo` to the subcommands of `cf-cxr`."""
    parser = add_command(commands, "demo", run_demo, help="counterfactuals of the bundled example X-rays")
    parser.add_argument(
        "--output", type=output_path, help=f"PNG to write (default: {DEMO_OUTPUT}, or the next free name)"
    )


def add_counterfactual_command(commands: Any) -> None:
    """Adds `counterfactual` to the subcommands of `cf-cxr`."""
    parser = add_command(
        commands,
        "counterfactual",
        run_counterfactual,
        help="counterfactuals of your own X-rays",
        description="Makes counterfactuals of frontal chest X-rays and prints what changed.",
        epilog=EXAMPLES,
    )
    add_image_options(
        parser,
        attribute="what is known about the image, e.g. age=63; the rest is what a DICOM header says, or inferred. May "
        "be repeated",
        output="a .png for one picture of everything, or a directory for one picture per image and the counterfactuals "
        "themselves (default: outputs/IMAGE_counterfactual.png, or outputs/ for several images)",
        metavar="PATH",
    )
    parser.add_argument(
        "--do",
        action="append",
        default=[],
        metavar="NAME=VALUE[,NAME=VALUE]",
        help="the intervention. Repeated, each is a question of its own, shown in its own column",
    )
    parser.add_argument("--joint", action="store_true", help="join all --do into one intervention")
    parser.add_argument(
        "--json",
        type=output_path,
        metavar="PATH",
        help="the file of all numbers (default: beside --output, with the ending .json; in a directory "
        f"{RECORD})",
    )
    parser.add_argument(
        "--num-samples", type=int, default=1, metavar="N", help="draws to average over (default: 1, the mean)"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the model's image mechanism; a causal flow knows num_inference_steps=16, guidance_scale=2, "
        "guidance_scale='{finding: 2, age: 1.5}'. May be repeated",
    )


def run_demo(arguments: argparse.Namespace) -> int:
    """Counterfactuals of every bundled X-ray under one intervention per attribute; returns the exit code."""
    start = time.perf_counter()
    if arguments.output is not None:
        if arguments.output.suffix.lower() != ".png":
            raise UsageError(
                f"--output {arguments.output}: the demo writes one picture, give a name that ends in .png."
            )
        refuse_files([arguments.output], [], overwrite=False)
    pipe = load_pipeline(arguments, COUNTERFACTUAL_TASK, default_model_path())
    results, names = [], []
    for example in example_images():
        known = {name: value for name, value in example.attributes.items() if name in pipe.schema}
        results.append(
            pipe(example.path, attributes=known, do=opposites(pipe.schema, known), seed=arguments.seed)
        )
        names.append(example.path.name)
        print(results_table(example.path.name, results[-1]), end="\n\n")
    output = arguments.output or free_name(DEMO_OUTPUT)
    write_png(counterfactual_grid(results, names=names), output)
    print(f"Wrote {output} in {time.perf_counter() - start:.0f} s. {DISCLAIMER}")
    return 0


def run_counterfactual(arguments: argparse.Namespace) -> int:
    """Counterfactuals of the given images; returns the exit code."""
    options = call_options(arguments)
    dos = [parse_assignments([text], "--do") for text in arguments.do]
    if not dos:
        raise UsageError(_which_intervention(arguments.model))
    if arguments.joint:
        dos = [parse_assignments(arguments.do, "--do")]
    plan = plan_output(arguments.images, dos, arguments.output, arguments.overwrite, arguments.json)
    pipe = load_pipeline(arguments, COUNTERFACTUAL_TASK, default_model_path())
    chosen = mechanism_options(pipe.model, arguments.option)
    options |= {"do": dos, "num_samples": arguments.num_samples, **chosen}
    outputs = pipe((image for image in arguments.images), **options)
    shown, names = [], []

    def work(index: int, image: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        name = printable(Path(image).name)
        print(results_table(name, results), end="\n\n")
        if plan.picture:
            shown.append(results)
            names.append(name)
        else:
            pictures = [counterfactual_grid(results, names=[name]), *(result["image"] for result in results)]
            for picture, path in zip(pictures, plan.per_image[index]):
                write_png(picture, path, arguments.overwrite)
            print(
                f"Wrote {printable(plan.per_image[index][0])} and {len(results)} counterfactuals beside it."
            )
        return counterfactual_entry(results)

    header = {
        **provenance(arguments, pipe, DEFAULT_MODEL),
        "num_samples": arguments.num_samples,
        "options": {name: value for name, value in chosen.items() if name != "show_progress"},
    }
    with Record(plan.record, arguments, header, "images") as record:
        for index, (image, results) in enumerate(zip(arguments.images, outputs)):
            record.add(image, results, partial(work, index, image, results))
        if shown:
            write_png(counterfactual_grid(shown, names=names), plan.picture, arguments.overwrite)
    return record.finish(f"{plan.picture} and {plan.record}" if plan.picture else plan.record)


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


def mechanism_options(model: Any, texts: Sequence[str]) -> dict[str, Any]:
    """`["guidance_scale=2"]` as options of the model's image mechanism; with a progress bar on a terminal.

    Raises:
        UsageError: the mechanism has no such option, or the value cannot be read.
    """
    known = getattr(model, "mechanism_options", ())
    options: dict[str, Any] = {}
    if "show_progress" in known and sys.stderr.isatty():
        logging.enable_progress_bar()  # off while loading
        options["show_progress"] = True
    for name, value in (part for text in texts for part in parse_assignments([text], "--option").items()):
        if name not in known:
            raise UsageError(f"--option {name}: this model has {', '.join(known) or 'no options'}.")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--option {name}: {value!r} cannot be read.") from error
    return options


def opposites(schema: Any, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One intervention per attribute, away from its known value: another class, or the far end of the range."""
    dos = []
    for a in schema:
        value = known.get(a.name)
        if a.is_discrete:
            dos.append({a.name: next(c for c in a.categories if c != value)})
        else:
            low, high = (a.minimum + share * (a.maximum - a.minimum) for share in (0.25, 0.8))
            dos.append({a.name: high if value is None or value < (low + high) / 2 else low})
    return dos


def results_table(name: str, results: Sequence[Mapping[str, Any]]) -> str:
    """What every intervention on one image did to every variable, as text."""
    header = ("intervention", "mean |change|", "variable", "before", "after", "classifier before", "after")
    rows = [header]
    for result in results:
        label = describe_do(result["do"])
        if same := already_so(result):
            values = (_value(result["do"][v], result["units"].get(v, "")) for v in same)
            label += f": already {', '.join(values)}"
        change = f"{abs(result['difference']).mean() * GREY_LEVELS:.1f}/255"
        before, after = result["predictions"]["before"], result["predictions"]["after"]
        for variable, value in result["attributes"].items():
            unit = result["units"].get(variable, "")
            rows.append(
                (
                    label,
                    change,
                    variable,
                    _value(result["factual_attributes"][variable], unit) + origin_note(result, variable),
                    _value(value, unit),
                    _estimate(before[variable], value),
                    _estimate(after[variable], value),
                )
            )
            label = change = ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([name, *lines])


def _value(value: Any, unit: str = "") -> str:
    return f"{value:.3g} {unit}".rstrip() if isinstance(value, float) else str(value)


def _estimate(posterior: Mapping[str, float], value: Any) -> str:
    if "mean" in posterior:
        return f"{posterior['mean']:.0f} ± {posterior['std']:.0f}"
    return f"P({value}) = {posterior[value]:.2f}"


def _which_intervention(model: str | None) -> str:
    """Teaches `--do`, with the model's own variables where its configuration is at hand."""
    text = (
        "say which intervention with --do, for example --do finding=Effusion or --do sex=Female --do age=80."
    )
    config = Path(model or default_model_path()) / "config.json"
    if not config.is_file():
        return text
    attributes = json.loads(config.read_text(encoding="utf-8")).get("scm_config", {}).get("attributes", [])
    lines = []
    for a in attributes:
        values = (
            " | ".join(a.get("categories") or ())
            or f"{a['minimum']:g} to {a['maximum']:g} {a.get('unit', '')}"
        )
        lines.append(f"  {a['name']}: {values}".rstrip())
    return "\n".join([text, "This model knows:", *lines]) if lines else text
