"""Makes transformers' Auto classes and `pipeline()` know this package's models and tasks."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel

from .images.image_processing_cxr import CXRImageProcessor
from .models.anatomy_segmenter import AnatomySegmenterConfig, AnatomySegmenterModel
from .models.attribute_classifier import AttributeClassifierConfig, AttributeClassifierModel
from .models.attribute_scm import AttributeSCMConfig, AttributeSCMModel
from .models.causal_flow import CausalFlowConfig, CausalFlowModel
from .models.causal_hvae import CausalHVAEConfig, CausalHVAEModel
from .models.deep_scm import DeepSCMConfig, DeepSCMModel
from .models.progressive_explainer import (
    ExplainerDiscriminator,
    ExplainerDiscriminatorConfig,
    ProgressiveExplainerConfig,
    ProgressiveExplainerModel,
)
from .pipelines import register as register_pipelines

MODELS = {
    AttributeSCMConfig: AttributeSCMModel,
    AttributeClassifierConfig: AttributeClassifierModel,
    CausalFlowConfig: CausalFlowModel,
    CausalHVAEConfig: CausalHVAEModel,
    DeepSCMConfig: DeepSCMModel,
    ProgressiveExplainerConfig: ProgressiveExplainerModel,
    ExplainerDiscriminatorConfig: ExplainerDiscriminator,
    AnatomySegmenterConfig: AnatomySegmenterModel,
}


def register() -> None:
    """Registers configurations, models, the image processor and the pipelines; safe to call again."""
    for config_class, model_class in MODELS.items():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)
        if model_class.main_input_name == "pixel_values":
            AutoImageProcessor.register(
                config_class, image_processor_classes={"pil": CXRImageProcessor}, exist_ok=True
            )
    register_pipelines()
