"""Any classifier of chest radiographs as a black box: images in [-1, 1] to the posterior of one class.

`as_image_classifier` takes whatever there is; `distil` gives a classifier without gradients a student that has them.
"""

from .adapters import (
    AttributeImageClassifier,
    CallableImageClassifier,
    ModuleImageClassifier,
    TorchXRayVisionClassifier,
    TransformersImageClassifier,
    as_image_classifier,
    from_attribute_classifier,
    from_callable,
    from_module,
    from_torchxrayvision,
    from_transformers,
    load_image_classifier,
)
from .checks import BlackBoxError, check_images, check_not_constant, check_posterior
from .classifier import ImageClassifier
from .distillation import StudentFidelityError, distil
from .fingerprints import probe_images
from .preprocessing import RadiographPreprocessing, as_preprocessing
from .student import FidelityLimits, FidelityReport, StudentClassifier, measure_fidelity

__all__ = [
    "AttributeImageClassifier",
    "BlackBoxError",
    "CallableImageClassifier",
    "FidelityLimits",
    "FidelityReport",
    "ImageClassifier",
    "ModuleImageClassifier",
    "RadiographPreprocessing",
    "StudentClassifier",
    "StudentFidelityError",
    "TorchXRayVisionClassifier",
    "TransformersImageClassifier",
    "as_image_classifier",
    "as_preprocessing",
    "check_images",
    "check_not_constant",
    "check_posterior",
    "distil",
    "from_attribute_classifier",
    "from_callable",
    "from_module",
    "from_torchxrayvision",
    "from_transformers",
    "load_image_classifier",
    "measure_fidelity",
    "probe_images",
]
