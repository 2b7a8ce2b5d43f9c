"""Arguments of the evaluation of an explainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...training.loop.arguments import _choice, _option, _require

METHODS = ("auto", "progressive", "latent_shift", "causal")


@dataclass
class ExplanationEvaluationArguments:
    """What is evaluated: which explainer, of which classifier, on which images, with which instruments."""

    _argument_group_name = "Evaluation of explanations"
    mixed_precision: ClassVar[str] = "no"

    explainer: str = _option(
        "outputs/explainer",
        "Progressive explainer or DeepSCM: folder or Hub name; or package.module:name of anything with "
        "series(pixel_values, classifier, targets).",
    )
    method: str = _choice(
        "auto",
        METHODS,
        "How the explainer is used: as it was trained (auto: progressive, or causal for a DeepSCM: do(finding) "
        "swept), or latent_shift: its encoder and decoder only, moved along the classifier's gradient.",
    )
    classifier: str = _option(
        "outputs/classifier",
        "The black box, as for train_explainer.py: folder or Hub name, or package.module:name.",
    )
    class_name: str | None = _option(None, "Class whose posterior is explained.")
    classifier_options: str | None = _option(None, "Further arguments of the classifier's adapter as JSON.")
    student: str | None = _option(
        None,
        "latent_shift of a black box without gradients: folder of its student, which gives the gradient.",
    )
    shift_radius: float = _option(
        1.0, "latent_shift: farthest shift, in units of the norm of the image's latents."
    )
    shift_steps: int = _option(
        1, "latent_shift: gradients on the way to either side; 1 is the straight line of Gifsplanation."
    )
    variable: str | None = _option(
        None,
        "causal: the variable or value of the causal model that the class is; default: the class's name.",
    )
    segmenter: str | None = _option(
        "outputs/segmenter",
        "Finds lungs, heart and devices: folder or Hub name, package.module:name, or none.",
    )
    judge: str | None = _option(
        None,
        "Attribute classifier whose embedding measures identity and Fréchet distances: folder or Hub name. "
        "Default: the explainer's own encoder, which is trained to agree with itself; that is said in the results.",
    )
    force: bool = _option(
        False,
        "Evaluate an explainer that was trained for another classifier, or on another division of the data.",
    )
    dataset: str = _option("parquet", "Source, as for the training scripts; phantom has ground truth.")
    data_dir: str | None = _option(None, "Folder of the source.")
    split: str = _option("test", "Split to evaluate on; the training split is refused.")
    finding: str | None = _option(None, "Finding set against 'No Finding', if not the source's default.")
    num_images: int | None = _option(None, "Images of the split to render (phantom only; default 500).")
    device_rate: float | None = _option(
        None, "Share of images with a pacemaker, and of those with a tube (phantom only; default 0.15)."
    )
    data_seed: int = _option(42, "Seed of the split by patient and of the phantom, as in training.")
    resolution: int | None = _option(
        None,
        "Side of the images in pixels, for an explainer of your own code that does not say its image_size.",
    )
    num_proc: int | None = _option(None, "Processes that prepare images the first time.")
    cache_dir: str | None = _option(None, "Cache of prepared data.")
    max_images: int | None = _option(None, "Only the first N images.")
    batch_size: int = _option(16, "Images per batch and process; each gets num_bins explanations.")
    num_bins: int = _option(10, "Equal bins of the posterior; every image is asked for every bin's centre.")
    minimum_overlap: float = _option(
        0.5, "A device is kept if this share of its area is still device in the explanation."
    )
    minimum_device_area: float = _option(
        0.002, "Detected devices smaller than this share of the image are specks, not devices."
    )
    num_distractors: int | None = _option(
        None, "Other patients among whom an image must be found again; default: all."
    )
    num_examples: int = _option(6, "Images in the example sheet.")
    seed: int = _option(0, "Seed of all draws and of the bootstrap.")
    n_resamples: int = _option(1000, "Bootstrap resamples of patients.")
    output_dir: str = _option(
        "outputs/explainer_evaluation", "Where records, results.json, results.md and plots go."
    )
    overwrite_output_dir: bool = _option(False, "Delete earlier records and results of the folder.")
    resume: bool = _option(
        False,
        "Go on with the folder's records although results are there: they are computed anew from the records. "
        "An interrupted run is continued without this, if it was the same evaluation.",
    )
    cpu: bool = _option(False, "Use the CPU although an accelerator is present.")
    no_plots: bool = _option(False, "Write no plots.")
    disable_tqdm: bool = _option(False, "No progress bar.")

    def __post_init__(self) -> None:
        for name in ("batch_size", "n_resamples", "shift_steps"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a positive integer")
        for name in ("num_images", "max_images", "num_distractors", "resolution"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "a positive integer")
        for name in ("num_examples", "seed", "data_seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or a positive integer")
        _require(self.shift_radius > 0, "shift_radius", self.shift_radius, "a positive number")
        _require(self.num_bins >= 2, "num_bins", self.num_bins, "an integer of at least 2")
        _require(
            0 < self.minimum_overlap <= 1, "minimum_overlap", self.minimum_overlap, "above 0 and at most 1"
        )
        _require(
            0 <= self.minimum_device_area < 1,
            "minimum_device_area",
            self.minimum_device_area,
            "a share of the image, from 0 up to, not including, 1",
        )
        _require(
            not (self.overwrite_output_dir and self.resume),
            "overwrite_output_dir",
            True,
            "left out together with --resume: one deletes what the other needs",
        )
        for name in ("num_images", "device_rate"):
            _require(
                getattr(self, name) is None or self.dataset == "phantom",
                name,
                getattr(self, name),
                f"left out for {self.dataset!r}, whose images are there already; --max_images takes the first ones",
            )
        for name in ("segmenter", "judge", "student"):
            if (getattr(self, name) or "").lower() in ("", "none"):
                setattr(self, name, None)
