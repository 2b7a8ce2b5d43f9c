"""Configuration of the causal HVAE, and the grammar of its block strings."""

import re
from dataclasses import dataclass

from ..configuration import MAX_BLOCKS, MAX_SIZE, CXRConfig, bounded, check_weights, checked_config

_ENCODER_STAGE = re.compile(r"^(\d+)b(\d+)(?:d(\d+))?$")
_DECODER_STAGE = re.compile(r"^(\d+)b(\d+)$")


@dataclass(frozen=True)
class EncoderBlockSpec:
    """One encoder block: channels in and out, bottleneck width, average-pooling factor (1 = none)."""

    in_channels: int
    bottleneck: int
    out_channels: int
    pool: int = 1


@dataclass(frozen=True)
class DecoderBlockSpec:
    """One decoder block: resolution, channels in and out, bottleneck width, whether it has latents."""

    resolution: int
    in_channels: int
    bottleneck: int
    out_channels: int
    stochastic: bool


@checked_config
class CausalHVAEConfig(CXRConfig):
    r"""
    Args:
        image_size (`int`): height and width of the square image, in pixels.
        num_channels (`int`): image channels.
        context_dim (`int`): width of the parent vector (`AttributeSchema.dim`).
        encoder_blocks (`str`): stages `"<resolution>b<blocks>d<pool>"`, e.g. `"64b1d2,32b2d2,16b2d2,8b2d2,4b2d4,1b1"`.
            A first stage `"<resolution>b0"` without `d` means a stride-2 stem.
        decoder_blocks (`str`): stages `"<resolution>b<blocks>"` from 1 up, e.g. `"1b1,4b2,8b3,16b3,32b3,64b1"`.
        widths (`list[int]`): channels per stage, from the image downwards; the decoder uses them reversed.
        z_dim (`int`): channels of each latent.
        bottleneck (`int`): a block's inner width is its stage's width divided by this.
        z_max_res (`int`): no latents above this resolution.
        bias_max_res (`int`): a learnt spatial bias at each resolution up to this one.
        cond_prior (`bool`): the prior sees the parents (latent mediator, H); False is the exogenous prior of A.
        x_like (`str`): `"diag_dgauss"`, `"shared_dgauss"` or `"fixed_dgauss"`: discretised Gaussian whose scale
            depends on the pixel, is one learnt number, or is constant.
        std_init (`float`): initial scale; 0 leaves the scale head at its random initialisation.
        beta (`float`): weight of the KL term in the loss.
        free_bits (`float`): KL per latent channel (nats, summed over positions, mean over the batch) below which
            it is not penalised.

    The defaults are a 64x64 model; `paper_a_192` gives the 192x192 setting of Xia et al., MICCAI 2024.

    Raises:
        ValueError: for a malformed block string, a decoder resolution that the encoder does not reach, or too few
            widths; the message says which.
    """

    model_type = "causal_hvae"
    keys_to_ignore_at_inference = ["loss", "nll", "kl", "counterfactual", "hidden_states"]

    image_size: int = bounded(64, 1, MAX_SIZE)
    num_channels: int = bounded(1, 1, MAX_SIZE)
    context_dim: int = bounded(4, 1, MAX_SIZE)
    encoder_blocks: str = "64b1d2,32b2d2,16b2d2,8b2d2,4b2d4,1b1"
    decoder_blocks: str = "1b1,4b2,8b3,16b3,32b3,64b1"
    widths: list[int] | tuple[int, ...] = bounded((32, 48, 64, 96, 128, 192), 1, MAX_SIZE)
    z_dim: int = bounded(16, 1, MAX_SIZE)
    bottleneck: int = bounded(4, 1, MAX_SIZE)
    z_max_res: int = bounded(32, 1, MAX_SIZE)
    bias_max_res: int = bounded(32, 1, MAX_SIZE)
    cond_prior: bool = False
    x_like: str = "diag_dgauss"
    std_init: float | int = bounded(0.0, 0, 1e6)
    beta: float | int = bounded(1.0, 0, 1e6)
    free_bits: float | int = bounded(0.0, 0, 1e6)

    def validate_architecture(self):
        """Part of the `@strict` validation: the block strings must describe a network that fits together."""
        if self.x_like not in ("diag_dgauss", "shared_dgauss", "fixed_dgauss"):
            raise ValueError(
                f"x_like={self.x_like!r} is unknown; use diag_dgauss, shared_dgauss or fixed_dgauss."
            )
        if min(self.widths) < self.bottleneck:
            raise ValueError(
                f"widths={self.widths}: every width must be at least bottleneck={self.bottleneck}."
            )
        blocks, widest = (
            len(self.encoder_specs()) + 3 * len(self.decoder_specs()),
            max(*self.widths, self.z_dim),
        )
        biases = sum(width * resolution**2 for width, resolution in self.bias_shapes())
        check_weights("widths", self.widths, blocks, widest, biases)
        reached = self.encoder_resolutions()
        missing = [b.resolution for b in self.decoder_specs() if b.stochastic and b.resolution not in reached]
        if missing:
            raise ValueError(
                f"decoder_blocks={self.decoder_blocks!r} has latents at resolution {missing[0]}, which the encoder "
                f"{self.encoder_blocks!r} does not produce at image_size={self.image_size}; it gives {reached}."
            )
        if self.decoder_specs()[-1].resolution != self.image_size:
            raise ValueError(
                f"decoder_blocks={self.decoder_blocks!r} must end at image_size={self.image_size}."
            )

    @classmethod
    def paper_a_192(cls, context_dim: int = 6, **kwargs) -> "CausalHVAEConfig":
        """The 192x192 setting of paper A: 7 976 658 parameters with a 6-dimensional context."""
        settings = {
            "image_size": 192,
            "encoder_blocks": "192b1d2,96b3d2,48b7d2,24b11d2,12b7d2,6b3d6,1b2",
            "decoder_blocks": "1b2,6b4,12b8,24b12,48b8,96b4,192b2",
            "widths": [32, 64, 96, 128, 160, 192, 512],
            "z_dim": 16,
            "bottleneck": 4,
            "z_max_res": 96,
            "bias_max_res": 64,
            "beta": 9.0,
        }
        return cls(context_dim=context_dim, **{**settings, **kwargs})

    def _stages(self, blocks: str, pattern: re.Pattern, what: str) -> list[tuple[int | None, ...]]:
        stages = []
        for text in blocks.split(","):
            match = pattern.match(text.strip())
            if match is None:
                example = "64b1d2" if pattern is _ENCODER_STAGE else "64b1"
                raise ValueError(f"{what}={blocks!r}: stage {text!r} is malformed; write e.g. {example!r}.")
            if any(len(g) > 9 for g in match.groups("")):
                raise ValueError(f"{what}={blocks!r}: stage {text!r} has a number without bounds.")
            resolution, n_blocks, *pool = (None if g is None else int(g) for g in match.groups())
            if not 1 <= resolution <= MAX_SIZE or n_blocks > MAX_BLOCKS or 0 in pool:
                raise ValueError(
                    f"{what}={blocks!r}: stage {text!r} needs a resolution of 1 to {MAX_SIZE}, at most {MAX_BLOCKS} "
                    "blocks, and no pooling by 0."
                )
            stages.append((resolution, n_blocks, *pool))
        if len(stages) > len(self.widths):
            raise ValueError(f"{what}={blocks!r} has {len(stages)} stages but widths={self.widths}.")
        return stages

    def stem(self) -> tuple[int, int]:
        """Channels and stride of the 7x7 stem convolution."""
        _, n_blocks, pool = self._stages(self.encoder_blocks, _ENCODER_STAGE, "encoder_blocks")[0]
        return (self.widths[1], 2) if n_blocks == 0 and pool is None else (self.widths[0], 1)

    def encoder_specs(self) -> list[EncoderBlockSpec]:
        """The encoder's blocks in order."""
        stages = self._stages(self.encoder_blocks, _ENCODER_STAGE, "encoder_blocks")
        outputs: list[tuple[int, int]] = []
        for i, (_, n_blocks, pool) in enumerate(stages):
            outputs += [(self.widths[i], 1)] * n_blocks
            if pool is not None:
                if i + 1 >= len(self.widths):
                    raise ValueError(
                        f"encoder_blocks={self.encoder_blocks!r}: widths={self.widths} has no width "
                        f"after the down-sampling of stage {i + 1}."
                    )
                outputs.append((self.widths[i + 1], pool))
        if not outputs:
            raise ValueError(f"encoder_blocks={self.encoder_blocks!r} has no blocks.")
        if outputs[0][0] != self.stem()[0]:
            raise ValueError(
                f"encoder_blocks={self.encoder_blocks!r}: a first stage without blocks but with down-sampling leaves "
                "the stem's width and the first block's input different; write '<resolution>b0' or add a block."
            )
        previous = [outputs[0][0]] + [width for width, _ in outputs[:-1]]
        return [
            EncoderBlockSpec(before, before // self.bottleneck, width, pool)
            for before, (width, pool) in zip(previous, outputs)
        ]

    @property
    def pads_odd(self) -> bool:
        """Whether the encoder pads activations of odd resolution to even ones: unless the decoder has latents at one.

        The published code pads, and tells its reader to remove that for 224x224 images, where 7x7 has latents.
        """
        return not any(b.stochastic and b.resolution % 2 and b.resolution > 1 for b in self.decoder_specs())

    def encoder_resolutions(self) -> list[int]:
        """Resolutions at which the encoder leaves an activation, after padding odd ones where `pads_odd`."""
        stride = self.stem()[1]
        resolution, found = (self.image_size - 1) // stride + 1, []
        for block in self.encoder_specs():
            resolution //= block.pool
            if resolution < 1:
                raise ValueError(
                    f"encoder_blocks={self.encoder_blocks!r} reduces image_size={self.image_size} below 1 pixel."
                )
            resolution += resolution % 2 if resolution > 1 and self.pads_odd else 0
            if resolution not in found:
                found.append(resolution)
        return found

    def decoder_specs(self) -> list[DecoderBlockSpec]:
        """The decoder's blocks in order, lowest resolution first."""
        stages = self._stages(self.decoder_blocks, _DECODER_STAGE, "decoder_blocks")
        resolutions = [resolution for resolution, _ in stages]
        if resolutions != sorted(set(resolutions)) or resolutions[0] != 1:
            raise ValueError(
                f"decoder_blocks={self.decoder_blocks!r}: resolutions must start at 1 and increase, got {resolutions}."
            )
        widths = self.widths[::-1]
        flat = [(r, widths[i]) for i, (r, n_blocks) in enumerate(stages) for _ in range(n_blocks)]
        if not flat:
            raise ValueError(f"decoder_blocks={self.decoder_blocks!r} has no blocks.")
        after = [width for _, width in flat[1:]] + [flat[-1][1]]
        return [
            DecoderBlockSpec(r, width, width // self.bottleneck, following, r <= self.z_max_res)
            for (r, width), following in zip(flat, after)
        ]

    def bias_shapes(self) -> list[tuple[int, int]]:
        """Channels and resolution of each learnt spatial bias, lowest resolution first."""
        stages = self._stages(self.decoder_blocks, _DECODER_STAGE, "decoder_blocks")
        widths = self.widths[::-1]
        return [(widths[i], r) for i, (r, _) in enumerate(stages) if r <= self.bias_max_res]
