"""cf_cxr: counterfactual chest X-rays.

`import cf_cxr` registers the models with transformers' Auto classes and the pipeline tasks
`"chest-xray-counterfactual"` and `"chest-xray-explanation"`; everything heavy loads when it is first used.
"""

import importlib

from .version import __version__

_PUBLIC = {
    "attributes": ["Attribute", "AttributeSchema", "AttributeValueError", "UnknownAttributeError"],
    "causal_graph": ["CausalGraph", "CausalGraphError"],
    "images.image_processing_cxr": ["CXRImageProcessor"],
    "models.attribute_scm": ["AttributeSCMConfig", "AttributeSCMModel"],
    "models.attribute_classifier": ["AttributeClassifierConfig", "AttributeClassifierModel"],
    "models.causal_flow": ["CausalFlowConfig", "CausalFlowModel"],
    "models.causal_hvae": ["CausalHVAEConfig", "CausalHVAEModel"],
    "models.deep_scm": ["DeepSCMConfig", "DeepSCMModel"],
    "models.progressive_explainer": [
        "ExplainerDiscriminator",
        "ExplainerDiscriminatorConfig",
        "ProgressiveExplainerConfig",
        "ProgressiveExplainerModel",
    ],
    "models.anatomy_segmenter": [
        "AnatomySegmenterConfig",
        "AnatomySegmenterModel",
        "PSPNetSegmenter",
    ],
    "black_box": [
        "BlackBoxError",
        "ImageClassifier",
        "StudentClassifier",
        "as_image_classifier",
        "distil",
    ],
    "models.progressive_explainer.posterior_bins": ["PosteriorBins"],
    "pipelines": ["CounterfactualPipeline", "ExplanationPipeline"],
    "explaining.explanation": ["Explanation"],
    "images.out_of_distribution": ["OutOfDistributionWarning"],
    "data": ["load_cxr", "cxr_schema"],
    "visualization.counterfactuals": ["counterfactual_grid"],
    "visualization.explanations": ["contact_sheet"],
    "examples": ["example_images"],
}
_WHERE = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'cf_cxr' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__


from .auto import register as _register  # noqa: E402

_register()
