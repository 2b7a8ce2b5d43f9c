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
    """The module, e.g. `"torchvision.models"`; skips the test where its library is not installed.

    A torchvision built for CUDA cannot load its C++ operators beside a torch built for the CPU, and then fails on
    import. Its networks need none of them: they are declared here, without an implementation.
    """
    try:
        import_module("torchvision")
    except ModuleNotFoundError:
        pass
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare_torchvision_operators()
    return pytest.importorskip(name)


def _declare_torchvision_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")
    for name in _TORCHVISION_OPERATORS:
        library.define(f"{name}(Tensor a) -> Tensor")
    _declared.append(library)
