"""Configuration of the discriminator."""

from ..configuration import MAX_SIZE, CXRConfig, bounded, check_weights, checked_config
from .configuration_progressive_explainer import ProgressiveExplainerConfig, check_divides


@checked_config
class ExplainerDiscriminatorConfig(CXRConfig):
    r"""
    Configuration of [`ExplainerDiscriminator`]; the defaults are paper B's network.

    Args:
        image_size (`int`): side in pixels of the images; the strides must divide it.
        num_channels (`int`): image channels.
        num_bins (`int`): bins of the posterior; the score has `num_bins - 1` ordinal thresholds.
        widths (`list[int]`): channels of each residual block. Every block but the last halves the resolution.

    Raises:
        ValueError: for fewer than two widths, a width or bin count that is too small, or an `image_size` that the
            strides do not divide.
    """

    model_type = "explainer_discriminator"
    keys_to_ignore_at_inference = ["features", "hidden_states"]

    image_size: int = bounded(256, 1, MAX_SIZE)
    num_channels: int = bounded(1, 1, MAX_SIZE)
    num_bins: int = bounded(10, 2, MAX_SIZE)
    widths: list[int] | tuple[int, ...] = bounded((64, 128, 256, 512, 1024, 1024), 1, MAX_SIZE, shortest=2)

    @property
    def total_stride(self) -> int:
        """Down-sampling factor before the sum pooling."""
        return 2 ** (len(self.widths) - 1)

    @classmethod
    def for_explainer(cls, config: ProgressiveExplainerConfig, **kwargs) -> "ExplainerDiscriminatorConfig":
        """A discriminator with the size, channels, bins and widths of a generator; `kwargs` override."""
        shared = {k: getattr(config, k) for k in ("image_size", "num_channels", "num_bins", "widths")}
        return cls(**{**shared, **kwargs})

    def validate_architecture(self):
        """Part of the `@strict` validation: the numbers must describe a network."""
        check_weights("widths", self.widths, 2 * len(self.widths), max(self.widths))
        check_divides(self.image_size, self.total_stride, len(self.widths) - 1)
