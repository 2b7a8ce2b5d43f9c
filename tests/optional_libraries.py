"""Libraries that some tests use where they are installed."""

from importlib import import_module
from types import ModuleType

import pytest
import torch

_TORCHVISION_OPERATORS = (
    *("nms", "qnms", "deform_conv2d", "_deform_conv2d_backward", "roi_align", "_roi_align_backward"),
    *("roi_pool", "_roi_pool_backward", "ps_roi_align", "_ps_roi_align_backward"),
    *("ps_roi_pool", "_ps_roi_pool_backward"),
)
_declared: list[torch.library.Library] = []  # operators live as long as these


def import_optional(name: str) -> ModuleType:
    """The module, e.g. `"torchvision.models"`; skips the test where its library is not installed."""
    make_torchvision_importable()
    return pytest.importorskip(name)


def make_torchvision_importable() -> None:
    """Lets a torchvision built for CUDA, whose C++ operators do not load beside a torch built for the CPU, be imported.

    Without, its import fails, and so does that of all of transformers that looks at images. Networks do not use the
    operators: they are declared, without an implementation.
    """
    try:
        import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in _TORCHVISION_OPERATORS:
            library.define(f"{name}(Tensor a) -> Tensor")
        _declared.append(library)
