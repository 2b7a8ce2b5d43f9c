"""Configuration of the causal flow."""

import math

from ..configuration import MAX_BLOCKS, MAX_SIZE, CXRConfig, bounded, check_weights, checked_config


@checked_config
class CausalFlowConfig(CXRConfig):
    r"""
    Args:
        attribute_names (`list[str]`): the parents in the order of the parent vector.
        attribute_sizes (`list[int]`): width of each in the parent vector.
        image_size (`int`): height and width of the square image, in pixels.
        num_channels (`int`): image channels.
        patch_size (`int`): side of the pixel blocks that become channels (PixelUnshuffle) before the network.
        block_out_channels (`list[int]`): width of the U-Net per resolution, highest first; each is half the one before.
        layers_per_block (`int`): residual blocks per resolution on the way down.
        attribute_dropout (`float`): probability with which training hides an attribute, each on its own.
        data_std (`float`): standard deviation of the pixel values, for the network's scaling.
        num_inference_steps (`int`): default number of solver steps from image to noise and from noise to image.
        guidance_scale (`float` or `dict[str, float]`): default omega of the prediction, for all attributes or by name
            (1 where a name is missing).

    The defaults are a 128x128 model.

    Raises:
        ValueError: for sizes that do not fit each other; the message says which.
    """

    model_type = "causal_flow"
    keys_to_ignore_at_inference = ["loss", "hidden_states"]

    attribute_names: list[str] | tuple[str, ...] = ("age", "sex", "view", "finding")
    attribute_sizes: list[int] | tuple[int, ...] = bounded((1, 1, 1, 1), 1, MAX_SIZE)
    image_size: int = bounded(128, 1, MAX_SIZE)
    num_channels: int = bounded(1, 1, MAX_SIZE)
    patch_size: int = bounded(4, 1, 64)
    block_out_channels: list[int] | tuple[int, ...] = bounded((48, 64, 128, 192), 1, MAX_SIZE)
    layers_per_block: int = bounded(2, 1, MAX_BLOCKS)
    attribute_dropout: float | int = 0.1
    data_std: float | int = bounded(0.5, 1e-12, 1e6)
    num_inference_steps: int = bounded(16, 1, 1000)
    guidance_scale: float | int | dict[str, float | int] = bounded(1.0, -1000, 1000)

    @property
    def context_dim(self) -> int:
        """Width of the parent vector."""
        return sum(self.attribute_sizes)

    @property
    def size_multiple(self) -> int:
        """What the image's sides must be a multiple of: the patch, halved once per further resolution."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)

    @property
    def common_divisor(self) -> int:
        """Largest number up to 32 that divides every width: groups of the normalisation, width of attention heads."""
        return math.gcd(32, *self.block_out_channels)

    def validate_architecture(self):
        """Part of the `@strict` validation: sizes must be positive and fit together."""
        blocks, channels = (
            len(self.block_out_channels) * self.layers_per_block,
            self.num_channels * self.patch_size**2,
        )
        widest = max(*self.block_out_channels, channels)
        check_weights("block_out_channels", self.block_out_channels, 4 * blocks, widest)
        if len(set(self.attribute_names)) != len(self.attribute_sizes):
            raise ValueError(
                f"attribute_names={self.attribute_names} and attribute_sizes={self.attribute_sizes}: give every "
                "attribute one name and one size."
            )
        if self.image_size % self.size_multiple:
            raise ValueError(
                f"image_size={self.image_size} must be a multiple of {self.size_multiple}, patch_size="
                f"{self.patch_size} halved between {len(self.block_out_channels)} block_out_channels."
            )
        if not 0 <= self.attribute_dropout < 1:
            raise ValueError(f"attribute_dropout={self.attribute_dropout}: give a probability below 1.")
