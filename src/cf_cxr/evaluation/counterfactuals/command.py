"""How good counterfactuals are, by an independent judge: what is loaded, measured, summarised and drawn."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ...model_cards.counterfactual_results import markdown_table
from ...models.attribute_classifier import AttributeClassifierModel
from ...models.deep_scm import DeepSCMModel
from ...training.loop.arguments import _choice, _option, _require
from .. import run
from ..judges import check_judge
from .collecting import Collector
from .data import CounterfactualImages, load_counterfactual_images
from .phantom_truth import TrueCounterfactuals
from .summary import summarise
from .two_sample import read_films, suspicious_films


@dataclass
class CounterfactualEvaluationArguments(run.EvaluationArguments):
    """What is evaluated, by whom, on which images."""

    _argument_group_name = "Evaluation"

    model: str = _option("outputs/deep_scm", "DeepSCM: folder or Hub name.")
    judge: str = _option("outputs/judge", "Independent attribute classifier: folder or Hub name.")
    num_cycle_images: int = _option(
        64, "Repeated cycles (composition over 10, reversibility over 5) on the first N images only; 0: none."
    )
    num_reversibility_images: int | None = _option(
        None, "Single cycles (reversibility) on the first N images only, to save time; default: on all."
    )
    no_two_sample: bool = _option(
        False,
        "Train no critics that tell counterfactuals from real films (a minute or so of one core per variable), and "
        "keep no images in the records.",
    )
    allow_training_judge: bool = _option(
        False, "Accept a classifier of the training as judge (marked in every table and plot)."
    )
    mixed_precision: str | None = _choice(
        None,
        ("no", "bf16", "fp16"),
        "Precision of the image mechanism (classifiers stay in float32); default: what `accelerate launch` says.",
    )
    mechanism_options: str | None = _option(
        None,
        "Options of the model's image mechanism as YAML, e.g. '{guidance_scale: {finding: 2}, num_inference_steps: 12}' "
        "(causal flow).",
    )
    channels_last: bool = _option(
        False, "Keep the image mechanism in channels-last memory layout, which is faster with bf16."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        options = self.mechanism_options = yaml.safe_load(self.mechanism_options or "{}")
        _require(isinstance(options, dict), "mechanism_options", options, "a mapping")
        self._require_integers(1, "num_reversibility_images")
        self._require_integers(0, "num_cycle_images")


class CounterfactualEvaluation(run.Evaluation):
    """See `Evaluation`. Raises SameJudgeError for a judge that took part in training."""

    arguments = CounterfactualEvaluationArguments
    description = "Evaluate counterfactuals by an independent judge."
    images: CounterfactualImages

    def __init__(self, args: CounterfactualEvaluationArguments, accelerator) -> None:
        super().__init__(args, accelerator)
        self.model, self.judge = (
            run.aligned(kind.from_pretrained(path).eval().to(self.device))
            for kind, path in ((DeepSCMModel, args.model), (AttributeClassifierModel, args.judge))
        )
        if args.channels_last:
            self.model.image_mechanism.to(memory_format=torch.channels_last)
        paths = {"model": args.model, "judge": args.judge}
        self.who = check_judge(self.model, self.judge, paths, args.allow_training_judge)

    def load_images(self) -> CounterfactualImages:
        return load_counterfactual_images(
            self.args, self.model.schema, self.model.config.image_config.image_size
        )

    def identity(self) -> dict[str, Any]:
        args, prints = self.args, self.who["fingerprints"]
        return {
            "kind": "counterfactuals",
            "model": prints["model"],
            "judge": prints["judge"],
            "num_cycle_images": args.num_cycle_images,
            "num_reversibility_images": args.num_reversibility_images,
            "images_kept": not args.no_two_sample,
            "mixed_precision": str(self.accelerator.mixed_precision),
            "channels_last": args.channels_last,
            "mechanism_options": {
                name: args.mechanism_options.get(name, getattr(self.model.config.image_config, name, None))
                for name in self.model.mechanism_options
            },
        }

    def collector(self) -> Collector:
        args, phantom = self.args, self.images.phantom
        return Collector(
            self.model,
            self.judge,
            seed=args.seed,
            num_cycle_images=args.num_cycle_images,
            num_reversibility_images=args.num_reversibility_images,
            keep_images=not args.no_two_sample,
            autocast=self.accelerator.autocast,
            truth=None if phantom is None else TrueCounterfactuals(phantom),
            options=args.mechanism_options,
        )

    def summarise(self, records: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], run.Samples]:
        args, model, patients = self.args, self.model, self.images.patients
        self.critics = read_films(records, model.schema, patients, args.seed, not args.disable_tqdm)
        return summarise(
            records, model.schema, model.graph, patients, args.seed, args.n_resamples, self.critics
        )

    def describe(self) -> dict[str, Any]:
        args = self.args
        return {
            **self.who,
            "model": args.model,
            "judge": args.judge,
            "num_cycle_images": args.num_cycle_images,
            "num_reversibility_images": args.num_reversibility_images,
            "mixed_precision": str(self.accelerator.mixed_precision),
            "attributes": self.model.schema.to_list(),
        }

    def markdown(self, results: Mapping[str, Any]) -> str:
        return markdown_table(results, self.model.schema)

    def plot(self, folder: Path, records: Mapping[str, np.ndarray], results: Mapping[str, Any]) -> None:
        from ..plots import write_plots

        suspects = suspicious_films(records, self.critics)
        write_plots(folder, records, self.model.schema, self.model.graph, results, suspects)


main = functools.partial(run.run, CounterfactualEvaluation)
