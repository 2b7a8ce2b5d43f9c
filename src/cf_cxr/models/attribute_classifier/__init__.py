"""q(attributes | image): one trunk, a head per attribute, calibrated posteriors."""

from .configuration_attribute_classifier import AttributeClassifierConfig
from .modeling_attribute_classifier import (
    AttributeClassifierModel,
    AttributeClassifierOutput,
    AttributePosterior,
    split_attribute_logits,
)

__all__ = [
    "AttributeClassifierConfig",
    "AttributeClassifierModel",
    "AttributeClassifierOutput",
    "AttributePosterior",
    "split_attribute_logits",
]
