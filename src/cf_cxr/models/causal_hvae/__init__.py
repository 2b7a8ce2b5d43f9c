"""The causal hierarchical VAE: p(image | parents) with abduction (De Sousa Ribeiro et al., ICML 2023)."""

from .configuration_causal_hvae import CausalHVAEConfig
from .modeling_causal_hvae import CausalHVAEModel, CausalHVAENoise, CausalHVAEOutput

__all__ = ["CausalHVAEConfig", "CausalHVAEModel", "CausalHVAENoise", "CausalHVAEOutput"]
