"""The discriminator of paper B: spectral normalisation, and a projection on the ordinal target.

B = Singla et al., "Explaining the black-box smoothly: a counterfactual approach", Medical Image Analysis 84, 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import ParametrizationList
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ...tensor_checks import check_pixel_values
from ..forward_arguments import check_forward_arguments
from ..weight_files import CXRPreTrainedModel
from .configuration_explainer_discriminator import ExplainerDiscriminatorConfig
from .posterior_bins import PosteriorBins

_FIRST_POWER_ITERATIONS = 30


@dataclass
class ExplainerDiscriminatorOutput(ModelOutput):
    """
    Args:
        loss (`()`, float32, given `labels`): mean hinge loss max(0, 1 - s) of real, max(0, 1 + s) of generated images.
        scores (`(B,)`, float32): high means real, for this bin.
        features (`(B, D)`, float32): h, the summed last feature map.
        hidden_states (tuple, with `output_hidden_states=True`): after every block.
    """

    loss: Tensor | None = None
    scores: Tensor | None = None
    features: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class DiscriminatorBlock(nn.Module):
    """Residual block of two spectral-norm 3x3 convolutions, average-pooled by 2 if `down`.

    Args:
        in_channels, out_channels: of the block.
        down: halve the resolution.
        first: reads pixels, which no ReLU may cut.
    """

    def __init__(self, in_channels: int, out_channels: int, down: bool, first: bool = False):
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = spectral_norm(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        needed = down or in_channels != out_channels
        self.skip = spectral_norm(nn.Conv2d(in_channels, out_channels, 1)) if needed else nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        """`(B, in, H, W)` to `(B, out, H, W)`, or half the height and width."""
        residual = self.conv2(F.relu(self.conv1(hidden if self.first else F.relu(hidden))))
        if self.down:  # averaging and a 1x1 convolution commute
            residual, hidden = F.avg_pool2d(residual, 2), F.avg_pool2d(hidden, 2)
        return residual + self.skip(hidden)


class ExplainerDiscriminator(CXRPreTrainedModel):
    """Is this a real image whose posterior is in this bin? (paper B, section 3.2)

        score(x, c) = w . h(x) + b + sum over thresholds k = 1 ... K - 1 of <V_k, h(x)> [c >= k]

    for K bins; h is the sum-pooled output of residual blocks. Bins are ordered, so c is coded by the thresholds it
    passes, and each threshold has its own V_k. (Released code shares one V between all of them, which leaves only
    the number of passed thresholds.) Every weight is divided by its largest singular value, the matrix of all V_k
    included.

    There is no gradient checkpointing: training mode updates the estimate of the singular values in every forward, so
    a second forward in the backward pass would compute another function.
    """

    config_class = ExplainerDiscriminatorConfig
    config: ExplainerDiscriminatorConfig
    base_model_prefix = "explainer_discriminator"
    supports_gradient_checkpointing = False
    _can_record_outputs = {
        "hidden_states": OutputRecorder(DiscriminatorBlock, capture_initial_hidden_state=False)
    }

    def __init__(self, config: ExplainerDiscriminatorConfig):
        super().__init__(config)
        self.bins = PosteriorBins(config.num_bins)
        widths = [config.num_channels, *config.widths]
        last = len(config.widths) - 1
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(a, b, down=i < last, first=i == 0)
            for i, (a, b) in enumerate(zip(widths[:-1], widths[1:]))
        )
        self.linear = spectral_norm(nn.Linear(widths[-1], 1))
        self.thresholds = spectral_norm(nn.Linear(widths[-1], config.num_bins - 1, bias=False))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Glorot-uniform weights with the singular vectors that belong to them, and zero biases."""
        if isinstance(module, ParametrizationList):
            init.xavier_uniform_(module.original)
            u, v = _singular_vectors(module.original)
            init.copy_(module[0]._u, u)
            init.copy_(module[0]._v, v)
        elif hasattr(module, "_u"):  # for a checkpoint that lacks nothing else: training finds the vectors
            for vector in (module._u, module._v):
                init.copy_(vector, F.normalize(torch.randn_like(vector), dim=0))
        elif getattr(module, "bias", None) is not None:
            init.zeros_(module.bias)

    @capture_outputs
    def forward(
        self, pixel_values: Tensor, target_bins: Tensor | int, labels: Tensor | None = None, **kwargs
    ) -> ExplainerDiscriminatorOutput | tuple:
        """Scores of images, each for one bin.

        Args:
            pixel_values: `(B, C, H, W)` in [-1, 1]; H and W multiples of the total stride.
            target_bins: `(B,)`: the bin of a real image's posterior, or a generated image's target; or one for all.
            labels: `(B,)`, 1 for real and 0 for generated images; adds `loss`.

        Raises:
            ValueError: for images of another shape, size or range, or a bin that does not exist.
        """
        check_forward_arguments(self, kwargs)
        check_pixel_values(pixel_values, self.config.num_channels, self.config.total_stride)
        target_bins = self.bins.check_index(target_bins).to(pixel_values.device)
        if target_bins.ndim and target_bins.shape != (len(pixel_values),):
            raise ValueError(
                f"There must be one bin for each of {len(pixel_values)} images, got shape {tuple(target_bins.shape)}."
            )
        hidden = pixel_values.to(self.blocks[0].conv1.bias.dtype)
        for block in self.blocks:
            hidden = block(hidden)
        features = F.relu(hidden).float().sum((2, 3))
        with torch.autocast(pixel_values.device.type, enabled=False):
            h = features.to(self.linear.bias.dtype)
            thresholds = torch.arange(1, self.config.num_bins, device=h.device)
            passed = target_bins.reshape(-1, 1) >= thresholds
            scores = (self.linear(h).squeeze(1) + (self.thresholds(h) * passed).sum(1)).float()
        return ExplainerDiscriminatorOutput(
            loss=None if labels is None else F.relu(1 - (2 * labels.float() - 1) * scores).mean(),
            scores=scores,
            features=features,
        )


def _singular_vectors(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right singular vectors of the largest singular value of a weight, its first dimension as rows."""
    matrix = weight.flatten(1).float()
    v = F.normalize(torch.randn(matrix.shape[1]).to(matrix), dim=0)
    for _ in range(_FIRST_POWER_ITERATIONS):
        u = F.normalize(matrix @ v, dim=0)
        v = F.normalize(matrix.T @ u, dim=0)
    return u, v
