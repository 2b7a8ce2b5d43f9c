"""CXRImageProcessor: every kind of input, geometry and value range with known answers, and the way back."""

import contextlib
import http.server
import io
import json
import pickle
import socket
import threading
import time
import warnings

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoImageProcessor, PreTrainedConfig

from cf_cxr.images.image_processing_cxr import CXRImageError, CXRImageProcessor, NotAChestRadiographWarning
from cf_cxr.images.loading import load_grayscale
from tests.images.dicom_files import make_dicom, save_dicom

LEVELS = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
with io.BytesIO() as buffer:
    PIL.Image.fromarray(LEVELS).save(buffer, format="PNG")
    PNG = buffer.getvalue()


def gradient(height: int, width: int) -> np.ndarray:
    """uint8 (height, width) whose columns and rows all differ."""
    return (np.arange(height)[:, None] * 3 + np.arange(width)[None]).astype(np.uint8)


def pixels_of(image, **settings) -> np.ndarray:
    """The (S, S) output for one image, S = 32 unless given."""
    return CXRImageProcessor(**{"size": 32, **settings})(image)["pixel_values"][0, 0].numpy()


# --- 8-bit images pass unchanged, there and back
def test_an_image_of_the_right_size_keeps_its_levels_exactly():
    output = CXRImageProcessor(size=32)(PIL.Image.fromarray(LEVELS))
    assert list(output) == ["pixel_values"]
    pixel_values = output["pixel_values"]
    assert pixel_values.shape == (1, 1, 32, 32) and pixel_values.dtype == torch.float32
    assert pixel_values[0, 0].equal(torch.tensor(LEVELS).float() / 127.5 - 1)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_postprocess_inverts_preprocess(output_type):
    processor = CXRImageProcessor(size=32)
    pixel_values = processor([LEVELS, 255 - LEVELS])["pixel_values"]
    back = processor.postprocess(pixel_values, output_type)
    assert processor(back if output_type == "pil" else back[:, None])["pixel_values"].equal(pixel_values)
    assert len(back) == 2
    if output_type == "pil":
        assert all(image.mode == "L" and image.size == (32, 32) for image in back)
        np.testing.assert_array_equal(np.stack([np.asarray(image) for image in back]), [LEVELS, 255 - LEVELS])
    else:
        assert isinstance(back, np.ndarray if output_type == "np" else torch.Tensor)
        assert back.shape == (2, 32, 32)
        np.testing.assert_allclose(np.asarray(back)[0], LEVELS / 255, atol=1e-6)


def test_postprocess_rounds_to_the_nearest_level():
    values = torch.tensor([-1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 1.0, 1.004, 0.0]).view(1, 1, 1, 6)
    np.testing.assert_array_equal(
        np.asarray(CXRImageProcessor().postprocess(values)[0])[0, :5], [0, 0, 1, 255, 255]
    )
    bfloat = CXRImageProcessor().postprocess(values.bfloat16().requires_grad_(), "pt")
    assert bfloat.dtype == torch.float32 and not bfloat.requires_grad


# --- kinds of input
def opened(array: np.ndarray) -> PIL.Image.Image:
    return PIL.Image.fromarray(array)


