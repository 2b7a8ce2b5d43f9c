"""The deep structural causal model: attribute SCM, image mechanism and classifier in one model."""

from .configuration_deep_scm import DeepSCMConfig
from .modeling_deep_scm import CounterfactualOutput, DeepSCMModel, DeepSCMNoise, DeepSCMOutput

__all__ = ["CounterfactualOutput", "DeepSCMConfig", "DeepSCMModel", "DeepSCMNoise", "DeepSCMOutput"]
