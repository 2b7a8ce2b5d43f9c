"""Arguments of the evaluation command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from ...training.loop.arguments import _choice, _option, _require


@dataclass
class EvaluationArguments:
    """What is evaluated, by whom, on which images."""

    _argument_group_name = "Evaluation"

    model: str = _option("outputs/deep_scm", "DeepSCM: folder or Hub name.")
    judge: str = _option("outputs/judge", "Independent attribute classifier: folder or Hub name.")
    dataset: str = _option("parquet", "Source, as for the training scripts; phantom has ground truth.")
    data_dir: str | None = _option(None, "Folder of the source.")
    split: str = _option("test", "Split to evaluate on; the training split is refused.")
    finding: str | None = _option(None, "Finding set against 'No Finding', if not the source's default.")
    num_images: int | None = _option(None, "Images of the split to render (phantom only; default 1000).")
    data_seed: int = _option(42, "Seed of the split by patient and of the phantom, as in training.")
    num_proc: int | None = _option(None, "Processes that prepare images the first time.")
    cache_dir: str | None = _option(None, "Cache of prepared data.")
    max_images: int | None = _option(None, "Only the first N fully labelled images.")
    batch_size: int = _option(16, "Images per batch and process.")
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
    seed: int = _option(0, "Seed of interventions, latents, critics and bootstrap.")
    n_resamples: int = _option(1000, "Bootstrap resamples of patients.")
    output_dir: str = _option("outputs/evaluation", "Where records, results.json, results.md and plots go.")
    overwrite_output_dir: bool = _option(False, "Delete earlier records and results of the folder.")
    resume: bool = _option(
        False,
        "Go on with the folder's records although results are there: they are computed anew from the records. "
        "An interrupted run is continued without this, if it was the same evaluation.",
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
    cpu: bool = _option(False, "Use the CPU although an accelerator is present.")
    no_plots: bool = _option(False, "Write no plots.")
    disable_tqdm: bool = _option(False, "No progress bar.")

    def __post_init__(self) -> None:
        self.mechanism_options = yaml.safe_load(self.mechanism_options or "{}")
        _require(
            isinstance(self.mechanism_options, dict), "mechanism_options", self.mechanism_options, "a mapping"
        )
        for name in ("batch_size", "n_resamples"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a positive integer")
        for name in ("num_images", "max_images", "num_reversibility_images"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "a positive integer")
        for name in ("num_cycle_images", "seed", "data_seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or a positive integer")
        _require(
            not (self.overwrite_output_dir and self.resume),
            "overwrite_output_dir",
            True,
            "left out together with --resume: one deletes what the other needs",
        )
        _require(
            self.num_images is None or self.dataset == "phantom",
            "num_images",
            self.num_images,
            f"left out for {self.dataset!r}, whose images are there already; --max_images takes the first ones",
        )

    def public(self) -> dict[str, Any]:
        """The arguments as plain values."""
        return dict(vars(self))
