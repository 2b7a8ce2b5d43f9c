"""Arguments of the explainer's training."""

from __future__ import annotations

from dataclasses import dataclass

from ..augmentation import AUGMENTATION_PRESETS
from ..loop.arguments import CXRTrainingArguments, _option


@dataclass
class ExplainerConfig(CXRTrainingArguments):
    """Whom to explain, with which networks, and how the losses are weighed.

    The defaults are the recipe of docs/explaining.md. Paper B's: `residual_output` off, `widths` 64 to 1024,
    `discriminator_steps` 5, weights 1, 100, 100 and 0, no `preservation_warmup_steps`, no `augmentation`.

    Raises:
        ValueError: for a value out of its range, or `lungs_only` without masks.
    """

    _argument_group_name = "Progressive explainer"

    output_dir: str = "outputs/explainer"
    per_device_train_batch_size: int = 8
    adam_beta1: float = 0.0
    weight_decay: float = 0.0
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0
    max_steps: int = 2400
    max_grad_norm: float = 0.0
    skip_threshold: float = 0.0
    ema_decay: float = 0.998
    eval_steps: float | None = 1200
    sample_steps: int = 500

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
    force_student: bool = _option(
        False, "Go on with a student that does not repeat its black box (one without gradients) well."
    )
    segmenter: str = _option(
        "outputs/segmenter",
        "Where anatomy and devices lie: folder or Hub name of an AnatomySegmenterModel, package.module:name of "
        "anything with segment(pixel_values), own: the data set's masks (phantom), or none: one plain L1 over the image.",
    )
    lungs_only: bool = _option(
        False, "Reconstruct inside the lungs only, as the released code of paper B does; for comparison."
    )
    init_from: str | None = _option(
        None, "Start from the weights of this trained explainer (of any classifier): folder or Hub name."
    )
    widths: list[int] | None = _option(
        None,
        "Channels of the networks after the first convolution and each down-sampling block; default: 16, doubled up "
        "to 128, down to 8 x 8 pixels.",
    )
    residual_output: bool = _option(
        True,
        "The generator decodes a change, smooth on the scale of a sixteenth of the side, instead of the image: much "
        "faster to train. Patterns that convince the classifier only, and losses of detail, need fine changes.",
    )
    discriminator_steps: int = _option(
        0, "Steps of the discriminator, on own images, per generator step (B: 5); 0 trains without one."
    )
    augmentation: str = _option(
        "geometry",
        "Random geometry and exposure between explanation and classifier, in the first 80 % of the steps, against "
        "patterns that convince it at one place only; it should hardly move the classifier's answers.",
        choices=list(AUGMENTATION_PRESETS),
    )
    classifier_weight: float = _option(3.0, "Weight of the KL divergences between posteriors.")
    reconstruction_weight: float = _option(1.0, "Weight of self and cycle reconstruction.")
    embedding_weight: float = _option(0.01, "Weight of the squared distance of embeddings.")
    mahalanobis_weight: float = _option(
        1.0,
        "Weight of the length of the change in the metric of the differences between training images (on a coarse "
        "grid; not in B): changes that radiographs do not differ by become dear.",
    )
    preservation_warmup_steps: int = _option(
        1000,
        "Steps over which the reconstruction and embedding weights rise, from a tenth; 0: full from the start, where "
        "they hold a residual output at the identity.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = [f"{term}_weight" for term in ("classifier", "reconstruction", "embedding", "mahalanobis")]
        for name in (*weights, "discriminator_steps", "preservation_warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name} is {getattr(self, name)}, but must not be negative.")
        if self.lungs_only and self.segmenter == "none":
            raise ValueError("--lungs_only needs lungs: give --segmenter.")

    def preservation_share(self, step: int) -> float:
        """What the reconstruction and embedding weights are multiplied by at a step, counted from 0."""
        if step >= self.preservation_warmup_steps:
            return 1.0
        return 0.1 ** (1 - step / self.preservation_warmup_steps)

    def widths_at(self, resolution: int) -> list[int]:
        """`widths`, or the default for images of this size."""
        if self.widths:
            return self.widths
        halvings = 0
        while resolution > 8 and resolution % 2 == 0:
            halvings, resolution = halvings + 1, resolution // 2
        return [min(16 * 2**i, 128) for i in range(halvings + 1)]
