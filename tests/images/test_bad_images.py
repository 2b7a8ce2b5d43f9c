"""Images that cannot be used: each is a CXRImageError that names the image, what is wrong and the remedy."""

import os
import socket
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageFile
import pydicom
import pytest
import torch

from cf_cxr import example_images
from cf_cxr.images.dicom import header_attributes
from cf_cxr.images.image_processing_cxr import CXRImageError, CXRImageNotFoundError, CXRImageProcessor
from tests.images.dicom_files import make_dicom, save_dicom

LEVELS = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)


def refuse(image, message: str) -> None:
    """`image` is refused by `load` and by the call, with `message`."""
    processor = CXRImageProcessor(size=32)
    for attempt in (processor.load, processor):
        with pytest.raises(CXRImageError, match=message):
            attempt(image)


def png_header(width: int, height: int) -> bytes:
    """The beginning of a grey PNG of this size, with next to no pixel data: a decompression bomb's label."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# --- files


def test_errors_are_value_errors_and_missing_files_also_file_not_found():
    assert issubclass(CXRImageError, ValueError)
    assert issubclass(CXRImageNotFoundError, CXRImageError)
    assert issubclass(CXRImageNotFoundError, FileNotFoundError)


def test_missing_file(tmp_path):
    refuse(tmp_path / "nowhere.png", "nowhere.png': no such file. Check the path")
    refuse("nowhere.png", "nowhere.png': no such file")
    with pytest.raises(FileNotFoundError):
        CXRImageProcessor().load("nowhere.png")
    refuse("x" * 5000, "xxx.*no such file")


def test_folder(tmp_path):
    refuse(tmp_path, "is a folder, not a file")


@pytest.fixture(params=["pipe", "socket", "device"])
def special(request, tmp_path, monkeypatch):
    """A file whose reading would not end, and its kind; opening it fails the test."""
    path = tmp_path / "chest.png"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        monkeypatch.chdir(tmp_path)  # the path of a socket may have some hundred characters only
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    else:
        path = Path("/dev/zero")

    def forbidden(*args, **kwargs):
        raise AssertionError("the file was opened")

    monkeypatch.setattr(Path, "open", forbidden)
    monkeypatch.setattr(PIL.Image, "open", forbidden)
    monkeypatch.setattr(pydicom, "dcmread", forbidden)
    return path, request.param


def test_pipes_sockets_and_devices_are_refused_unopened(special, tmp_path):
    path, kind = special
    dicom = tmp_path / "link.dcm"
    dicom.symlink_to(path)
    for image in (str(path), path, {"path": str(path)}, {"bytes": None, "path": path}, dicom):
        refuse(image, f"is a {kind}.*not opened. Give the path of one image")
    with pytest.raises(CXRImageError, match=f"image 1 of the batch: .* is a {kind}"):
        CXRImageProcessor()([LEVELS, path])
    refuse(f"file://{path}", "no such file")
    assert header_attributes(dicom) == {}


def test_empty_file(tmp_path):
    (tmp_path / "empty.png").touch()
    refuse(tmp_path / "empty.png", r"empty.png' is empty \(0 bytes\). Copy or download")
    refuse(b"", "0 bytes is empty")


@pytest.mark.parametrize("name", ["report.txt", "report.png"])
def test_text_file(tmp_path, name):
    (tmp_path / name).write_text("Heart size normal. Lungs clear.\n")
    refuse(tmp_path / name, f"{name}' is not an image.*Readable are DICOM, PNG, JPEG")


def test_random_bytes():
    refuse(np.random.default_rng(1).bytes(5000), "5000 bytes is not an image")


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.tif"])
@pytest.mark.parametrize("share", [0.9, 0.5])
def test_truncated_picture(tmp_path, name, share):
    assert PIL.ImageFile.LOAD_TRUNCATED_IMAGES is False
    path = tmp_path / name
    PIL.Image.fromarray(LEVELS).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refuse(
        path,
        f"{name}'.*Copy or download the image again|{name}' is not an image, or its beginning is damaged",
    )
    refuse({"bytes": path.read_bytes(), "path": name}, name)


def test_truncated_picture_opened_by_the_caller(tmp_path):
    PIL.Image.fromarray(LEVELS).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:1000])
    with PIL.Image.open(tmp_path / "cut.png") as image:
        refuse(image, "cut.png' is truncated or damaged")


def test_damaged_header(tmp_path):
    content = bytearray(png_header(64, 64))
    content[20] ^= 255
    (tmp_path / "bent.png").write_bytes(content)
    refuse(tmp_path / "bent.png", "bent.png")


def test_animation(tmp_path):
    frames = [PIL.Image.fromarray(LEVELS), PIL.Image.fromarray(255 - LEVELS)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    refuse(tmp_path / "film.gif", "film.gif' holds 2 pictures. Save the one you mean")


def test_file_of_too_many_bytes_is_not_read(tmp_path):
    for name in ("film.png", "film.dcm"):
        with (tmp_path / name).open("wb") as file:
            file.seek(2**40)  # a hole, that takes no room
            file.write(b"x")
        refuse(
            tmp_path / name, f"{name}': 1,048,576 MiB is more than an image has .256 MiB.; it was not read"
        )


def test_file_open_as_text(tmp_path):
    PIL.Image.fromarray(LEVELS).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open(encoding="latin-1") as file:
        refuse(file, "a.png' is open as text. Open it with mode 'rb'")


# --- sizes


@pytest.mark.parametrize("shape", [(1, 1), (15, 200), (200, 15), (0, 0)])
def test_too_small(shape):
    refuse(
        np.zeros(shape, dtype=np.uint8), f"{shape[1]} x {shape[0]} pixels is too small.*at least 16 pixels"
    )


def test_one_pixel_file(tmp_path):
    PIL.Image.new("L", (1, 1), 128).save(tmp_path / "dot.png")
    refuse(tmp_path / "dot.png", "dot.png': 1 x 1 pixels is too small")


def test_20000_by_20000_is_refused_by_its_header(tmp_path):
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(20_000, 20_000))
    refuse(path, "huge.png': 400,000,000 pixels is too large; it was not decoded. Reduce the image")
    refuse(path.read_bytes(), "400,000,000 pixels is too large")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_over_the_limit_but_under_pillows_is_refused_by_its_header(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png_header(10_000, 9_000))
    refuse(path, "large.png': 10000 x 9000 = 90,000,000 pixels is over the limit of 80,000,000.*max_pixels")
    with PIL.Image.open(path) as image:
        refuse(image, "90,000,000 pixels is over the limit")
    with warnings.catch_warnings():
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        refuse(path, "90,000,000 pixels is too large")


def test_limits_can_be_set():
    with pytest.raises(CXRImageError, match="64 x 64 = 4,096 pixels is over the limit of 4,000"):
        CXRImageProcessor(max_pixels=4000)(LEVELS)
    with pytest.raises(CXRImageError, match="at least 100 pixels"):
        CXRImageProcessor(min_side=100)(LEVELS)
    assert CXRImageProcessor(size=32, min_side=8)(LEVELS[:10, :10])["pixel_values"].shape == (1, 1, 32, 32)


# --- arrays


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_not_finite(value, dtype):
    array = (LEVELS / 255).astype(dtype)
    array[3, :5] = value
    refuse(array, "5 of 4096 values are NaN or infinite. Replace them")
    refuse(torch.from_numpy(array), "5 of 4096 values are NaN or infinite")
    with pytest.raises(CXRImageError, match="NaN or infinite"):
        CXRImageProcessor(input_range=(0, 1)).load(array)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 1.5), (-3, 0.5), (-1024, 3071)])
def test_floats_out_of_range_name_their_range_and_the_remedy(low, high):
    array = np.linspace(low, high, 4096, dtype=np.float64).reshape(64, 64)
    refuse(
        array, rf"values from {low:g} to {high:g}; floats must be within \[0, 1\] or \[-1, 1\].*input_range"
    )


def test_values_outside_the_given_range():
    array = np.linspace(0, 2, 4096).reshape(64, 64)
    with pytest.raises(CXRImageError, match=r"values from 0 to 2 are outside the input_range of \(0, 1\)"):
        CXRImageProcessor(input_range=(0, 1)).load(array)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.int32, np.int64, np.uint32, np.complex64, object, str]
)
def test_types_that_do_not_say_what_white_is(dtype):
    refuse(
        (LEVELS // 2).astype(dtype), r"does not say which value is white.*\.astype\(np.uint8\).*input_range"
    )


def test_no_numbers_at_all():
    with pytest.raises(CXRImageError, match="no real numbers"):
        CXRImageProcessor(input_range=(0, 1)).load(LEVELS.astype(np.complex64))


def test_wide_integers_in_a_picture():
    refuse(PIL.Image.fromarray(LEVELS.astype(np.int32) * 1000), "32-bit integers.*input_range")


@pytest.mark.parametrize("shape", [(), (64,), (64, 64, 2), (5, 64, 64), (64, 64, 5), (1, 1, 1, 64, 64)])
def test_shapes(shape):
    refuse(np.zeros(shape, dtype=np.uint8), r"the shape \(H, W\), \(H, W, C\) or \(C, H, W\)")


@pytest.mark.parametrize("level", [0, 77, 255])
def test_blank(level):
    refuse(np.full((64, 64), level, dtype=np.uint8), "is blank: every pixel has the same value")
    refuse(PIL.Image.new("RGB", (64, 64), (level,) * 3), "is blank")


def framed(inside: np.ndarray) -> np.ndarray:
    """`inside` (S, S) between margins of random levels, which the centre crop takes off."""
    margin = np.random.default_rng(0).integers(0, 256, (len(inside), len(inside) // 4)).astype(inside.dtype)
    return np.hstack([margin, inside, margin])


def lung_masks(side: int) -> np.ndarray:
    """bool (side, side), True in two ellipses."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    return ((np.abs(x) - 0.4) / 0.3) ** 2 + (y / 0.7) ** 2 < 1


