"""Before the first test imports transformers."""

from .optional_libraries import make_torchvision_importable

make_torchvision_importable()
