"""The causal flow: conditional flow matching as an image mechanism."""

from .configuration_causal_flow import CausalFlowConfig
from .modeling_causal_flow import CausalFlowModel, CausalFlowNoise, CausalFlowOutput

__all__ = ["CausalFlowConfig", "CausalFlowModel", "CausalFlowNoise", "CausalFlowOutput"]