def as_file(tmp_path, image, **options) -> Path:
    path = tmp_path / ("film.jpg" if options else "film.png")
    PIL.Image.fromarray(image).save(path, **options)
    return path


NOTHING = {
    "constant after the crop": framed(np.full((64, 64), 90, dtype=np.uint8)),
    "one level of noise": np.random.default_rng(0).choice([0.5, 0.5 + 1e-7], (64, 64)),
    "three levels of noise": np.random.default_rng(0).integers(99, 102, (64, 64), dtype=np.uint8),
    "mask of levels 0 and 1": lung_masks(64).astype(np.uint8),
    "mask of levels 0 and 255": lung_masks(200).astype(np.uint8) * 255,
    "bool": lung_masks(64),
    "random mask": np.random.default_rng(0).random((200, 200)) > 0.5,
    "16-bit mask": lung_masks(64).astype(np.uint16) * 4000 + 3,
    "map of three labels": lung_masks(64) * np.uint8(90) + np.tri(64, dtype=np.uint8) * np.uint8(50),
    "one white pixel": np.pad(np.full((1, 1), 255, dtype=np.uint8), 40),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_films_of_nothing(kind, tmp_path):
    image = NOTHING[kind]
    ways = [image, torch.from_numpy(image), image[None]]
    if image.dtype != np.float64:
        ways += [PIL.Image.fromarray(image), as_file(tmp_path, image)]
    for way in ways:
        with pytest.raises(CXRImageError, match=r"shows nothing.*radiograph"):
            CXRImageProcessor(size=32)(way)
    with pytest.raises(CXRImageError, match=r"image 1 of the batch: .*shows nothing"):
        CXRImageProcessor(size=64, do_quantize=False)([LEVELS, image])
    with pytest.raises(CXRImageError, match="image 0 of the batch: .*shows nothing"):
        CXRImageProcessor(size=64)(image[None, None])


def test_masks_saved_as_jpeg_and_films_of_nothing_in_files_are_named(tmp_path):
    mask = as_file(tmp_path, lung_masks(512).astype(np.uint8) * 255, quality=60)
    assert len(np.unique(PIL.Image.open(mask))) > 20
    with pytest.raises(
        CXRImageError, match="film.jpg' shows nothing: of 256 grey levels, nine tenths of it have"
    ):
        CXRImageProcessor(size=128)(mask)
    constant = make_dicom(NOTHING["constant after the crop"])
    with pytest.raises(CXRImageError, match="film.dcm' shows nothing"):
        CXRImageProcessor(size=64)(save_dicom(constant, tmp_path / "film.dcm"))


@pytest.mark.parametrize("crop_mode", ["center_crop", "pad"])
def test_films_with_black_borders_faint_films_and_gradients_are_no_films_of_nothing(crop_mode):
    film = np.asarray(PIL.Image.open(example_images()[0].path))
    letterbox = np.zeros((448, 448), dtype=np.uint8)
    letterbox[112:336, 112:336] = film
    faint = (film // 4 + 90).astype(np.uint8)
    gradient = np.linspace(0, 255, 16 * 16).reshape(16, 16).astype(np.uint8)
    for image in (
        film,
        letterbox,
        faint,
        np.hstack([film, film[:, :100]]),
        gradient,
    ):
        CXRImageProcessor(size=128, crop_mode=crop_mode)(image)


@pytest.mark.parametrize("image", [None, 5, 3.14])
def test_not_images_at_all(image):
    refuse(image, f"{type(image).__name__} object is not an image")


def test_nested_lists_and_rows_of_a_table():
    with pytest.raises(CXRImageError, match="image 0 of the batch: list object is not an image"):
        CXRImageProcessor()([[LEVELS]])
    refuse({"image": LEVELS, "age": 63}, r"needs 'bytes' or 'path', got the keys \['age', 'image'\]")


# --- batches


def test_the_bad_one_of_a_batch_is_named(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    PIL.Image.fromarray(LEVELS).save(good)
    bad.write_bytes(good.read_bytes()[:500])
    with pytest.raises(CXRImageError, match="image 2 of the batch: .*bad.png"):
        CXRImageProcessor()([good, good, bad, good])
    with pytest.raises(CXRImageNotFoundError, match="image 1 of the batch: .*gone.png"):
        CXRImageProcessor()([good, tmp_path / "gone.png"])
    with pytest.raises(CXRImageError, match="image 1 of the batch: .*NaN"):
        CXRImageProcessor()(torch.tensor([0.5, float("nan")]).view(2, 1, 1, 1) * torch.rand(2, 1, 64, 64))


@pytest.mark.parametrize("batch", [[], (), np.zeros((0, 1, 64, 64), dtype=np.uint8)])
def test_empty_batch(batch):
    with pytest.raises(CXRImageError, match="the list of images is empty"):
        CXRImageProcessor()(batch)


# --- the way back


@pytest.mark.parametrize("shape", [(32, 32), (1, 32, 32), (2, 3, 32, 32), (2, 4, 1, 32, 32)])
def test_postprocess_refuses_other_shapes(shape):
    with pytest.raises(CXRImageError, match=r"must have the shape \(B, 1, H, W\)"):
        CXRImageProcessor().postprocess(torch.zeros(shape))


def test_postprocess_refuses_values_that_are_no_images():
    processor, values = CXRImageProcessor(), torch.zeros(3, 1, 16, 16)
    values[1, 0, 4, 4] = float("nan")
    with pytest.raises(CXRImageError, match=r"pixel_values \[1\] of the batch hold NaN"):
        processor.postprocess(values)
    with pytest.raises(CXRImageError, match="run from -1 to 127.*differences or 0-255"):
        processor.postprocess(torch.linspace(-1, 127, 256).view(1, 1, 16, 16))
    with pytest.raises(CXRImageError, match="must be floats.*int64"):
        processor.postprocess(torch.zeros(1, 1, 16, 16, dtype=torch.int64))
    with pytest.raises(ValueError, match="output_type='jpeg'"):
        processor.postprocess(torch.zeros(1, 1, 16, 16), output_type="jpeg")
