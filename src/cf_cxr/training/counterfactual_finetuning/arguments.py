"""The arguments of counterfactual fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..augmentation import AUGMENTATION_PRESETS
from .losses import TARGET_LABELS


@dataclass
class CFTArguments:
    """What is fine-tuned, what steers it, and how tightly the free energy is held."""

    _argument_group_name = "Counterfactual fine-tuning"

    image_mechanism: str = field(
        default="outputs/hvae", metadata={"help": "Pre-trained image mechanism: folder or Hub name."}
    )
    attribute_scm: str = field(
        default="outputs/scm", metadata={"help": "Trained attribute SCM: folder or Hub name (frozen)."}
    )
    classifiers: list[str] = field(
        default_factory=lambda: ["outputs/classifier"],
        metadata={"help": "One or several trained attribute classifiers (frozen); several transfer better."},
    )
    target_labels: str = field(
        default="matched",
        metadata={
            "help": "matched: as soft, and the intervened variable and its descendants get the answer that the "
            "classifier would give on a real image with the new value and the same exogenous noise; matched_draw: "
            "the answer on a random real image with the new value; soft (paper A): untouched attributes keep the "
            "classifier's posterior on the factual image, the others get their label; hard: all attributes get their "
            "label (kept for comparison).",
            "choices": list(TARGET_LABELS),
        },
    )
    auxiliary_loss: str = field(
        default="cross_entropy",
        metadata={
            "help": "cross_entropy (paper A; squared error for continuous variables), or readout: Huber loss on "
            "logits and means in units of their spread, which also holds images of which the classifier is sure.",
            "choices": ["cross_entropy", "readout"],
        },
    )
    untouched_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of the attributes that the intervention does not affect; 0 teaches effectiveness alone, "
            "a warm-up that favours no kind of target labels."
        },
    )
    drift_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of a Huber penalty on the drift of untouched attributes' readouts."},
    )
    paired_augmentation: bool = field(
        default=False,
        metadata={
            "help": "Show the classifier the factual image under the same random augmentation as the counterfactual "
            "one, so that what the augmentation does to its answer is not asked of the image."
        },
    )
    matching_gain: float = field(
        default=1.0,
        metadata={
            "help": "Matched targets ask for this multiple of the change of the classifier's answer. Other classifiers "
            "see less of a change than the one that asked for it; measure how much on held-out images by a classifier "
            "that neither steers nor judges, and make up for it."
        },
    )
    matching_images: int = field(
        default=1024,
        metadata={
            "help": "Validation images on which the classifiers' answers are measured for matched targets and drift."
        },
    )
    do_variables: list[str] | None = field(
        default=None, metadata={"help": "Variables to intervene on, one per batch at random (default: all)."}
    )
    do_values: str = field(
        default="permute",
        metadata={
            "help": "Intervened values: permute those of the batch (paper A); balanced: draw the classes of discrete "
            "variables with equal probability, so that rare findings are practised as often as common ones; changed: "
            "draw among the classes that the image does not have, for null interventions teach nothing.",
            "choices": ["permute", "balanced", "changed"],
        },
    )
    interventions_per_step: int = field(
        default=1,
        metadata={
            "help": "Variables intervened on in every step, each for one decoder pass; 1 is paper A. The encoder and "
            "the reconstruction, two of three passes, are shared."
        },
    )
    attribute_weights: list[str] = field(
        default_factory=list,
        metadata={"help": "Weights of attributes in the auxiliary loss, as age=10 sex=1 (default 1 each)."},
    )
    augmentation: str = field(
        default="light",
        metadata={
            "help": "Random geometry and exposure between image and classifier, against adversarial solutions.",
            "choices": list(AUGMENTATION_PRESETS),
        },
    )
    exposure_weight: float = field(
        default=0.0,
        metadata={"help": "Penalty on the part of the change that a global affine intensity map explains."},
    )
    parents_lr_scale: float = field(
        default=1.0,
        metadata={
            "help": "Learning rate of the layers that read the parents, relative to the others: a pre-trained image "
            "mechanism all but ignores its parents, and these layers have the longest way to go."
        },
    )
    bound: float | None = field(
        default=None,
        metadata={"help": "Constraint c in nats per dimension (default: measured, plus margin)."},
    )
    bound_margin: float = field(
        default=0.02, metadata={"help": "Added to the measured mean free energy, nats per dimension."}
    )
    bound_images: int = field(
        default=512, metadata={"help": "Training images on which c is measured; 0: all."}
    )
    multiplier_init: float = field(default=0.0, metadata={"help": "Initial Lagrange multiplier."})
    multiplier_lr: float = field(default=0.1, metadata={"help": "Ascent rate of the multiplier."})
    damping: float = field(default=10.0, metadata={"help": "Damping of the Lagrangian."})
    num_sample_images: int = field(default=6, metadata={"help": "Images in the sample pictures."})

    def __post_init__(self) -> None:
        matched = self.target_labels.startswith("matched")
        if self.auxiliary_loss == "readout" and not matched:
            raise ValueError(
                f"--auxiliary_loss readout needs --target_labels matched or matched_draw, got {self.target_labels!r}: "
                "the logit of a hard label is infinite."
            )
        if self.drift_weight < 0:
            raise ValueError(f"--drift_weight is {self.drift_weight}, but must be 0 or a positive number.")
        if self.matching_gain <= 0:
            raise ValueError(f"--matching_gain is {self.matching_gain}, but must be positive.")
        if self.untouched_weight < 0:
            raise ValueError(
                f"--untouched_weight is {self.untouched_weight}, but must be 0 or a positive number."
            )
        if self.interventions_per_step < 1:
            raise ValueError(
                f"--interventions_per_step is {self.interventions_per_step}, but must be at least 1."
            )
        if self.parents_lr_scale <= 0:
            raise ValueError(f"--parents_lr_scale is {self.parents_lr_scale}, but must be positive.")

    @property
    def needs_readouts(self) -> bool:
        """Whether the classifiers' readout mechanisms must be fitted first."""
        return self.target_labels.startswith("matched") or self.drift_weight > 0

    def weights(self, names: Sequence[str]) -> dict[str, float]:
        """`attribute_weights` as numbers; raises ValueError for a malformed or unknown entry."""
        out = dict.fromkeys(names, 1.0)
        for item in self.attribute_weights:
            name, _, value = item.partition("=")
            try:
                weight = float(value)
            except ValueError:
                weight = -1.0
            if name not in out or weight < 0:
                raise ValueError(
                    f"--attribute_weights {item!r} must be name=number with a name of {', '.join(out)} and a "
                    "number of at least 0."
                )
            out[name] = weight
        return out
