"""Arguments of the explainer's training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..augmentation import AUGMENTATION_PRESETS
from .losses import ExplainerLossWeights

BASELINES = ("none", "lungs_only")


def _option(default: Any, text: str, choices: list[str] | None = None) -> Any:
    metadata = {"help": text} | ({"choices": choices} if choices else {})
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ExplainerArguments:
    """Whom to explain, with which networks, and how the losses are weighed (defaults: paper B)."""

    _argument_group_name = "Progressive explainer"

    classifier: str = _option(
        "outputs/classifier",
        "Black box: folder or Hub name of an attribute classifier, a student, a DeepSCM (its own "
        "classifier) or a transformers model; or "
        "package.module:name of a function (images to probabilities), a network, or a factory of either.",
    )
    class_name: str | None = _option(
        None, "Class whose posterior is explained, e.g. finding, finding=Effusion or Effusion."
    )
    classifier_options: str | None = _option(
        None, 'Further arguments of the classifier\'s adapter as JSON, e.g. {"index": 3, "threshold": 0.4}.'
    )
    posterior_batch_size: int = _option(64, "Images per question to the black box.")
    student_epochs: int = _option(
        20, "A black box without gradients gets a student: passes over the training images."
    )
    force_student: bool = _option(False, "Go on with a student that does not repeat its black box well.")
    segmenter: str | None = _option(
        "outputs/segmenter",
        "Where anatomy and devices lie: folder or Hub name of an AnatomySegmenterModel, package.module:name of "
        "anything with segment(pixel_values), or none: one plain L1 over the image.",
    )
    precompute_masks: bool = _option(
        True,
        "Segment every image once, before the training, and keep the masks (a byte per pixel, in memory and on disk); "
        "without it they are found anew in every step.",
    )
    true_masks: bool = _option(False, "Use the masks of the data set (phantom) in place of a segmenter.")
    baseline: str = _option(
        "none",
        "lungs_only: reconstruct inside the lungs only, as the released code of paper B does; for comparison.",
        list(BASELINES),
    )
    num_bins: int = _option(10, "Equal bins of the posterior.")
    balanced: bool = _option(True, "Show every bin of the posterior equally often.")
    widths: list[int] = _option(
        [64, 128, 256, 512, 1024, 1024],
        "Channels of the generator after the first convolution and each down-sampling block.",
    )
    norm_type: str = _option("batch", "Normalisation of the generator.", ["batch", "group"])
    residual_output: bool = _option(
        False, "The generator decodes a change of the image instead of the image: much faster to train."
    )
    change_stride: int = _option(
        1,
        "Of a residual output: the change is smooth on this scale, in pixels. Patterns that convince the classifier "
        "only, and losses of detail, need fine changes.",
    )
    discriminator_widths: list[int] | None = _option(None, "Channels of the discriminator (default: widths).")
    discriminator_steps: int = _option(5, "Steps of the discriminator, on own images, per generator step.")
    discriminator_learning_rate: float | None = _option(
        None, "Peak learning rate of the discriminator (default: the generator's)."
    )
    augmentation: str = _option(
        "none",
        "Random geometry and exposure between explanation and classifier (paper B: none), against patterns that "
        "convince it at one place only; targets do not change, so it should hardly move the classifier's answers.",
        list(AUGMENTATION_PRESETS),
    )
    augmentation_until: float = _option(
        1.0,
        "Share of the steps with augmentation. What it scatters is right on average, not for the explanation as it is: "
        "without it at the end (0.8), posteriors come closer to their targets.",
    )
    condition_lr_scale: float = _option(
        1.0,
        "Learning rate of the generator's rows per bin (scale and shift of its conditional norms), relative to the "
        "rest: they start alike for all bins and have the longest way to go.",
    )
    condition_spread: float = _option(
        0.0,
        "Let the generator's shifts per bin start in order along a random direction, this far at the outermost bins. "
        "Rows that start alike and an output that starts at zero are a saddle point, which a residual output hardly "
        "leaves; 0.5 leads away from it.",
    )
    adversarial_weight: float = _option(1.0, "Weight of the hinge loss; 0 trains without a discriminator.")
    classifier_weight: float = _option(1.0, "Weight of the KL divergences between posteriors.")
    reconstruction_weight: float = _option(100.0, "Weight of self and cycle reconstruction.")
    embedding_weight: float = _option(100.0, "Weight of the squared distance of embeddings.")
    natural_weight: float = _option(
        0.0,
        "Weight of the length of the change in the metric of the differences between training images (Mahalanobis, on "
        "a coarse grid; not in B): changes that radiographs do not differ by become dear. 1 to 10.",
    )
    preservation_start: float = _option(
        1.0,
        "Share of the reconstruction and embedding weights at the first step; below 1 they rise geometrically. A "
        "residual output starts as the identity, where full weights hold it: any first small change costs the cycle "
        "more than it gains from the classifier.",
    )
    preservation_warmup_steps: int = _option(
        0, "Steps until the reconstruction and embedding weights are full."
    )
    init_from: str | None = _option(
        None, "Start from the weights of this trained explainer (of any classifier): folder or Hub name."
    )
    keep: str = _option(
        "last",
        "Final weights: last, or best (smallest distance of the posteriors reached from their targets on the "
        "validation images, which does not judge how real the images look); averaged either way if EMA is on.",
        ["last", "best"],
    )
    num_sample_images: int = _option(8, "Images in the sample pictures.")

    def __post_init__(self) -> None:
        for name in ("posterior_batch_size", "student_epochs", "discriminator_steps", "num_sample_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}, but must be at least 1.")
        if not 0 <= self.augmentation_until <= 1:
            raise ValueError(
                f"--augmentation_until is {self.augmentation_until}, but must be a share from 0 to 1."
            )
        if self.condition_spread < 0:
            raise ValueError(f"--condition_spread is {self.condition_spread}, but must not be negative.")
        if self.condition_lr_scale <= 0:
            raise ValueError(f"--condition_lr_scale is {self.condition_lr_scale}, but must be positive.")
        if not 0 < self.preservation_start <= 1:
            raise ValueError(
                f"--preservation_start is {self.preservation_start}, but must be above 0 and at most 1."
            )
        if self.preservation_start < 1 and self.preservation_warmup_steps < 1:
            raise ValueError("--preservation_start below 1 needs --preservation_warmup_steps of at least 1.")
        if self.discriminator_learning_rate is not None and self.discriminator_learning_rate <= 0:
            raise ValueError(
                f"--discriminator_learning_rate is {self.discriminator_learning_rate}, but must be positive."
            )
        if self.segmenter is not None and self.segmenter.lower() == "none":
            self.segmenter = None
        if self.baseline == "lungs_only" and not self.true_masks and self.segmenter is None:
            raise ValueError("--baseline lungs_only needs lungs: give --segmenter or --true_masks.")
        self.loss_weights()

    def preservation_share(self, step: int) -> float:
        """What the reconstruction and embedding weights are multiplied by at a step, counted from 0."""
        if step >= self.preservation_warmup_steps:
            return 1.0
        return self.preservation_start ** (1 - step / self.preservation_warmup_steps)

    def loss_weights(self) -> ExplainerLossWeights:
        """The full weights of the generator's losses; raises ValueError for a negative one."""
        return ExplainerLossWeights(
            adversarial=self.adversarial_weight,
            classifier=self.classifier_weight,
            reconstruction=self.reconstruction_weight,
            embedding=self.embedding_weight,
            natural=self.natural_weight,
            lungs_only=self.baseline == "lungs_only",
        )


__all__ = ["BASELINES", "ExplainerArguments"]
