"""What can be wrong with a data set on disk."""


class CXRDataError(ValueError):
    """A data set cannot be read as asked; the message names the file and the remedy."""


class MissingDataError(CXRDataError, FileNotFoundError):
    """A folder, a file, or a column that the source should have is not there."""


class UnreadableImageError(CXRDataError):
    """An image file exists but is no readable radiograph (truncated, empty, not an image, ...)."""


class BadRowError(CXRDataError):
    """A row of a table holds a value that cannot be used (out of range, path outside the folder, ...)."""
