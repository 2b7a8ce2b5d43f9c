"""Whether the draws that are asked for fit into memory, before anything is computed."""

from __future__ import annotations

from typing import Any

import psutil
import torch
from torch import nn


def check_draws_fit(model: Any, image_size: int, num_samples: int, interventions: int) -> None:
    """Refuses draws whose images cannot be decoded at once.

    All draws of an image under all interventions are one batch of the decoder. Each is reckoned as one feature map of
    its widest layer at full resolution: 23 MB for the bundled model at 128 x 128 pixels, where 18 to 22 MB were
    measured.

    Args:
        model: that decodes.
        image_size: side of an image in pixels.
        num_samples: draws of an image.
        interventions: on each.

    Raises:
        ValueError: with the estimate, what is available and how many draws fit.
    """
    mechanism = getattr(model, "image_mechanism", model)
    width = max((m.out_channels for m in mechanism.modules() if isinstance(m, nn.Conv2d)), default=1)
    each = interventions * width * image_size**2 * model.dtype.itemsize
    if model.device.type == "cuda":
        cached = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
        available = torch.cuda.mem_get_info(model.device)[0] + cached
    else:
        available = psutil.virtual_memory().available
    if num_samples * each > available:
        raise ValueError(
            f"num_samples={num_samples} needs about {num_samples * each / 1e9:,.1f} GB of memory ({interventions} "
            f"interventions, {each / 1e6:.3g} MB a draw), but {available / 1e9:.1f} GB are available on {model.device}. "
            f"At most {max(1, available // each)} draws fit."
        )


__all__ = ["check_draws_fit"]
