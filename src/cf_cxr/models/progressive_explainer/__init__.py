"""The progressive explainer of paper B: a generator conditional on a target posterior, and its discriminator."""

from .configuration_explainer_discriminator import ExplainerDiscriminatorConfig
from .configuration_progressive_explainer import ProgressiveExplainerConfig
from .modeling_explainer_discriminator import ExplainerDiscriminator, ExplainerDiscriminatorOutput
from .modeling_progressive_explainer import ProgressiveExplainerModel, ProgressiveExplainerOutput

__all__ = [
    "ExplainerDiscriminator",
    "ExplainerDiscriminatorConfig",
    "ExplainerDiscriminatorOutput",
    "ProgressiveExplainerConfig",
    "ProgressiveExplainerModel",
    "ProgressiveExplainerOutput",
]
