"""Masks of lungs, heart and devices: for the context-aware loss and the cardiothoracic ratio."""

from .configuration_anatomy_segmenter import AnatomySegmenterConfig
from .modeling_anatomy_segmenter import AnatomySegmenterModel, AnatomySegmenterOutput
from .pspnet import PSPNetSegmenter

__all__ = ["AnatomySegmenterConfig", "AnatomySegmenterModel", "AnatomySegmenterOutput", "PSPNetSegmenter"]
