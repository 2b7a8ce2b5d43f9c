"""What can be wrong with an image, in one place: the exceptions, the warning and the size limits."""


class CXRImageError(ValueError):
    """The image cannot be used. The message names the image, what is wrong with it and the remedy."""


class CXRImageNotFoundError(CXRImageError, FileNotFoundError):
    """There is no file at the given path, or nothing at the given address."""


class NotAChestRadiographWarning(UserWarning):
    """The image can be read, but is probably not a frontal chest radiograph, so results will mean little."""


def check_image_size(height: int, width: int, name: str, min_side: int, max_pixels: int) -> None:
    """Refuse an image of `height` x `width` pixels that is too small or too large; called before decoding.

    Raises:
        CXRImageError: a side is below `min_side`, or `height * width` exceeds `max_pixels`.
    """
    if min(height, width) < min_side:
        raise CXRImageError(
            f"{name}: {width} x {height} pixels is too small for a radiograph: each side needs at least "
            f"{min_side} pixels. Give the image at its original resolution."
        )
    if height * width > max_pixels:
        raise CXRImageError(
            f"{name}: {width} x {height} = {height * width:,} pixels is over the limit of {max_pixels:,}; it "
            "was not decoded. Reduce the image, or raise the limit with CXRImageProcessor(max_pixels=...)."
        )
