"""p(attributes): one exactly invertible mechanism per variable of the causal graph."""

from .configuration_attribute_scm import AttributeSCMConfig
from .modeling_attribute_scm import AttributeNoise, AttributeSCMModel, AttributeSCMOutput

__all__ = ["AttributeNoise", "AttributeSCMConfig", "AttributeSCMModel", "AttributeSCMOutput"]
