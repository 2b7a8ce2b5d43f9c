"""The arguments of counterfactual fine-tuning; the defaults are those of soft fine-tuning on the phantom."""

from __future__ import annotations

from dataclasses import dataclass

from ..augmentation import AUGMENTATION_PRESETS
from ..loop.arguments import CXRTrainingArguments, _choice, _option
from .targets import TARGETS


@dataclass
class CFTConfig(CXRTrainingArguments):
    """What is fine-tuned, what steers it, how tightly the free energy is held, and the training itself."""

    _argument_group_name = "Counterfactual fine-tuning"

    output_dir: str = "outputs/hvae_soft_cft"
    per_device_train_batch_size: int = 8
    learning_rate: float = 6e-4
    adam_beta2: float = 0.99
    warmup_steps: float = 30
    max_steps: int = 800
    max_grad_norm: float = 5.0
    skip_threshold: float = 1e5
    ema_decay: float = 0.98
    sample_steps: int = 250
    image_mechanism: str = _option("outputs/hvae", "Pre-trained image mechanism: folder or Hub name.")
    attribute_scm: str = _option("outputs/scm", "Trained attribute SCM: folder or Hub name (frozen).")
    classifiers: list[str] = _option(
        ["outputs/classifier"],
        "One or several trained attribute classifiers (frozen); of different kinds they transfer better.",
    )
    target_labels: str = _choice(
        "soft",
        list(TARGETS),
        "soft (paper A): untouched attributes keep the classifier's posterior on the factual image, the others get their "
        "label; matched: as soft, and the intervened variable and its descendants get the answer that the classifier "
        "would give on a real image with the new value and the same exogenous noise; hard: all attributes get their "
        "label (for comparison).",
    )
    matching_gain: float = _option(
        1.25,
        "Matched targets ask for this multiple of the change of the classifier's answer. Other classifiers see less of a "
        "change than the one that asked for it; measure how much on held-out images by a classifier that neither steers "
        "nor judges, and make up for it.",
    )
    untouched_weight: float = _option(
        1.0,
        "Weight of the attributes that the intervention does not affect; 0 teaches effectiveness alone, a warm-up that "
        "favours no kind of target labels.",
    )
    do_variables: list[str] | None = _option(None, "Variables to intervene on at random (default: all).")
    do_values: str = _choice(
        "changed",
        ("changed", "balanced", "permute"),
        "Intervened values of discrete variables: changed: among the classes that the image does not have, for null "
        "interventions teach nothing; balanced: all classes with equal probability; permute (paper A): those of the "
        "batch, as always for continuous variables.",
    )
    interventions_per_step: int = _option(
        4,
        "Variables intervened on in every step, each for one decoder pass; 1 is paper A. The encoder and the "
        "reconstruction, two of three passes, are shared.",
    )
    augmentation: str = _choice(
        "geometry",
        list(AUGMENTATION_PRESETS),
        "Random geometry and exposure between image and classifier, against adversarial solutions; the factual image is "
        "seen under the same draw. strong for real films.",
    )
    exposure_weight: float = _option(
        10.0, "Penalty on the part of the change that a global affine intensity map explains."
    )
    parents_lr_scale: float = _option(
        3.0,
        "Learning rate of the layers that read the parents, relative to the others: a pre-trained image mechanism all "
        "but ignores its parents, and these layers have the longest way to go.",
    )
    bound: float | None = _option(
        None, "Constraint c in nats per dimension (default: measured, plus margin)."
    )
    bound_margin: float = _option(
        0.1, "Added to the mean free energy of the pre-trained mechanism, measured on 512 training images."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        lowest = {
            "matching_gain": 0,
            "untouched_weight": 0,
            "interventions_per_step": 1,
            "parents_lr_scale": 0,
        }
        for name, low in lowest.items():
            value = getattr(self, name)
            if value < low or (value == 0 and name != "untouched_weight"):
                raise ValueError(f"--{name} is {value}, but must be {'at least 1' if low else 'positive'}.")
