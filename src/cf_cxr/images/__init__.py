"""A file becomes `pixel_values`: reading, DICOM, the image processor, errors."""
