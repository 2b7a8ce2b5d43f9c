"""Causal flow: p(image | parents) by conditional flow matching, with abduction.

L = Lipman et al., "Flow matching for generative modeling", ICLR 2023 (arXiv 2210.02747).
K = Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022 (2206.00364).
Z = Zhuang et al., "MALI: a memory efficient and reverse accurate integrator for neural ODEs", ICLR 2021 (2102.04668).

An image x (t = 0) and noise e ~ N(0, I) (t = 1) are joined by x_t = (1 - t) x + t e; the network learns the velocity
e - x given x_t, t and the parents. Its mean is a vector field whose flow carries images to noise under the factual
parents (abduction) and noise to images under others (prediction). Nothing of the pixels is kept on the way, so that
edges can move.

Read top to bottom: attribute embedding, velocity, guidance, solver, model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput, logging
from transformers.utils.output_capturing import capture_outputs

from ..forward_arguments import check_forward_arguments
from ..image_mechanism import check_mechanism_inputs, random_numbers
from ..unet import UNetCheckpointingMixin, UNetResnetBlock, make_unet
from ..weight_files import CXRPreTrainedModel
from .configuration_causal_flow import CausalFlowConfig

GUIDANCE = ("factual", "classifier_free")
# Spread of the logit of the training times. With 1, as is usual, t < 0.05 is one image in 600, but abduction starts there.
TIME_SPREAD = 1.5


@dataclass
class CausalFlowNoise(ModelOutput):
    """Exogenous noise of a batch of images under a `CausalFlowModel`.

    Args:
        latents: the image carried to t = 1, one `(B, C, H, W)`, standard normal if the model is right, float32.
        drift: what the solver's velocity at t = 1 has more than the network's, `(B, C, H, W)`: of the size of the
            solver's error, and what makes the way back exact.
        parents: the factual parents `(B, context_dim)`.
        num_inference_steps: steps that led here, `(B,)`, the same for all; the way back takes as many.
    """

    latents: tuple[Tensor, ...] | None = None
    drift: Tensor | None = None
    parents: Tensor | None = None
    num_inference_steps: Tensor | None = None


@dataclass
class CausalFlowOutput(ModelOutput):
    """Output of `CausalFlowModel.forward`.

    Args:
        loss: mean squared error of the velocity at random times (L, eq. 23), scalar.
        reconstruction: the image expected at those times, x_t - t v, `(B, C, H, W)` in [-1, 1].
        hidden_states: with `output_hidden_states=True`: of the U-Net, before and after every residual block.
    """

    loss: Tensor | None = None
    reconstruction: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class AttributeEmbedding(nn.Module):
    """The sum over attributes of an embedding of its value, or of a learnt code where the value is unknown."""

    def __init__(self, config: CausalFlowConfig, width: int):
        super().__init__()
        self.sizes = config.attribute_sizes
        self.dropout = config.attribute_dropout
        self.values = nn.ModuleList(
            nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width)) for size in self.sizes
        )
        self.unknown = nn.Embedding(len(self.sizes), width)

    def forward(self, parents: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """`(B, context_dim)`, NaN where unknown, to `(B, width)`. Training hides attributes independently."""
        out = 0
        for code, network, unknown in zip(parents.split(self.sizes, dim=1), self.values, self.unknown.weight):
            hidden = code.isnan().any(1, keepdim=True)
            if self.training and self.dropout:
                hidden = hidden | (
                    random_numbers((len(code), 1), code.device, generator, torch.rand) < self.dropout
                )
            out = out + torch.where(hidden, unknown, network(code.nan_to_num()))
        return out


class CausalFlowModel(UNetCheckpointingMixin, CXRPreTrainedModel):
    """Flow of images given causal parents.

    `abduct` carries an image to t = 1 under its own parents, `decode` carries that noise back under others. Both take
    the same steps with a solver that is its own inverse, so a null intervention returns the image (composition).

    Guidance relative to the factual world: v = v(pa) + omega (v(pa*) - v(pa)), where pa* differs from pa in what was
    intervened on and its descendants. omega = 1 is the model's own answer; a larger one stresses the change; a null
    intervention stays null for every omega, and no attribute that keeps its value is stressed.
    """

    config: CausalFlowConfig
    config_class = CausalFlowConfig
    base_model_prefix = "causal_flow"
    _can_record_outputs = {"hidden_states": UNetResnetBlock}

    abduct_options = ("num_inference_steps", "show_progress")
    decode_options = ("guidance_scale", "guidance", "show_progress")
    takes_unknown_parents = True

    def __init__(self, config: CausalFlowConfig):
        super().__init__(config)
        widths, channels = config.block_out_channels, config.num_channels * config.patch_size**2
        plain = len(widths) - 1
        self.attribute_embedding = AttributeEmbedding(config, 4 * widths[0])
        self.unet = make_unet(
            sample_size=config.image_size // config.patch_size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=tuple(widths),
            layers_per_block=config.layers_per_block,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
            norm_num_groups=config.common_divisor,
            attention_head_dim=config.common_divisor,
            class_embed_type="identity",
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's defaults; unknown codes start at 0."""
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            bound = module.weight[0].numel() ** -0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.zeros_(module.weight)

    # ------------------------------------------------------------- velocity

    def velocity(self, x: Tensor, time: Tensor, embedding: Tensor) -> Tensor:
        """Mean of e - x given x_t.

        The network sees x_t at unit variance and adds to the best linear guess what that cannot know (K, section 5,
        for this path): with s^2 = (1 - t)^2 data_std^2 + t^2,
        v = (t - (1 - t) data_std^2) / s^2 x_t + data_std / s F(x_t / s, t, parents).

        Args:
            x: x_t, `(B, C, H, W)`.
            time: t in [0, 1], `(B,)`.
            embedding: of the parents, `(B, width)`.

        Returns:
            `(B, C, H, W)`, float32.
        """
        std, size = self.config.data_std, self.config.patch_size
        t = time[:, None, None, None].float()
        variance = ((1 - t) * std).square() + t.square()
        patches = F.pixel_unshuffle(x * variance.rsqrt(), size).to(self.dtype)
        change = self.unet(patches, 1000 * time, class_labels=embedding.to(self.dtype)).sample
        change = F.pixel_shuffle(change, size).float()
        return (t - (1 - t) * std**2) / variance * x + std * variance.rsqrt() * change

    @capture_outputs
    def forward(
        self, pixel_values: Tensor, parents: Tensor, generator: torch.Generator | None = None, **kwargs
    ) -> CausalFlowOutput | tuple:
        """The flow matching loss of images at random times, one per image, logit-normal in [0, 1].

        Args:
            pixel_values: `(B, C, H, W)` in [-1, 1].
            parents: `(B, context_dim)`, from `AttributeSchema.encode`; NaN where unknown.
            generator: source of times, noise and hidden attributes.
        """
        check_forward_arguments(self, kwargs)
        check_mechanism_inputs(self.config, pixel_values, parents)
        x = pixel_values.float()
        time = (TIME_SPREAD * random_numbers((len(x),), x.device, generator)).sigmoid()
        epsilon = random_numbers(x.shape, x.device, generator)
        t = time[:, None, None, None]
        x_t = torch.lerp(x, epsilon, t)
        velocity = self.velocity(x_t, time, self.attribute_embedding(parents.to(self.dtype), generator))
        return CausalFlowOutput(
            loss=F.mse_loss(velocity, epsilon - x), reconstruction=(x_t - t * velocity).clamp(-1, 1)
        )

    # ------------------------------------------------------------- guidance

    def omegas(self, guidance_scale: float | Mapping[str, float] | None = None) -> dict[str, float]:
        """The guidance scale of every attribute; None takes the configuration's.

        Raises:
            ValueError: for an attribute that is none of the parents, or something that is no finite number.
        """
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        names = self.config.attribute_names
        if not isinstance(scale, Mapping):
            scale = dict.fromkeys(names, scale)
        if unknown := set(scale) - set(names):
            raise ValueError(
                f"guidance_scale names {', '.join(sorted(unknown))}; the attributes are {', '.join(names)}."
            )
        omegas = {name: scale.get(name, 1.0) for name in names}
        if not all(isinstance(omega, Real) and math.isfinite(omega) for omega in omegas.values()):
            raise ValueError(
                f"guidance_scale={guidance_scale!r}: give a finite number, or one per attribute."
            )
        return omegas

    def _field(self, parents: Tensor) -> Callable[[Tensor, float], Tensor]:
        """The vector field under these parents."""
        embedding = self.attribute_embedding(parents)
        return lambda x, t: self.velocity(x, x.new_full((len(x),), t), embedding)

    def _guided_field(
        self, start: Tensor, parents: Tensor, omegas: Mapping[str, float]
    ) -> Callable[[Tensor, float], Tensor]:
        """v(start) + omega (v(parents) - v(start)); where attributes have different omegas, in a telescoping sum.

        Attributes of equal omega move together, the smallest omega first: v = v(pa_0) + sum_g omega_g (v(pa_g) -
        v(pa_{g-1})), pa_0 = start. The network is asked only for the rows that a group changes.
        """
        row = torch.arange(len(start), device=start.device)
        codes, rows, weights = [start], [row], [torch.ones(len(start), device=start.device)]
        now, last = start, row.clone()  # codes of every row so far, and where in the lists it was last put
        slices = dict(zip(omegas, torch.arange(start.shape[1]).split(self.config.attribute_sizes)))
        for omega in sorted(set(omegas.values())):
            columns = torch.cat([slices[name] for name in omegas if omegas[name] == omega])
            before, now = now, now.clone()
            now[:, columns] = parents[:, columns]
            [moved] = ((now != before) & ~(now.isnan() & before.isnan())).any(1).nonzero(as_tuple=True)
            weights = [
                torch.cat(weights).index_add(0, last[moved], weights[0].new_full((len(moved),), -omega))
            ]
            last[moved] = len(weights[0]) + torch.arange(len(moved), device=start.device)
            codes, rows = [*codes, now[moved]], [*rows, moved]
            weights.append(torch.full_like(weights[0][: len(moved)], omega))
        row, weight = torch.cat(rows), torch.cat(weights)
        used = weight != 0
        row, weight = row[used], weight[used][:, None, None, None]
        embedding = self.attribute_embedding(torch.cat(codes)[used])

        def field(x: Tensor, t: float) -> Tensor:
            velocity = self.velocity(x[row], x.new_full((len(row),), t), embedding)
            return torch.zeros_like(x).index_add_(0, row, weight * velocity)

        return field

    # --------------------------------------------------------------- solver

    @staticmethod
    def times(num_inference_steps: int) -> list[float]:
        """The solver's times from 0 to 1, closer together at both ends, where the field turns quickly."""
        shares = [i / num_inference_steps for i in range(num_inference_steps + 1)]
        return [s**1.5 / (s**1.5 + (1 - s) ** 1.5) for s in shares]

    @staticmethod
    def integrate(
        field: Callable[[Tensor, float], Tensor],
        x: Tensor,
        velocity: Tensor,
        times: list[float],
        show_progress: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Asynchronous leapfrog (Z, section 3.2): second order, one look at the field per step, its own inverse.

        With h the step: u = field(x + h/2 velocity, t + h/2); x <- x + h u; velocity <- 2 u - velocity. The same
        steps with the times reversed lead back to the start, up to rounding.

        Args:
            field: x `(B, C, H, W)` and t to velocity.
            x, velocity: state at `times[0]`.
            times: ascending or descending.

        Returns:
            x and velocity at `times[-1]`.
        """
        steps = list(zip(times, times[1:]))
        for t, following in logging.tqdm(steps, desc="Flow", leave=False) if show_progress else steps:
            h = following - t
            u = field(x + velocity * (h / 2), t + h / 2)
            x, velocity = x + h * u, 2 * u - velocity
        return x, velocity

    def _steps(self, num_inference_steps: int | None) -> int:
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 1000:
            raise ValueError(f"num_inference_steps={steps!r}: give a whole number from 1 to 1000.")
        return steps

    # ------------------------------------------------- the image mechanism

    def abduct(
        self,
        pixel_values: Tensor,
        parents: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = False,
        num_inference_steps: int | None = None,
        show_progress: bool = False,
    ) -> CausalFlowNoise:
        """The noise of images given their factual parents: the flow from t = 0 to 1.

        Args:
            pixel_values: `(B, C, H, W)` in [-1, 1].
            parents: `(B, context_dim)`, NaN where unknown.
            generator: not used; nothing is drawn.
            sample: must be False: the mechanism has no posterior.
            num_inference_steps: N, default the configuration's; N + 2 passes of the network.
            show_progress: show a progress bar.

        Raises:
            ValueError: for a wrong shape, NaN or values outside [-1, 1], for `sample`, or impossible steps.
        """
        if sample:
            raise ValueError(
                "A causal flow has no posterior: an image has one noise, and its counterfactual no spread. Ask for "
                "one sample."
            )
        check_mechanism_inputs(self.config, pixel_values, parents)
        steps = self._steps(num_inference_steps)
        x, parents = pixel_values.float(), parents.to(self.dtype)
        field = self._field(parents)
        x, velocity = self.integrate(field, x, field(x, 0.0), self.times(steps), show_progress)
        return CausalFlowNoise(
            latents=(x,),
            drift=velocity - field(x, 1.0),
            parents=parents,
            num_inference_steps=torch.full((len(x),), steps, device=x.device),
        )

    def decode(
        self,
        noise: CausalFlowNoise,
        parents: Tensor,
        guidance_scale: float | Mapping[str, float] | None = None,
        guidance: str = "factual",
        show_progress: bool = False,
    ) -> Tensor:
        """The images that this noise gives under these parents: the flow from t = 1 to 0, `(B, C, H, W)`.

        Args:
            noise: from `abduct`.
            parents: `(B, context_dim)`.
            guidance_scale: omega, for all attributes or by name; default the configuration's. With 1, N + 1 passes of
                the network, else twice as many or more.
            guidance: `"factual"`, as the class describes; or `"classifier_free"`, for comparison: v(nothing known) +
                omega (v(pa*) - v(nothing known)), which stresses every attribute, and whose null intervention is null
                for omega = 1 only.
            show_progress: show a progress bar.

        Raises:
            ValueError: for unknown guidance.
        """
        if guidance not in GUIDANCE:
            raise ValueError(f"guidance={guidance!r}; choose one of {', '.join(GUIDANCE)}.")
        start = noise.parents if guidance == "factual" else torch.full_like(noise.parents, torch.nan)
        field = self._guided_field(start, parents.to(noise.parents), self.omegas(guidance_scale))
        [x], times = noise.latents, self.times(int(noise.num_inference_steps[0]))
        x, _ = self.integrate(field, x, field(x, 1.0) + noise.drift, times[::-1], show_progress)
        return x.clamp(-1, 1)

    def sample(
        self,
        parents: Tensor,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        num_inference_steps: int | None = None,
        show_progress: bool = False,
    ) -> Tensor:
        """New images given parents `(B, context_dim)`, NaN where unknown: noise of this standard deviation, decoded."""
        c = self.config
        shape = (len(parents), c.num_channels, c.image_size, c.image_size)
        x = temperature * random_numbers(shape, parents.device, generator)
        field, times = self._field(parents.to(self.dtype)), self.times(self._steps(num_inference_steps))
        return self.integrate(field, x, field(x, 1.0), times[::-1], show_progress)[0].clamp(-1, 1)
