"""Configuration of the anatomy segmenter."""

from ..configuration import MAX_BLOCKS, MAX_SIZE, CXRConfig, bounded, check_weights, checked_config


@checked_config
class AnatomySegmenterConfig(CXRConfig):
    r"""
    Configuration of [`AnatomySegmenterModel`]; the default has 0.30 M parameters.

    Args:
        labels (`list[str]`): names of the masks. They may overlap: each is a question of its own (a lead lies over the
            heart).
        image_size (`int`, *optional*): side in pixels of the images the model is trained on; the strides must divide
            it. Other such sizes are computed too.
        num_channels (`int`): image channels.
        widths (`list[int]`): channels per resolution; each one after the first halves it.
        layers_per_block (`int`): residual blocks per resolution on the way down; one more on the way up.
        norm_groups (`int`): groups of group normalisation; must divide every width.
        standardize (`bool`): bring every image to zero mean and unit variance inside the model, so that exposure and
            display contrast do not matter.
        dice_weight (`float`): weight of the soft Dice loss beside the binary cross-entropy.

    Raises:
        ValueError: for no labels or one given twice, a width that the groups do not divide, an `image_size` that the
            strides do not divide, a negative `dice_weight`.
    """

    model_type = "anatomy_segmenter"
    keys_to_ignore_at_inference = ["loss", "losses", "hidden_states"]

    labels: list[str] | tuple[str, ...] = ("lungs", "heart", "devices")
    image_size: int | None = bounded(None, 1, MAX_SIZE)
    num_channels: int = bounded(1, 1, MAX_SIZE)
    widths: list[int] | tuple[int, ...] = bounded((16, 24, 32, 32), 1, MAX_SIZE)
    layers_per_block: int = bounded(1, 1, MAX_BLOCKS)
    norm_groups: int = bounded(8, 1, MAX_SIZE)
    standardize: bool = True
    dice_weight: float | int = bounded(1.0, 0, 1e6)

    @property
    def total_stride(self) -> int:
        """Down-sampling factor of the lowest resolution; sides must be multiples of it."""
        return 2 ** (len(self.widths) - 1)

    def validate_architecture(self):
        """Part of the `@strict` validation: the numbers must describe a network."""
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must be at least one name, each once, got {self.labels}.")
        check_weights("widths", self.widths, 4 * len(self.widths) * self.layers_per_block, max(self.widths))
        wrong = [w for w in self.widths if w % self.norm_groups]
        if wrong:
            raise ValueError(f"norm_groups={self.norm_groups} does not divide the widths {wrong}.")
        if self.image_size is not None and self.image_size % self.total_stride:
            raise ValueError(
                f"image_size={self.image_size} is not a multiple of {self.total_stride}, the total stride of "
                f"widths={self.widths}."
            )