DEEP, UNIT = LEVELS.astype(np.uint16) * 257, (LEVELS / 255).astype(np.float32)
RIGHT = np.tile(np.uint8([0] * 16 + [255] * 16), (32, 1))  # opaque
KINDS = {  # kind -> what is given, and the grey levels in [0, 1] that it holds
    **{f"PIL {mode}": (opened(LEVELS).convert(mode), LEVELS / 255) for mode in ("L", "RGB", "RGBA", "P", "LA", "I", "CMYK")},
    "PIL F": (opened(UNIT), LEVELS / 255),
    "PIL I;16": (opened(DEEP), LEVELS / 255),
    "PIL 1": (opened((LEVELS > 100).astype(np.uint8) * 255).convert("1"), LEVELS > 100),
    "transparency over black": (
        PIL.Image.merge("LA", [opened(LEVELS), opened(RIGHT)]), LEVELS / 255 * (RIGHT > 0)),
    "uint8": (LEVELS, LEVELS / 255),
    "uint8 HxWx1": (LEVELS[:, :, None], LEVELS / 255),
    "uint8 1xHxW": (LEVELS[None], LEVELS / 255),
    "uint8 HxWx3": (np.repeat(LEVELS[:, :, None], 3, axis=2), LEVELS / 255),
    "uint8 3xHxW": (np.repeat(LEVELS[None], 3, axis=0), LEVELS / 255),
    "uint16": (DEEP, LEVELS / 255),
    "uint16 big-endian": (DEEP.astype(">u2"), LEVELS / 255),
    "float32": (UNIT, LEVELS / 255),
    "float32 HxWx3": (np.repeat(UNIT[:, :, None], 3, axis=2), LEVELS / 255),
    "float64 in [-1, 1]": (LEVELS / 127.5 - 1, LEVELS / 255),
    "bool": (LEVELS > 100, LEVELS > 100),
    "float16 with gradient": (torch.tensor(LEVELS / 255).half().requires_grad_(), LEVELS / 255),
    "bfloat16": (torch.tensor(LEVELS / 255).bfloat16(), LEVELS / 255),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_arrays_and_tensors_of_every_kind(kind):
    image, expected = KINDS[kind]
    close = 4e-3 if "float16" in kind else 1e-6
    np.testing.assert_allclose(CXRImageProcessor().load(image), expected, atol=close)
    if isinstance(image, np.ndarray) and image.dtype.isnative:
        np.testing.assert_allclose(CXRImageProcessor().load(torch.from_numpy(image)), expected, atol=close)


def test_files_bytes_open_files_and_datasets_dictionaries(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "chest.png"
    opened(LEVELS).save(path)
    data = path.read_bytes()
    with path.open("rb") as file:
        sources = [str(path), path, "~/chest.png", data, bytearray(data), file]
        for source in [*sources, {"bytes": data, "path": None}, {"bytes": None, "path": str(path)}]:
            np.testing.assert_array_equal(pixels_of(source), pixels_of(LEVELS))


@pytest.mark.parametrize(
    "kind", ["array", "tensor", "I;16", "I;16B", "I", "png", "tiff", "jp2", "dcm", "row"]
)
def test_sixteen_bits_come_through_in_full_depth(kind, tmp_path):
    """65 536 different values in, as many out."""
    levels = np.random.default_rng(0).permutation(2**16).astype(np.uint16).reshape(256, 256)
    picture, path = PIL.Image.fromarray(levels), tmp_path / f"chest.{kind}"
    images = {
        "array": levels,
        "tensor": torch.from_numpy(levels),
        "I": opened(levels.astype(np.int32)),
        "I;16": picture,
        "I;16B": PIL.Image.frombytes("I;16B", (256, 256), levels.astype(">u2").tobytes()),
    }
    image = images.get(kind)
    if kind == "dcm":
        image = save_dicom(make_dicom(levels, WindowCenter=2**15, WindowWidth=2**16), path)
    elif image is None:
        picture.save(path, format="PNG" if kind == "row" else None)
        image = {"bytes": path.read_bytes(), "path": path.name} if kind == "row" else path
    np.testing.assert_allclose(pixels_of(image, size=256, do_quantize=False), levels / 32767.5 - 1, atol=1e-6)


@pytest.mark.parametrize("type", [np.uint8, np.uint16, np.float32])
def test_white_is_zero_in_a_tiff_of_any_depth(type, tmp_path):
    white = 1 if type is np.float32 else np.iinfo(type).max
    stored = ((255 - LEVELS.astype(np.float64)) / 255 * white).astype(type)
    PIL.Image.fromarray(stored).save(tmp_path / "chest.tif")
    data = (tmp_path / "chest.tif").read_bytes()
    entry = b"\x06\x01\x03\x00\x01\x00\x00\x00"  # PhotometricInterpretation, one short number
    where = data.index(entry) + len(entry)
    image = data[:where] + b"\0\0" + data[where + 2 :]  # Pillow writes another, whatever it is told
    np.testing.assert_allclose(pixels_of(image), LEVELS / 127.5 - 1, atol=0.01)


def test_exif_orientation_is_applied(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    PIL.Image.fromarray(LEVELS).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(pixels_of(tmp_path / "turned.png"), np.rot90(pixels_of(LEVELS), -1))


def test_datasets_column_decoded_and_not():
    datasets = pytest.importorskip("datasets")
    rows = {"image": [PIL.Image.fromarray(LEVELS), PIL.Image.fromarray(255 - LEVELS)]}
    dataset = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
    expected = np.stack([LEVELS, 255 - LEVELS]) / 127.5 - 1
    processor = CXRImageProcessor(size=32)
    for column in (dataset["image"], dataset.cast_column("image", datasets.Image(decode=False))["image"]):
        np.testing.assert_allclose(processor(column)["pixel_values"][:, 0], expected, atol=1e-6)


# --- batches
def test_lists_iterators_and_stacked_arrays_are_batches():
    processor, images = CXRImageProcessor(size=32), [LEVELS, 255 - LEVELS, LEVELS.T]
    expected = torch.cat([processor(image)["pixel_values"] for image in images])
    stacked = np.stack(images)[:, None]
    for batch in (images, tuple(images), iter(images), stacked, torch.from_numpy(stacked)):
        assert processor(batch)["pixel_values"].equal(expected)
    mixed = processor([gradient(40, 30), PIL.Image.fromarray(gradient(24, 36)), LEVELS])
    assert mixed["pixel_values"].shape == (3, 1, 32, 32)


@pytest.mark.parametrize(("return_tensors", "kind"), [("pt", torch.Tensor), ("np", np.ndarray), (None, list)])
def test_return_tensors(return_tensors, kind):
    pixel_values = CXRImageProcessor(size=32)([LEVELS, LEVELS], return_tensors=return_tensors)["pixel_values"]
    assert isinstance(pixel_values, kind)
    assert len(pixel_values) == 2 and tuple(pixel_values[0].shape) == (1, 32, 32)


# --- value ranges
@pytest.mark.parametrize(
    ("largest", "white"), [(200, 255), (255, 255), (256, 511), (4000, 4095), (40000, 65535)]
)
def test_sixteen_bit_images_are_scaled_by_the_bits_they_use(largest, white):
    levels = np.linspace(0, largest, 1024).astype(np.uint16).reshape(32, 32)
    np.testing.assert_allclose(CXRImageProcessor().load(levels), levels / white, atol=1e-6)


@pytest.mark.parametrize(
    ("input_range", "image", "expected"),
    [
        ((0, 65535), DEEP // 2, DEEP // 2 / 65535),
        ((-1, 1), UNIT, (UNIT + 1) / 2),
        ((-1024, 1023), np.arange(-1024, 1024).reshape(32, 64), np.linspace(0, 1, 2048).reshape(32, 64)),
        ((0, 1), LEVELS, LEVELS / 255),
    ],
)
def test_input_range_overrides_what_the_values_suggest(input_range, image, expected):
    np.testing.assert_allclose(CXRImageProcessor(input_range=input_range).load(image), expected, atol=1e-6)


def test_rounding_noise_beyond_the_range_is_clipped():
    values = LEVELS / 255
    values[0, :2] = -1e-6, 1 + 1e-6
    pixels = CXRImageProcessor().load(values)
    assert pixels.min() == 0 and pixels.max() == 1


def test_output_without_quantisation_keeps_float_values():
    values = np.random.default_rng(1).uniform(-1, 1, (32, 32)).astype(np.float32)
    np.testing.assert_allclose(pixels_of(values, do_quantize=False), values, atol=1e-6)
    quantised = (pixels_of(values) + 1) * 127.5
    np.testing.assert_allclose(quantised, np.rint(quantised), atol=1e-4)
    assert np.abs(pixels_of(values) - values).max() <= 0.5001 / 127.5


# --- geometry
def test_center_crop_cuts_the_longer_side_equally():
    wide, tall = gradient(32, 48), gradient(49, 32)
    np.testing.assert_allclose(pixels_of(wide), wide[:, 8:40] / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(pixels_of(tall), tall[8:40] / 127.5 - 1, atol=1e-6)


def test_pad_adds_black_to_the_shorter_side():
    pixels = pixels_of(gradient(32, 48) | 1, crop_mode="pad", size=48)
    np.testing.assert_allclose(pixels[8:40], (gradient(32, 48) | 1) / 127.5 - 1, atol=1e-6)
    assert (pixels[:8] == -1).all() and (pixels[40:] == -1).all()


@pytest.mark.parametrize("resample", list(set(PIL.Image.Resampling) - {PIL.Image.Resampling.NEAREST}))
def test_reduction_is_antialiased(resample):
    stripes = gradient(256, 256) // 2 + np.tile(np.array([0, 127], dtype=np.uint8), (256, 128))  # the finest
    smooth = gradient(256, 256) // 2 + 63.5
    inside = (pixels_of(stripes, resample=resample) - pixels_of(smooth / 255, resample=resample))[4:-4, 4:-4]
    assert np.abs(inside).max() < 0.05  # grey, not moire


def test_reduction_by_a_whole_factor_with_the_box_filter_is_the_mean():
    image = np.random.default_rng(2).integers(0, 256, (64, 64), dtype=np.uint8)
    expected = image.reshape(32, 2, 32, 2).mean(axis=(1, 3)) / 127.5 - 1
    output = pixels_of(image, resample=PIL.Image.Resampling.BOX, do_quantize=False)
    np.testing.assert_allclose(output, expected, atol=1e-6)


def test_overshoot_of_the_filter_is_clipped():
    edge = np.zeros((64, 64), dtype=np.uint8)
    edge[:32] = np.arange(100, 164)  # levels for the check of content
    edge[32:, 33:] = 255
    raw = PIL.Image.fromarray(edge.astype(np.float32)).resize((32, 32), PIL.Image.Resampling.LANCZOS)
    assert np.asarray(raw).max() > 256  # the filter does overshoot here
    pixels = pixels_of(edge, do_quantize=False)
    assert pixels.min() == -1 and pixels.max() == 1


def test_settings_of_one_call_leave_the_processor_alone():
    processor = CXRImageProcessor(size=32)
    assert processor(gradient(40, 60), size=20, crop_mode="pad")["pixel_values"].shape == (1, 1, 20, 20)
    assert processor.size == {"height": 32, "width": 32} and processor.crop_mode == "center_crop"
    pixels = processor.load(gradient(40, 60))  # at its native resolution
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, gradient(40, 60) / 255, atol=1e-6)


# --- colour
def test_colour_photograph_warns_and_is_read_in_grey(tmp_path):
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[:, :16, 0], image[:, 16:, 2] = 200, 100
    PIL.Image.fromarray(image).save(tmp_path / "holiday.png")
    with pytest.warns(NotAChestRadiographWarning, match="holiday.png.*coloured"):
        pixels = CXRImageProcessor().load(tmp_path / "holiday.png")
    np.testing.assert_allclose(pixels[0, [0, 31]], [0.299 * 200 / 255, 0.114 * 100 / 255], atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_grey_picture_stored_in_colour_does_not_warn(tmp_path):
    smooth = PIL.Image.fromarray(gradient(64, 64)).convert("RGB")
    smooth.save(tmp_path / "grey.jpg", quality=85)
    marked = np.asarray(smooth).copy()
    marked[:6, :10] = 255, 255, 0  # a small coloured annotation
    tinted = np.minimum(LEVELS, 240)[:, :, None] + np.array([0, 4, 12], dtype=np.uint8)  # blue film
    for image in (tmp_path / "grey.jpg", marked, tinted):
        CXRImageProcessor().load(image)


def test_long_strip_warns():
    with pytest.warns(NotAChestRadiographWarning, match="100 x 20 pixels is far from square"):
        CXRImageProcessor().load(gradient(20, 100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CXRImageProcessor().load(gradient(30, 50))


# --- addresses
@pytest.fixture
def server(monkeypatch):
    """A server on loopback: its address, and the table of path -> body that it serves."""
    bodies: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = bodies.get(self.path)
            self.send_response(404 if body is None else 500 if self.path == "/broken" else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=service.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{service.server_port}", bodies
    service.shutdown()
    service.server_close()
    thread.join()


def test_addresses(server, monkeypatch):
    address, bodies = server
    bodies.update({"/page": b"<html>Sign in</html>", "/broken": b"oops", "/chest.png": PNG})
    np.testing.assert_array_equal(pixels_of(f"{address}/chest.png"), pixels_of(LEVELS))
    with pytest.raises(FileNotFoundError, match="missing.png.*404"):
        pixels_of(f"{address}/missing.png")
    with pytest.raises(ValueError, match="/page' is not an image"):
        pixels_of(f"{address}/page")
    with pytest.raises(ValueError, match="broken.*download failed.*500"):
        pixels_of(f"{address}/broken")
    with pytest.raises(ValueError, match="download failed"):
        pixels_of("http://127.0.0.1:9/nobody-listens.png")
    monkeypatch.setattr("cf_cxr.images.loading.MAX_BYTES", 100)
    with pytest.raises(ValueError, match="chest.png.*download was stopped"):
        pixels_of(f"{address}/chest.png")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX-Wait: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_server_that_drips_is_given_up(monkeypatch, head):
    """In the headers, and in the body: each wait is short, the whole is not."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    given_up = threading.Event()

    def drip():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):  # the client goes
            connection.recv(4096)
            connection.sendall(head)
            while not given_up.wait(0.05):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/chest.png"
        begin = time.monotonic()
        with pytest.raises(CXRImageError, match="chest.png.*not complete after 0.5 seconds.*given up"):
            load_grayscale(url, timeout=0.5)
        assert time.monotonic() - begin < 2
        given_up.set()
        thread.join(5)


# --- saving, Auto classes, settings
def test_saved_and_loaded_again(tmp_path):
    processor = CXRImageProcessor(
        size=48, crop_mode="pad", input_range=(0, 4095), do_quantize=False, max_pixels=10**6
    )
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "CXRImageProcessor"
    assert saved["size"] == {"height": 48, "width": 48}
    loaded = CXRImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.input_range == (0, 4095) and loaded.do_quantize is False
    image = gradient(60, 90).astype(np.uint16) * 16
    assert loaded(image)["pixel_values"].equal(processor(image)["pixel_values"])
    for size in (64, {"height": 64, "width": 64}):
        assert CXRImageProcessor.from_pretrained(tmp_path, size=size).size == {"height": 64, "width": 64}
    assert pickle.loads(pickle.dumps(loaded)).to_dict() == loaded.to_dict()


def test_auto_image_processor_finds_it_once_registered(tmp_path):
    class ProbeConfig(PreTrainedConfig):
        model_type = "cxr_processor_probe"

    AutoImageProcessor.register(ProbeConfig, image_processor_classes={"pil": CXRImageProcessor})
    CXRImageProcessor(size=40).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is CXRImageProcessor and loaded.size["height"] == 40
    assert CXRImageProcessor.model_input_names == ["pixel_values"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"size": {"height": 32, "width": 48}}, "not a square"),
        ({"size": 10**9}, "at most 4096"),
        ({"crop_mode": "stretch"}, "crop_mode='stretch'.*center_crop.*pad"),
        ({"resample": PIL.Image.Resampling.NEAREST}, "not antialiased"),
        ({"resample": 77}, "77"),
        ({"input_range": (1, 0)}, "black below white"),
        ({"input_range": 255}, "input_range=255"),
        ({"max_pixels": 0}, "max_pixels=0"),
        ({"min_side": 1.5}, "min_side=1.5"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CXRImageProcessor(**settings)
    with pytest.raises(ValueError, match=message):
        CXRImageProcessor()(LEVELS, **settings)
    with pytest.raises(TypeError, match="no setting 'crop_mod'.*crop_mode"):
        CXRImageProcessor(crop_mod="pad")
    with pytest.raises(TypeError, match="no setting 'do_normalize'.*crop_mode"):
        CXRImageProcessor()(LEVELS, do_normalize=False)
