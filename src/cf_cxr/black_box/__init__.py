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
)
from .checks import check_images, check_not_constant, check_posterior
from .classifier import ImageClassifier
from .distillation import StudentFidelityError, distil
from .errors import BlackBoxError
from .fidelity import FidelityLimits, FidelityReport, measure_fidelity
from .loading import load_image_classifier
from .preprocessing import RadiographPreprocessing
from .probes import probe_images
from .processor_settings import as_preprocessing
from .student import StudentClassifier

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
