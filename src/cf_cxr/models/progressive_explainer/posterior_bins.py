"""Equal bins of the posterior [0, 1], the condition that an explainer is given (paper B, section 3).

B = Singla et al., "Explaining the black-box smoothly: a counterfactual approach", Medical Image Analysis 84, 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...tensor_checks import check_probabilities, has_values


@dataclass(frozen=True)
class PosteriorBins:
    """`num_bins` equal bins of [0, 1]; bin k is [k / num_bins, (k + 1) / num_bins), the last one includes 1.

    A target bin means its centre (k + 0.5) / num_bins: that is what a classifier is asked to say of an explanation,
    and what exaggeration curves are drawn against. (Published code trains towards left edges and plots centres.)

    Args:
        num_bins: number of bins, at least 2; B uses 10.

    Raises:
        ValueError: for fewer than two bins.
    """

    num_bins: int = 10

    def __post_init__(self):
        if self.num_bins < 2:
            raise ValueError(f"num_bins must be at least 2, got {self.num_bins}.")

    @property
    def edges(self) -> Tensor:
        """Edges `(num_bins + 1,)`, float32, from 0 to 1."""
        return torch.arange(self.num_bins + 1, dtype=torch.float64).div(self.num_bins).float()

    @property
    def centres(self) -> Tensor:
        """Centres `(num_bins,)`, float32."""
        return torch.arange(self.num_bins, dtype=torch.float64).add(0.5).div(self.num_bins).float()

    def index(self, posterior: Tensor) -> Tensor:
        """Bin of each posterior: min(floor(num_bins p), num_bins - 1), without rounding surprises at the edges.

        Args:
            posterior: any shape, in [0, 1].

        Returns:
            int64, the same shape.

        Raises:
            ValueError: for NaN or a value outside [0, 1].
        """
        posterior = torch.as_tensor(posterior)
        if posterior.dtype != torch.float64:
            posterior = posterior.float()
        check_probabilities(posterior, "posterior")
        inner = torch.arange(1, self.num_bins, dtype=torch.float64, device=posterior.device) / self.num_bins
        return torch.bucketize(posterior.detach().contiguous(), inner.to(posterior.dtype), right=True)

    def centre(self, index: Tensor | int) -> Tensor:
        """Centre of each bin: float32, the shape of `index`.

        Raises:
            ValueError: for an index that is no bin.
        """
        index = self.check_index(index)
        return self.centres.to(index.device)[index]

    def check_index(self, index: Tensor | int) -> Tensor:
        """`index` as an int64 tensor, if all of it are bins.

        Raises:
            ValueError: for numbers that are not integers or not in 0 ... num_bins - 1.
        """
        index = torch.as_tensor(index)
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise ValueError(
                f"Bins are integers from 0 to {self.num_bins - 1}, got {index.dtype}; "
                "use PosteriorBins.index to turn a posterior into a bin."
            )
        if not has_values(index):
            return index.long()
        low, high = index.aminmax()
        if low < 0 or high >= self.num_bins:
            wrong = int(low) if low < 0 else int(high)
            raise ValueError(
                f"Bin {wrong} does not exist: the {self.num_bins} bins are 0 to {self.num_bins - 1}."
            )
        return index.long()
