"""q(attributes | image): one trunk, a head per attribute, calibrated posteriors."""

from .configuration_attribute_classifier import AttributeClassifierConfig
from .heads import attribute_heads, split_attribute_logits
from .modeling_attribute_classifier import (
    AttributeClassifierModel,
    AttributeClassifierOutput,
    AttributePosterior,
)

__all__ = [
    "AttributeClassifierConfig",
    "AttributeClassifierModel",
    "AttributeClassifierOutput",
    "AttributePosterior",
    "attribute_heads",
    "split_attribute_logits",
]
