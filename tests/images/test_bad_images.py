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


def hole(path: Path) -> Path:
    """A file of a tebibyte that takes no room."""
    with path.open("wb") as file:
        file.seek(2**40)
        file.write(b"x")
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def saved(path: Path, image: np.ndarray = LEVELS, **options) -> Path:
    PIL.Image.fromarray(image).save(path, **options)
    return path


def animation(path: Path) -> Path:
    return saved(path, save_all=True, append_images=[PIL.Image.fromarray(255 - LEVELS)])


def bent(data: bytes) -> bytes:
    return data[:20] + bytes([data[20] ^ 255]) + data[21:]


TEXT = b"Heart size normal. Lungs clear.\n"
TOO_MANY = "1,048,576 MiB is more than an image has .256 MiB.; it was not read"
FILES = {  # name -> how it is written, and what is said of it
    "nowhere.png": (lambda path: path, "': no such file. Check the path"),
    "folder.png": (lambda path: path.mkdir() or path, "' is a folder, not a file"),
    "empty.png": (lambda path: written(path, b""), r"' is empty \(0 bytes\). Copy or download"),
    "report.txt": (lambda path: written(path, TEXT), "' is not an image.*Readable are DICOM, PNG, JPEG"),
    "report.png": (lambda path: written(path, TEXT), "' is not an image.*Readable are DICOM, PNG, JPEG"),
    "bent.png": (lambda path: written(path, bent(png_header(64, 64))), ""),
    "film.gif": (animation, "' holds 2 pictures. Save the one you mean"),
    "large.png": (hole, f"': {TOO_MANY}"),
    "large.dcm": (hole, f"': {TOO_MANY}"),
    "dot.png": (lambda path: saved(path, np.full((1, 1), 128, np.uint8)), "': 1 x 1 pixels is too small"),
    "huge.png": (
        lambda path: written(path, png_header(20_000, 20_000)),
        "': 400,000,000 pixels is too large; it was not decoded. Reduce the image"),
    **{
        f"cut{share}.{kind}": (
            lambda path, share=share: written(path, (data := saved(path).read_bytes())[: int(share * len(data))]),
            "'.*(Copy or download the image again|is not an image, or its beginning is damaged)")
        for kind in ("png", "jpg", "tif") for share in (0.9, 0.5)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_image(tmp_path, name):
    write, message = FILES[name]
    path = write(tmp_path / name)
    refuse(path, f"{name}{message}")
    if name.startswith(("cut", "huge")):
        refuse({"bytes": path.read_bytes(), "path": name}, name)
    if name == "cut0.5.png":
        with PIL.Image.open(path) as image:
            refuse(image, f"{name}' is truncated or damaged")


def test_kinds_of_errors_and_names_that_are_no_path(tmp_path):
    assert issubclass(CXRImageError, ValueError) and PIL.ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert issubclass(CXRImageNotFoundError, CXRImageError)
    with pytest.raises(FileNotFoundError):
        CXRImageProcessor().load("nowhere.png")
    refuse("x" * 5000, "xxx.*no such file")
    refuse(b"", "0 bytes is empty")
    refuse(np.random.default_rng(1).bytes(5000), "5000 bytes is not an image")
    with saved(tmp_path / "a.png").open(encoding="latin-1") as file:
        refuse(file, "a.png' is open as text. Open it with mode 'rb'")


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


# --- arrays
RAMP = np.linspace(0, 1, 4096).reshape(64, 64)
FLOATS = r"; floats must be within \[0, 1\] or \[-1, 1\].*input_range"
WHITE = r"does not say which value is white.*\.astype\(np.uint8\).*input_range"
SHAPE = r"the shape \(H, W\), \(H, W, C\) or \(C, H, W\)"
NUMBERLESS = [np.int8, np.int16, np.int32, np.int64, np.uint32, np.complex64, object, str]


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, dtype=np.uint8)


ARRAYS = [
    *((zeros(*s), f"{s[1]} x {s[0]} pixels is too small.*at least 16 pixels") for s in ((1, 1), (15, 200), (200, 15), (0, 0))),
    *((zeros(*s), SHAPE) for s in ((), (64,), (64, 64, 2), (5, 64, 64), (64, 64, 5), (1, 1, 1, 64, 64))),
    *((low + RAMP * (high - low), f"values from {low:g} to {high:g}{FLOATS}") for low, high in ((0, 255), (0, 1.5), (-3, 0.5), (-1024, 3071))),
    *(((LEVELS // 2).astype(dtype), WHITE) for dtype in NUMBERLESS),
    *((np.full((64, 64), level, np.uint8), "is blank: every pixel has the same value") for level in (0, 77, 255)),
    (PIL.Image.new("RGB", (64, 64), (77, 77, 77)), "is blank"),
    (PIL.Image.fromarray(LEVELS.astype(np.int32) * 1000), "32-bit integers.*input_range"),
    *((thing, f"{type(thing).__name__} object is not an image") for thing in (None, 5, 3.14)),
    ({"image": LEVELS, "age": 63}, r"needs 'bytes' or 'path', got the keys \['age', 'image'\]"),
]  # fmt: skip


@pytest.mark.parametrize(("image", "message"), ARRAYS)
def test_arrays_and_things_that_are_no_image(image, message):
    refuse(image, message)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_not_finite(value, dtype):
    array = (LEVELS / 255).astype(dtype)
    array[3, :5] = value
    refuse(array, "5 of 4096 values are NaN or infinite. Replace them")
    refuse(torch.from_numpy(array), "5 of 4096 values are NaN or infinite")


@pytest.mark.parametrize(
    ("settings", "image", "message"),
    [
        ({"input_range": (0, 1)}, np.full((64, 64), np.nan), "NaN or infinite"),
        ({"input_range": (0, 1)}, 2 * RAMP, r"values from 0 to 2 are outside the input_range of \(0, 1\)"),
        ({"input_range": (0, 1)}, LEVELS.astype(np.complex64), "no real numbers"),
        ({"max_pixels": 4000}, LEVELS, "64 x 64 = 4,096 pixels is over the limit of 4,000"),
        ({"min_side": 100}, LEVELS, "at least 100 pixels"),
    ],
)
def test_settings_of_the_processor_count(settings, image, message):
    with pytest.raises(CXRImageError, match=message):
        CXRImageProcessor(**settings)(image)
    assert CXRImageProcessor(size=32, min_side=8)(LEVELS[:10, :10])["pixel_values"].shape == (1, 1, 32, 32)


def framed(inside: np.ndarray) -> np.ndarray:
    """`inside` (S, S) between margins of random levels, which the centre crop takes off."""
    margin = np.random.default_rng(0).integers(0, 256, (len(inside), len(inside) // 4)).astype(inside.dtype)
    return np.hstack([margin, inside, margin])


def lung_masks(side: int) -> np.ndarray:
    """bool (side, side), True in two ellipses."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    return ((np.abs(x) - 0.4) / 0.3) ** 2 + (y / 0.7) ** 2 < 1


NOTHING = {
    "constant after the crop": framed(np.full((64, 64), 90, dtype=np.uint8)),
    "one level of noise": np.random.default_rng(0).choice([0.5, 0.5 + 1e-7], (64, 64)),
    "mask of levels 0 and 255": lung_masks(200).astype(np.uint8) * 255,
    "bool": lung_masks(64),
    "16-bit mask": lung_masks(64).astype(np.uint16) * 4000 + 3,
    "map of three labels": lung_masks(64) * np.uint8(90) + np.tri(64, dtype=np.uint8) * np.uint8(50),
    "one white pixel": np.pad(np.full((1, 1), 255, dtype=np.uint8), 40),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_films_of_nothing(kind, tmp_path):
    image = NOTHING[kind]
    ways = [image, torch.from_numpy(image), image[None]]
    if image.dtype != np.float64:
        ways += [PIL.Image.fromarray(image), saved(tmp_path / "film.png", image)]
    for way in ways:
        with pytest.raises(CXRImageError, match=r"shows nothing.*radiograph"):
            CXRImageProcessor(size=32)(way)
    with pytest.raises(CXRImageError, match=r"image 1 of the batch: .*shows nothing"):
        CXRImageProcessor(size=64, do_quantize=False)([LEVELS, image])
    with pytest.raises(CXRImageError, match="image 0 of the batch: .*shows nothing"):
        CXRImageProcessor(size=64)(image[None, None])


def test_masks_saved_as_jpeg_and_films_of_nothing_in_files_are_named(tmp_path):
    mask = saved(tmp_path / "film.jpg", lung_masks(512).astype(np.uint8) * 255, quality=60)
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
    for image in (film, letterbox, faint, np.hstack([film, film[:, :100]]), gradient):
        CXRImageProcessor(size=128, crop_mode=crop_mode)(image)


# --- batches
def test_the_bad_one_of_a_batch_is_named(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    PIL.Image.fromarray(LEVELS).save(good)
    bad.write_bytes(good.read_bytes()[:500])
    with pytest.raises(CXRImageError, match="image 2 of the batch: .*bad.png"):
        CXRImageProcessor()([good, good, bad, good])
    with pytest.raises(CXRImageError, match="image 0 of the batch: list object is not an image"):
        CXRImageProcessor()([[LEVELS]])
    with pytest.raises(CXRImageError, match="the list of images is empty"):
        CXRImageProcessor()([])
    with pytest.raises(CXRImageNotFoundError, match="image 1 of the batch: .*gone.png"):
        CXRImageProcessor()([good, tmp_path / "gone.png"])
    with pytest.raises(CXRImageError, match="image 1 of the batch: .*NaN"):
        CXRImageProcessor()(torch.tensor([0.5, float("nan")]).view(2, 1, 1, 1) * torch.rand(2, 1, 64, 64))


@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        *(
            (torch.zeros(*s, 32, 32), r"must have the shape \(B, 1, H, W\)")
            for s in ((1,), (2, 3), (2, 4, 1))
        ),
        (torch.tensor([0, np.nan]).view(2, 1, 1, 1), r"pixel_values \[1\] of the batch hold NaN"),
        (torch.linspace(-1, 127, 256).view(1, 1, 16, 16), "run from -1 to 127.*differences or 0-255"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.int64), "must be floats.*int64"),
    ],
)
def test_postprocess_refuses_what_is_no_image(pixel_values, message):
    with pytest.raises(CXRImageError, match=message):
        CXRImageProcessor().postprocess(pixel_values)
    with pytest.raises(ValueError, match="output_type='jpeg'"):
        CXRImageProcessor().postprocess(pixel_values, output_type="jpeg")
