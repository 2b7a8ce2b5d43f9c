"""Any classifier of chest radiographs as a black box: images in [-1, 1] to the posterior of one class.

`as_image_classifier` takes whatever there is; `distil` gives a classifier without gradients a student that has them.
"""

from .adapters import as_image_classifier, load_image_classifier
from .attribute_adapter import AttributeImageClassifier, from_attribute_classifier
from .callable_adapter import CallableImageClassifier, from_callable
from .checks import BlackBoxError, check_images, check_not_constant, check_posterior
from .classifier import ImageClassifier
from .distillation import StudentFidelityError, distil
from .fingerprints import probe_images
from .module_adapter import ModuleImageClassifier, from_module
from .preprocessing import RadiographPreprocessing, as_preprocessing
from .student import FidelityLimits, FidelityReport, StudentClassifier, measure_fidelity
from .torchxrayvision_adapter import TorchXRayVisionClassifier, from_torchxrayvision
from .transformers_adapter import TransformersImageClassifier, from_transformers

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
