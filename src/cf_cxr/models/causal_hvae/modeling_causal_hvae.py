"""Causal hierarchical VAE: p(image | parents) with abduction.

H = De Sousa Ribeiro et al., "High fidelity image counterfactuals with probabilistic causal models", ICML 2023.
A = Xia et al., "Mitigating attribute amplification in counterfactual image generation", MICCAI 2024.

Read top to bottom: broadcast 1x1 convolution, residual block, encoder, decoder block, decoder, likelihood, model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import capture_outputs

from ..forward_arguments import check_forward_arguments
from ..image_mechanism import check_mechanism_inputs, random_numbers, repeat_noise
from ..weight_files import CXRPreTrainedModel
from .configuration_causal_hvae import CausalHVAEConfig, DecoderBlockSpec, EncoderBlockSpec

MIN_LOGSCALE = -9.0


@dataclass
class CausalHVAENoise(ModelOutput):
    """Exogenous noise of a batch of images under a `CausalHVAEModel`.

    Args:
        latents: z per stochastic decoder block, lowest resolution first, each `(B, z_dim, r, r)`.
        residual: u = (x - loc) / scale of the likelihood, `(B, C, H, W)`, float32.
    """

    latents: tuple[Tensor, ...] | None = None
    residual: Tensor | None = None


@dataclass
class CausalHVAEOutput(ModelOutput):
    """Output of `CausalHVAEModel.forward`; losses in nats per dimension (pixel and channel).

    Args:
        loss: free energy nll + beta * kl, scalar.
        nll: negative log likelihood of the discretised Gaussian, scalar (batch mean).
        kl: KL of posterior and prior, summed over latents, divided by the image's dimensions, scalar.
        reconstruction: likelihood mean clamped to [-1, 1], `(B, C, H, W)`.
        counterfactual: `(B, C, H, W)` in [-1, 1], only with `counterfactual_parents`.
        hidden_states: with `output_hidden_states=True`: the encoder's, after its stem and after every block.
    """

    loss: Tensor | None = None
    nll: Tensor | None = None
    kl: Tensor | None = None
    reconstruction: Tensor | None = None
    counterfactual: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class DecoderState:
    """What one pass through the decoder leaves: h `(B, width, H, W)`, and per stochastic block z and KL(q || p)."""

    hidden: Tensor
    latents: list[Tensor]
    kls: list[Tensor]


def broadcast_conv1x1(conv: nn.Conv2d, *parts: Tensor) -> Tensor:
    """A 1x1 convolution of concatenated inputs, some of which are spatially constant.

    Parts are maps `(B, C_i, H, W)` or vectors `(B, C_i)` that stand for constant maps. A vector costs one small
    matrix product, broadcast over positions; no full-resolution map is made. At least one part is a map.
    """
    weights = conv.weight.split([p.shape[1] for p in parts], dim=1)
    constant = conv.bias
    for part, weight in zip(parts, weights):
        if part.ndim == 2:
            constant = F.linear(part, weight.flatten(1), constant)
    maps = [(p, w) for p, w in zip(parts, weights) if p.ndim == 4]
    fused = constant is conv.bias
    out = F.conv2d(*maps[0], constant if fused else None)
    for part, weight in maps[1:]:
        out = out + F.conv2d(part, weight)
    return out if fused else out + constant[:, :, None, None]


class BottleneckBlock(nn.Module):
    """GELU before each of 1x1, kxk, kxk, 1x1 convolutions; optionally residual, optionally pooled.

    `expand_scale` multiplies the initial weights of the last convolution.
    """

    def __init__(self, in_channels, bottleneck, out_channels, kernel_size=3, residual=True, expand_scale=1.0):
        super().__init__()
        padding = kernel_size // 2
        self.reduce = nn.Conv2d(in_channels, bottleneck, 1)
        self.spatial_1 = nn.Conv2d(bottleneck, bottleneck, kernel_size, padding=padding)
        self.spatial_2 = nn.Conv2d(bottleneck, bottleneck, kernel_size, padding=padding)
        self.expand = nn.Conv2d(bottleneck, out_channels, 1)
        self.expand.init_scale = expand_scale
        self.width_proj = (
            nn.Conv2d(in_channels, out_channels, 1) if residual and in_channels != out_channels else None
        )
        self.residual = residual

    def forward(self, *parts: Tensor) -> Tensor:
        """Parts as in `broadcast_conv1x1`; a residual block takes one map."""
        out = broadcast_conv1x1(self.reduce, *(F.gelu(p) for p in parts))
        out = self.spatial_2(F.gelu(self.spatial_1(F.gelu(out))))
        out = self.expand(F.gelu(out))
        if not self.residual:
            return out
        skip = parts[0] if self.width_proj is None else self.width_proj(parts[0])
        return skip + out


class CausalHVAEEncoderBlock(GradientCheckpointingLayer):
    """Residual block, then average pooling."""

    def __init__(self, spec: EncoderBlockSpec, n_blocks: int):
        super().__init__()
        self.block = BottleneckBlock(
            spec.in_channels, spec.bottleneck, spec.out_channels, expand_scale=math.sqrt(1 / n_blocks)
        )
        self.pool = spec.pool

    def forward(self, hidden: Tensor) -> Tensor:
        """`(B, C, r, r)` to `(B, C', r // pool, r // pool)`."""
        hidden = self.block(hidden)
        return F.avg_pool2d(hidden, self.pool) if self.pool > 1 else hidden


class CausalHVAEEncoder(nn.Module):
    """Deterministic bottom-up path; gives the last activation at each resolution."""

    def __init__(self, config: CausalHVAEConfig):
        super().__init__()
        width, stride = config.stem()
        specs = config.encoder_specs()
        self.stem = nn.Conv2d(config.num_channels, width, 7, stride=stride, padding=3)
        self.blocks = nn.ModuleList(CausalHVAEEncoderBlock(spec, len(specs)) for spec in specs)
        self.pads_odd = config.pads_odd

    def forward(self, pixel_values: Tensor) -> dict[int, Tensor]:
        """`(B, C, H, W)` to `{resolution: (B, width, resolution, resolution)}`."""
        hidden, activations = self.stem(pixel_values), {}
        for block in self.blocks:
            hidden = block(hidden)
            if self.pads_odd and hidden.shape[-1] % 2 and hidden.shape[-1] > 1:
                hidden = F.pad(hidden, (0, 1, 0, 1))
            activations[hidden.shape[-1]] = hidden
        return activations


class CausalHVAEDecoderBlock(GradientCheckpointingLayer):
    """One top-down step: prior, posterior (or given latents), merge with the parents, residual block.

    (p_loc, p_logscale, features) = prior(z [, parents])
    (q_loc, q_logscale) = posterior(h, parents, encoder features)
    h <- block(h + features + z_proj([z, parents]));  z <- z_feat_proj([z, features])
    """

    def __init__(self, config: CausalHVAEConfig, spec: DecoderBlockSpec, n_blocks: int, is_last: bool):
        super().__init__()
        self.resolution, self.stochastic, self.is_last = spec.resolution, spec.stochastic, is_last
        self.z_dim, self.width, self.cond_prior = config.z_dim, spec.in_channels, config.cond_prior
        kernel = 3 if spec.resolution > 2 else 1
        width, scale = spec.in_channels, math.sqrt(1 / n_blocks)
        prior_in = width + config.context_dim * config.cond_prior
        self.prior = BottleneckBlock(
            prior_in, spec.bottleneck, 2 * config.z_dim + width, kernel, residual=False, expand_scale=0.0
        )
        self.posterior = None
        if spec.stochastic:
            posterior_in = 2 * width + config.context_dim
            self.posterior = BottleneckBlock(
                posterior_in, spec.bottleneck, 2 * config.z_dim, kernel, residual=False
            )
        self.z_proj = nn.Conv2d(config.z_dim + config.context_dim, width, 1)
        self.z_proj.init_scale = scale
        # Nothing follows the last block's projection; it exists so that published checkpoints fit key by key.
        self.z_feat_proj = nn.Conv2d(config.z_dim + width, spec.out_channels, 1).requires_grad_(not is_last)
        self.block = BottleneckBlock(width, spec.bottleneck, spec.out_channels, kernel, expand_scale=scale)

    def forward(
        self,
        hidden: Tensor,
        prior_input: Tensor,
        parents: Tensor,
        features: Tensor | None = None,
        epsilon: Tensor | None = None,
        latent: Tensor | None = None,
        log_temperature: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Returns h, next prior input, z, q_loc, q_logscale, p_loc, p_logscale (q = p without features).

        z is `latent` if given, else the posterior (with `features`) or prior mean plus `epsilon` scales.
        """
        prior = self.prior(prior_input, parents) if self.cond_prior else self.prior(prior_input)
        p_loc, p_logscale, p_features = prior.split([self.z_dim, self.z_dim, self.width], dim=1)
        p_logscale = p_logscale + log_temperature
        q_loc, q_logscale = p_loc, p_logscale
        if self.stochastic and features is not None:
            q_loc, q_logscale = self.posterior(hidden, parents, features).chunk(2, dim=1)
            q_logscale = q_logscale + log_temperature
        z = latent
        if z is None:
            z = q_loc if epsilon is None else q_loc + q_logscale.exp() * epsilon
        hidden = hidden + p_features + broadcast_conv1x1(self.z_proj, z, parents)
        following = z if self.is_last else broadcast_conv1x1(self.z_feat_proj, z, p_features)
        return self.block(hidden), following, z, q_loc, q_logscale, p_loc, p_logscale


