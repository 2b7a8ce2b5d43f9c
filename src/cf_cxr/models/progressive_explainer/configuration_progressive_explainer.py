"""Configuration of the generator: size, widths, bins, and whose decisions it was trained to explain."""

from ..configuration import MAX_SIZE, CXRConfig, bounded, check_weights, checked_config


@checked_config
class ProgressiveExplainerConfig(CXRConfig):
    r"""
    Configuration of [`ProgressiveExplainerModel`]; the defaults are paper B's network.

    Args:
        image_size (`int`): side in pixels of the images the model is trained on; the strides must divide it. The
            network is convolutional, so other such sizes are computed too.
        num_channels (`int`): image channels.
        num_bins (`int`): bins of the posterior, see `PosteriorBins`.
        widths (`list[int]`): channels after the first convolution and after each down-sampling block. n + 1 widths
            are n stages, and a total stride of 2^n.
        norm_type (`str`): `"batch"` (B), or `"group"`, which has no batch statistics at all: training and evaluation
            compute the same function, whatever the batch size.
        norm_momentum (`float`): share of a new batch in the running statistics of batch normalisation, in (0, 1].
        norm_groups (`int`): groups of group normalisation at most; fewer where they do not divide the channels.
        residual_output (`bool`): False (B) decodes the image itself. True decodes a change d = tanh(.) that moves
            each pixel the share |d| of its way to white (d > 0) or black (d < 0): x + d (1 - x) or x + d (1 + x).
            The range is kept without clipping, and the untrained model returns its input, so detail that is not
            evidence (devices, text, identity) need not pass the bottleneck.
        change_stride (`int`): of a residual output: the change is averaged over squares of this many pixels and
            interpolated between them, hence smooth: lines, letters and edges keep their contrast, and the fine patterns
            that convince a classifier but no reader cannot be drawn. 1 (any change), or a divisor of `image_size`.
        class_name (`str`, *optional*): the class whose posterior is explained.
        classifier_fingerprint (`str`, *optional*): of the classifier the model was trained for.
        threshold (`float`): that classifier's decision boundary, in (0, 1).
        operating_point (`float`, *optional*): the posterior of that classifier that was moved to 1/2, see
            `ImageClassifier.at_operating_point`.

    Raises:
        ValueError: for fewer than two widths, a width or bin count that is too small, an `image_size` that the strides
            do not divide, an unknown `norm_type`, a momentum or threshold out of range.
    """

    model_type = "progressive_explainer"
    keys_to_ignore_at_inference = ["embedding", "hidden_states"]

    image_size: int = bounded(256, 1, MAX_SIZE)
    num_channels: int = bounded(1, 1, MAX_SIZE)
    num_bins: int = bounded(10, 2, MAX_SIZE)
    widths: list[int] | tuple[int, ...] = bounded((64, 128, 256, 512, 1024, 1024), 1, MAX_SIZE, shortest=2)
    norm_type: str = "batch"
    norm_momentum: float | int = 0.1
    norm_groups: int = bounded(8, 1, MAX_SIZE)
    residual_output: bool = False
    change_stride: int = bounded(1, 1, MAX_SIZE)
    class_name: str | None = None
    classifier_fingerprint: str | None = None
    threshold: float | int = 0.5
    operating_point: float | None = None

    @property
    def total_stride(self) -> int:
        """Down-sampling factor from image to embedding."""
        return 2 ** (len(self.widths) - 1)

    def validate_architecture(self):
        """Part of the `@strict` validation: the numbers must describe a network."""
        check_weights("widths", self.widths, 4 * len(self.widths), max(self.widths))
        check_divides(self.image_size, self.total_stride, len(self.widths) - 1)
        if self.norm_type not in ("batch", "group"):
            raise ValueError(f"norm_type={self.norm_type!r} is unknown; use 'batch' or 'group'.")
        if self.image_size % self.change_stride:
            raise ValueError(
                f"change_stride={self.change_stride} does not divide image_size={self.image_size}."
            )
        if self.change_stride > 1 and not self.residual_output:
            raise ValueError(
                f"change_stride={self.change_stride} needs residual_output=True: it smooths a change."
            )
        if not 0 < self.norm_momentum <= 1:
            raise ValueError(f"norm_momentum must be in (0, 1], got {self.norm_momentum}.")
        if self.operating_point is not None and not 0 < self.operating_point < 1:
            raise ValueError(f"operating_point must be in (0, 1), got {self.operating_point}.")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be in (0, 1), got {self.threshold}.")


def check_divides(image_size: int, stride: int, stages: int) -> None:
    """Raises ValueError unless `image_size` is a positive multiple of `stride`."""
    if image_size < stride or image_size % stride:
        raise ValueError(
            f"image_size={image_size} is not a multiple of {stride}, the total stride of {stages} down-sampling "
            "stages: use another size or fewer widths."
        )