def gaussian_kl(q_loc: Tensor, q_logscale: Tensor, p_loc: Tensor, p_logscale: Tensor) -> Tensor:
    """KL(N(q_loc, e^q_logscale) || N(p_loc, e^p_logscale)), elementwise, in nats."""
    q_loc, q_logscale, p_loc, p_logscale = (t.float() for t in (q_loc, q_logscale, p_loc, p_logscale))
    variance_ratio = (2 * (q_logscale - p_logscale)).exp()
    distance = (q_loc - p_loc).square() * (-2 * p_logscale).exp()
    return p_logscale - q_logscale + 0.5 * (variance_ratio + distance - 1)


class CausalHVAEDecoder(nn.Module):
    """Top-down path over all blocks, with a learnt spatial bias per resolution."""

    def __init__(self, config: CausalHVAEConfig):
        super().__init__()
        specs = config.decoder_specs()
        n = len(specs)
        self.blocks = nn.ModuleList(
            CausalHVAEDecoderBlock(config, spec, n, is_last=i == n - 1) for i, spec in enumerate(specs)
        )
        self.bias = nn.ParameterList(torch.zeros(1, width, r, r) for width, r in config.bias_shapes())

    def _enter(self, tensor: Tensor, resolution: int) -> Tensor:
        """Up-samples to a block's resolution and adds that resolution's bias."""
        if tensor.shape[-1] == resolution:
            return tensor
        tensor = F.interpolate(tensor, size=(resolution, resolution), mode="nearest")
        bias = next((b for b in self.bias if b.shape[-1] == resolution), None)
        return tensor if bias is None else tensor + bias

    def forward(
        self,
        parents: Tensor,
        activations: dict[int, Tensor] | None = None,
        latents: Sequence[Tensor] | None = None,
        sample: bool = True,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> DecoderState:
        """Runs all blocks.

        Args:
            parents: `(B, context_dim)`.
            activations: from the encoder; z is drawn from the posterior.
            latents: given z, one per stochastic block; neither of both means z from the prior.
            sample: draw z; False takes the means.
            temperature: multiplies the scale of the distribution that z is drawn from.
        """
        hidden = z = self.bias[0].expand(parents.shape[0], -1, -1, -1)
        state = DecoderState(hidden, [], [])
        given = iter(latents) if latents is not None else None
        for block in self.blocks:
            r = block.resolution
            hidden, z = self._enter(hidden, r), self._enter(z, r)
            features = activations[r] if activations is not None and block.stochastic else None
            latent = next(given) if given is not None and block.stochastic else None
            epsilon = None
            if block.stochastic and latent is None and sample:
                shape = (len(parents), block.z_dim, r, r)
                epsilon = random_numbers(shape, parents.device, generator).to(parents.dtype)
            hidden, z, sampled, *moments = block(
                hidden, z, parents, features, epsilon, latent, math.log(temperature)
            )
            if block.stochastic:
                state.latents.append(sampled)
                if features is not None:
                    state.kls.append(gaussian_kl(*moments))
        state.hidden = hidden
        return state


class DiscretizedGaussian(nn.Module):
    """Pixel likelihood: a Gaussian integrated over bins of width 2/255, the outermost bins open-ended."""

    def __init__(self, config: CausalHVAEConfig):
        super().__init__()
        self.x_loc = nn.Conv2d(config.widths[0], config.num_channels, 1)
        self.x_logscale = nn.Conv2d(config.widths[0], config.num_channels, 1)
        self.x_logscale.init_log_std = math.log(config.std_init) if config.std_init > 0 else None
        self.x_logscale.weight.requires_grad_(config.x_like == "diag_dgauss" or config.std_init == 0)
        self.x_logscale.bias.requires_grad_(config.x_like != "fixed_dgauss" or config.std_init == 0)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, width, H, W)` to loc (unclamped) and logscale, float32, each `(B, C, H, W)`."""
        return self.x_loc(hidden).float(), self.x_logscale(hidden).float().clamp(min=MIN_LOGSCALE)

    @staticmethod
    def log_prob(pixel_values: Tensor, loc: Tensor, logscale: Tensor) -> Tensor:
        """Log probability of each pixel's bin, with a tanh approximation of the normal CDF."""

        def cdf(t: Tensor) -> Tensor:
            return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (t + 0.044715 * t.pow(3))))

        x = pixel_values.float()
        inverse_scale = torch.exp(-logscale)
        upper = cdf((x - loc + 1 / 255) * inverse_scale)
        lower = cdf((x - loc - 1 / 255) * inverse_scale)
        probability = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
        return probability.clamp(min=1e-12).log()


class CausalHVAEModel(CXRPreTrainedModel):
    """Hierarchical VAE of images given causal parents (H, section 3; A, section 2).

    The counterfactual of an image x with parents pa under parents pa* (A, the formula of x*):

        z ~ q(z | x, pa) or its mean;  (mu, sigma) = decode(z, pa);  u = (x - mu) / sigma
        (mu*, sigma*) = decode(z, pa*);  x* = clamp(mu* + sigma* u, -1, 1)

    `abduct` gives (z, u) with one encoder and one decoder pass; `decode` costs one decoder pass.
    """

    config_class = CausalHVAEConfig
    config: CausalHVAEConfig
    base_model_prefix = "causal_hvae"
    _no_split_modules = ["CausalHVAEEncoderBlock", "CausalHVAEDecoderBlock"]
    _can_record_outputs = {"hidden_states": CausalHVAEEncoderBlock}

    #: names of the layers that read the parents
    parent_layers = ("z_proj",)

    def __init__(self, config: CausalHVAEConfig):
        super().__init__(config)
        self.encoder = CausalHVAEEncoder(config)
        self.decoder = CausalHVAEDecoder(config)
        self.likelihood = DiscretizedGaussian(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's default for convolutions, times the `init_scale` that a block set; zero spatial biases."""
        if isinstance(module, nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            scale = getattr(module, "init_scale", 1.0)
            init.uniform_(module.weight, -bound * scale, bound * scale)
            init.uniform_(module.bias, -bound, bound)
            if getattr(module, "init_log_std", None) is not None:
                init.zeros_(module.weight)
                init.constant_(module.bias, module.init_log_std)
        elif isinstance(module, nn.ParameterList):
            for parameter in module:
                init.zeros_(parameter)

    @capture_outputs
    def forward(
        self,
        pixel_values: Tensor,
        parents: Tensor,
        counterfactual_parents: Tensor | None = None,
        sample_posterior: bool | None = None,
        generator: torch.Generator | None = None,
        **kwargs,
    ) -> CausalHVAEOutput | tuple:
        """Free energy of images, and, on request, their counterfactuals from the same pass.

        Args:
            pixel_values: `(B, C, H, W)` in [-1, 1].
            parents: `(B, context_dim)`, from `AttributeSchema.encode`.
            counterfactual_parents: `(B * K, context_dim)`, K consecutive rows per image; adds `counterfactual`
                `(B * K, C, H, W)` for K more decoder passes.
            sample_posterior: draw z from the posterior (an unbiased estimate of the free energy) or take its mean.
                None draws in training mode or when a generator is given, and takes the mean otherwise.
            generator: source of the posterior noise.
        """
        check_forward_arguments(self, kwargs)
        check_mechanism_inputs(self.config, pixel_values, parents)
        if sample_posterior is None:
            sample_posterior = self.training or generator is not None
        pixel_values, parents = pixel_values.to(self.dtype), parents.to(self.dtype)
        state = self.decoder(
            parents, self.encoder(pixel_values), sample=sample_posterior, generator=generator
        )
        loc, logscale = self.likelihood(state.hidden)
        nll = -self.likelihood.log_prob(pixel_values, loc, logscale).mean()
        kl = self._kl(state.kls, pixel_values[0].numel())
        counterfactual = None
        if counterfactual_parents is not None:
            repeats, rest = divmod(len(counterfactual_parents), len(parents))
            if rest or not repeats:
                raise ValueError(
                    f"{len(counterfactual_parents)} rows of counterfactual_parents for {len(parents)} images; give K "
                    "consecutive rows for each image."
                )
            noise = self._noise(pixel_values, state, loc, logscale)
            counterfactual = self.decode(repeat_noise(noise, repeats), counterfactual_parents)
        return CausalHVAEOutput(
            loss=nll + self.config.beta * kl,
            nll=nll,
            kl=kl,
            reconstruction=loc.clamp(-1, 1),
            counterfactual=counterfactual,
        )

    def free_energy_terms(
        self, pixel_values: Tensor, parents: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The two terms of the free energy of every image, for measurement.

        Args:
            pixel_values: `(B, C, H, W)` in [-1, 1].
            parents: `(B, context_dim)`.
            generator: source of the posterior noise.

        Returns:
            nll and kl, each `(B,)` in nats per dimension, with one draw of z per image. Their means are the `nll`
            and `kl` of `forward` (without free bits, which are defined on the batch).
        """
        check_mechanism_inputs(self.config, pixel_values, parents)
        pixel_values, parents = pixel_values.to(self.dtype), parents.to(self.dtype)
        state = self.decoder(parents, self.encoder(pixel_values), generator=generator)
        nll = -self.likelihood.log_prob(pixel_values, *self.likelihood(state.hidden)).flatten(1).mean(1)
        kl = torch.stack([kl.float().sum((1, 2, 3)) for kl in state.kls]).sum(0)
        return nll, kl / pixel_values[0].numel()

    def _kl(self, kls: Sequence[Tensor], dimensions: int) -> Tensor:
        """Sum over latents in nats per image dimension, batch mean; with free bits per latent channel."""
        if self.config.free_bits > 0:
            channels = torch.cat([kl.sum((2, 3)).mean(0) for kl in kls])
            return channels.clamp(min=self.config.free_bits).sum() / dimensions
        return torch.stack([kl.sum((1, 2, 3)) for kl in kls]).sum(0).mean() / dimensions

    @staticmethod
    def _noise(pixel_values: Tensor, state: DecoderState, loc: Tensor, logscale: Tensor) -> CausalHVAENoise:
        residual = (pixel_values.float() - loc.clamp(-1, 1)) * torch.exp(-logscale)
        return CausalHVAENoise(latents=tuple(state.latents), residual=residual)

    def abduct(
        self,
        pixel_values: Tensor,
        parents: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = False,
        temperature: float = 1.0,
    ) -> CausalHVAENoise:
        """Infers the noise (z, u) of images given their factual parents: one encoder and one decoder pass.

        Args:
            pixel_values: `(B, C, H, W)` in [-1, 1].
            parents: `(B, context_dim)`.
            sample: draw z from the posterior; False takes its mean.
            temperature: multiplies the posterior's scale when drawing.

        Raises:
            ValueError: for a wrong shape, NaN, or values outside [-1, 1].
        """
        check_mechanism_inputs(self.config, pixel_values, parents)
        pixel_values, parents = pixel_values.to(self.dtype), parents.to(self.dtype)
        state = self.decoder(
            parents, self.encoder(pixel_values), sample=sample, generator=generator, temperature=temperature
        )
        return self._noise(pixel_values, state, *self.likelihood(state.hidden))

    def decode(self, noise: CausalHVAENoise, parents: Tensor) -> Tensor:
        """The image that this noise gives under these parents: clamp(mu* + sigma* u, -1, 1), `(B, C, H, W)`.

        With the noise's own parents it returns the abducted image (composition, M).
        """
        state = self.decoder(parents.to(self.dtype), latents=noise.latents)
        loc, logscale = self.likelihood(state.hidden)
        return (loc.clamp(-1, 1) + logscale.exp() * noise.residual).clamp(-1, 1)

    def sample(
        self,
        parents: Tensor,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        return_loc: bool = False,
    ) -> Tensor:
        """New images given parents `(B, context_dim)`: latents from the prior, x = loc + exp(logscale) * e.

        Args:
            temperature: multiplies the prior's scale.
            return_loc: leave the pixel noise out and return the likelihood's mean.
        """
        parents = parents.to(self.dtype)
        state = self.decoder(parents, generator=generator, temperature=temperature)
        loc, logscale = self.likelihood(state.hidden)
        if not return_loc:
            loc = loc + logscale.exp() * random_numbers(loc.shape, loc.device, generator)
        return loc.clamp(-1, 1)
