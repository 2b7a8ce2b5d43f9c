"""DICOM radiographs: known answers for every step from stored values to grey levels."""

import io

import numpy as np
import PIL.Image
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cf_cxr.images.dicom import header_attributes
from cf_cxr.images.errors import CXRImageError, NotAChestRadiographWarning
from cf_cxr.images.image_processing_cxr import CXRImageProcessor
from tests.images.dicom_files import make_dicom, save_dicom

RAMP_12 = np.arange(4096, dtype=np.uint16).reshape(64, 64)
RAMP_8 = np.arange(256, dtype=np.uint8).repeat(4).reshape(32, 32)
FULL_WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


def load(source):
    return CXRImageProcessor().load(source)


def lut(first: int, bits: int, data) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(data), first, bits])
    item.add_new("LUTData", "US", [int(value) for value in data])
    return item


# --- sources
def test_path_bytes_open_file_and_dataset_give_the_same_image(tmp_path):
    dataset = make_dicom(RAMP_12, 12, **FULL_WINDOW)
    path = save_dicom(dataset, tmp_path / "image.dcm")
    nameless = tmp_path / "image"
    nameless.write_bytes((tmp_path / "image.dcm").read_bytes())
    expected = RAMP_12 / 4095
    with open(path, "rb") as file:
        for source in (dataset, path, nameless, nameless.read_bytes(), file, {"bytes": None, "path": path}):
            pixels = load(source)
            assert pixels.dtype == np.float32
            np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_file_without_preamble_is_read_by_its_suffix(tmp_path):
    dataset = make_dicom(RAMP_12, 12, **FULL_WINDOW)
    path = tmp_path / "old.dcm"
    bare = pydicom.Dataset({element.tag: element for element in dataset})
    pydicom.dcmwrite(path, bare, implicit_vr=True, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_allclose(load(path), RAMP_12 / 4095, atol=1e-6)


def test_the_callers_dataset_is_left_as_it_was():
    dataset = make_dicom(RAMP_12, 12, RescaleSlope=1, RescaleIntercept=0, **FULL_WINDOW)
    before = pydicom.Dataset(dataset).to_json()
    load(dataset)
    assert pydicom.Dataset(dataset).to_json() == before


# --- stored values to grey levels, against known answers
DESCENDING = np.arange(4096)[::-1]
SIGNED = np.arange(-512, 512, dtype=np.int16).reshape(32, 32)
OFFSET = np.arange(1000, 5096, dtype=np.uint16).reshape(64, 64)
OFFSET.ravel()[-3:] = 16383  # a burnt-in marker does not set the contrast
WORDS = lut(0, 12, [0])
WORDS.add_new("LUTDescriptor", "US", [4096, 0, 12])
WORDS.add_new("LUTData", "OW", DESCENDING.astype("<u2").tobytes())
INVERSE = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}


def ramp(bits):
    return np.linspace(0, 2**bits - 1, 1024).astype(np.uint16).reshape(32, 32)


KNOWN = {
    **{
        f"{bits} bits": (ramp(bits), bits, {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}, ramp(bits) / (2**bits - 1))
        for bits in (10, 12, 14, 16)
    },
    "signed, rescaled to a window of -100 ... 300": (
        SIGNED, 12, {"RescaleSlope": 2, "RescaleIntercept": 100, "WindowCenter": 100.5, "WindowWidth": 401},
        np.clip(2.0 * SIGNED / 400 + 0.5, 0, 1)),
    "modality table before the window": (
        RAMP_12, 12, {"ModalityLUTSequence": [lut(0, 16, DESCENDING // 2)], "WindowCenter": 1024, "WindowWidth": 2048},
        (DESCENDING // 2)[RAMP_12] / 2047),
    "window of width one": (RAMP_12, 12, {"WindowCenter": 1000, "WindowWidth": 1}, RAMP_12 > 999.5),
    "first of several windows": (RAMP_12, 12, {"WindowCenter": [2048, 100], "WindowWidth": [4096, 50]}, RAMP_12 / 4095),
    "8-bit table of 4096 entries before the window": (
        RAMP_12, 12, {"VOILUTSequence": [lut(0, 8, DESCENDING // 16)], **FULL_WINDOW}, (DESCENDING // 16)[RAMP_12] / 255),
    "table clamped at both ends": (
        RAMP_12, 12, {"VOILUTSequence": [lut(1000, 8, [10, 100, 200])]},
        np.select([RAMP_12 <= 1000, RAMP_12 == 1001], [10, 100], 200) / 255),
    "table declared wider than its entries": (RAMP_12, 12, {"VOILUTSequence": [lut(0, 16, range(4096))]}, RAMP_12 / 4095),
    "table stored as words": (RAMP_12, 12, {"VOILUTSequence": [WORDS]}, 1 - RAMP_12 / 4095),
    "eight bits": (RAMP_8, 8, {}, RAMP_8 / 255),
    "eight bits, not all used": (RAMP_8 // 2, 8, {"RescaleSlope": 1, "RescaleIntercept": 0}, (RAMP_8 // 2) / 255),
    "percentiles": (OFFSET, 14, {}, np.clip((OFFSET - 1020.475) / (0.99 * 4095), 0, 1)),
    "inverted once": (RAMP_12, 12, INVERSE | FULL_WINDOW, 1 - RAMP_12 / 4095),
}  # fmt: skip


@pytest.mark.parametrize("kind", KNOWN)
def test_known_grey_levels(kind):
    stored, bits, elements, expected = KNOWN[kind]
    np.testing.assert_allclose(
        load(make_dicom(stored, bits, **elements)), expected, atol=1e-3 if kind == "percentiles" else 1e-6
    )


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(1500, 1000), (2048.5, 37), (-10, 5000)])
def test_windows_agree_with_pydicom(function, center, width):
    dataset = make_dicom(RAMP_12, 12, WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
    reference = apply_windowing(RAMP_12, dataset) / 4095
    np.testing.assert_allclose(load(dataset), reference, atol=1e-6)


@pytest.mark.parametrize(("center", "width"), [(2048, 0), (2048, -5), (-9000, 100)])
def test_a_useless_window_is_reported_and_replaced(center, width):
    with pytest.warns(UserWarning, match=f"centre {center}, width {width}"):
        pixels = load(make_dicom(RAMP_12, 12, WindowCenter=center, WindowWidth=width))
    assert pixels.min() == 0 and pixels.max() == 1


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_set_the_contrast(photometric):
    stored = np.full((64, 64), 4000, dtype=np.uint16)
    stored[:, 16:48] = np.linspace(1000, 2000, 64).astype(np.uint16)[:, None]
    dataset = make_dicom(stored, 12, PhotometricInterpretation=photometric)
    dataset.add_new("PixelPaddingValue", "US", 4000)
    pixels = load(dataset)
    assert (pixels[:, :16] == 0).all() and (pixels[:, 48:] == 0).all()
    assert pixels[:, 16:48].min() == 0 and pixels[:, 16:48].max() == 1
    dataset.add_new("PixelPaddingRangeLimit", "US", 1900)
    assert (load(dataset)[-4:] == 0).all()


# --- compression
def test_rle_and_jpeg_2000_are_decoded():
    dataset = make_dicom(RAMP_12, 12, **FULL_WINDOW)
    dataset.compress(RLELossless)
    np.testing.assert_allclose(load(dataset), RAMP_12 / 4095, atol=1e-6)
    buffer = io.BytesIO()
    PIL.Image.fromarray(RAMP_8).save(buffer, format="JPEG2000", irreversible=False)
    np.testing.assert_allclose(load(compressed(JPEG2000Lossless, buffer.getvalue())), RAMP_8 / 255, atol=1e-6)


def compressed(syntax, data: bytes) -> pydicom.Dataset:
    dataset = make_dicom(RAMP_8)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([data])
    dataset["PixelData"].is_undefined_length = True
    return dataset


@pytest.mark.parametrize(
    ("syntax", "package"), [(JPEGLosslessSV1, "pylibjpeg-libjpeg"), (JPEGLSLossless, "pyjpegls")]
)
def test_missing_decoder_is_named(tmp_path, monkeypatch, syntax, package):
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", property(lambda self: False))
    path = save_dicom(compressed(syntax, b"\xff\xd8\xff\xd9"), tmp_path / "compressed.dcm")
    with pytest.raises(CXRImageError, match=f"compressed.dcm.*no decoder.*{package}"):
        load(path)


# --- warnings
def view_code(value: str, meaning: str) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SRT", meaning
    return item


ODD = [
    ({"BodyPartExamined": "HAND"}, "BodyPartExamined is HAND, not the chest"),
    ({"Modality": "CT"}, "Modality is CT, not radiography"),
    ({"ViewPosition": "LATERAL"}, "ViewPosition is LATERAL"),
    ({"PatientOrientation": ["A", "F"]}, r"PatientOrientation is A\\F"),
    ({"ViewCodeSequence": [view_code("R-10236", "von links")]}, "ViewCodeSequence is von links"),
    ({"ViewCodeSequence": [view_code("399004004", "right lateral")]}, "ViewCodeSequence is right lateral"),
    ({"SeriesDescription": "W033 Thorax lat."}, "SeriesDescription is W033 Thorax lat."),
    ({"SeriesDescription": "Lateral", "ViewPosition": ""}, "SeriesDescription is Lateral"),
]
FRONTALS = [
    {},
    {"ViewPosition": "PA", "BodyPartExamined": "CHEST"},
    {"PatientOrientation": ["L", "F"]},
    {"PatientOrientation": ["R", "FP"]},
    {"PatientOrientation": ""},
    {"ViewCodeSequence": [view_code("R-10206", "antero-posterior")]},
    {"SeriesDescription": "Chest PA and lateral"},  # of the study, not of the film
    {"SeriesDescription": "Thorax p.a./lat."},
    {"SeriesDescription": "bilateral effusion, collateral flat plate"},
]


@pytest.mark.parametrize(("elements", "reason"), ODD)
def test_what_is_no_frontal_chest_warns_by_every_element_that_says_so(tmp_path, elements, reason):
    path = save_dicom(make_dicom(RAMP_8, **elements), tmp_path / "odd.dcm")
    with pytest.warns(NotAChestRadiographWarning, match=f"odd.dcm.*{reason}.*do not trust"):
        load(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("elements", FRONTALS)
def test_frontals_are_not_taken_for_laterals(tmp_path, elements):
    load(save_dicom(make_dicom(RAMP_8, **elements), tmp_path / "front.dcm"))


# --- refusals
@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"NumberOfFrames": 2, "PixelData": b"\0" * 2048}, "holds 2 frames"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "'RGB', 3 samples per pixel"),
        ({"PhotometricInterpretation": None}, "photometric interpretation None"),
        ({"PixelData": None}, "DICOM without pixel data"),
        ({"Rows": None}, "DICOM without pixel data .*no Rows"),
        (
            {"Rows": None, "PixelData": None, "SOPClassUID": BasicTextSRStorage},
            "Basic Text SR Storage.*not a report",
        ),
        ({"Rows": 20000, "Columns": 20000}, "20000 x 20000 = 400,000,000 pixels is over the limit"),
        ({"Rows": 1, "Columns": 1, "PixelData": b"\0\0"}, "1 x 1 pixels is too small"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 bits stored in 32 allocated"),
        ({"PixelData": b"\0" * 100}, "cannot be decoded"),
        ({"BitsAllocated": 16, "BitsStored": 12, "HighBit": 15}, "HighBit 15 of 12 bits stored must be 11"),
    ],
)
def test_unusable_dicom_is_refused_with_its_name(tmp_path, elements, message):
    path = save_dicom(make_dicom(RAMP_8, **elements), tmp_path / "bad.dcm")
    with pytest.raises(CXRImageError, match=f"bad.dcm.*{message}"):
        load(path)
    with pytest.raises(CXRImageError, match=message):
        load(make_dicom(RAMP_8, **elements))


NO_INTERCEPT = {"RescaleIntercept": 0}


@pytest.mark.filterwarnings("error::RuntimeWarning", "ignore:Invalid value", "ignore:A value of type")
@pytest.mark.parametrize("window", [{}, FULL_WINDOW])
@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"RescaleSlope": 1e308, **NO_INTERCEPT}, r"RescaleSlope \(0028,1053\) = 1e\+308"),
        ({"RescaleSlope": 0, **NO_INTERCEPT}, r"RescaleSlope \(0028,1053\) = 0"),
        ({"RescaleSlope": "nan", **NO_INTERCEPT}, r"RescaleSlope \(0028,1053\) = nan"),
        ({"RescaleSlope": 1, "RescaleIntercept": "1e300"}, r"RescaleIntercept \(0028,1052\) = 1e\+?300"),
        ({"ModalityLUTSequence": [lut(0, 16, [7, 7])]}, r"ModalityLUTSequence \(0028,3000\) = 2 entries"),
        ({"VOILUTSequence": [lut(0, 8, [7, 7])]}, r"VOILUTSequence \(0028,3010\) = 2 entries"),
        ({"VOILUTSequence": [lut(0, 0, [0, 1])]}, r"VOILUTSequence \(0028,3010\) = 2 entries.* of 0 bits"),
        ({"VOILUTSequence": [lut(0, 8, [0, 999])]}, r"VOILUTSequence \(0028,3010\) = .*0 to 999 of 8 bits"),
        ({"WindowCenter": "nan", "WindowWidth": 10}, r"WindowCenter \(0028,1050\) = nan"),
        ({"WindowCenter": 2000, "WindowWidth": "inf"}, r"WindowWidth \(0028,1051\) = inf"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}, r"PixelPaddingValue \(0028,0120\) = 0"),
    ],
)
def test_header_that_leaves_no_grey_levels_is_refused_with_its_element(tmp_path, elements, message, window):
    dataset = make_dicom(RAMP_12, 12, **{**window, **elements})
    with pytest.raises(CXRImageError, match=f"wild.dcm.*{message}"):
        load(save_dicom(dataset, tmp_path / "wild.dcm"))


def test_too_many_pixels_are_refused_before_the_pixels_are_read(tmp_path, monkeypatch):
    path = save_dicom(make_dicom(RAMP_8), tmp_path / "large.dcm")
    monkeypatch.setattr("cf_cxr.images.dicom.pixel_array", lambda dataset: pytest.fail("decoded"))
    with pytest.raises(CXRImageError, match="32 x 32 = 1,024 pixels is over the limit of 1,000"):
        CXRImageProcessor(max_pixels=1000).load(path)


def test_deflated_file_is_read_and_a_bomb_is_not_inflated(tmp_path, monkeypatch):
    dataset = make_dicom(RAMP_12, 12, **FULL_WINDOW)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = save_dicom(dataset, tmp_path / "deflated.dcm")
    np.testing.assert_allclose(load(path), RAMP_12 / 4095, atol=1e-6)
    dataset.add_new((0x0029, 0x1010), "OB", b"\0" * 10**6)  # stored in a thousandth of that
    bomb = save_dicom(dataset, tmp_path / "bomb.dcm")
    assert (tmp_path / "bomb.dcm").stat().st_size < 20_000
    monkeypatch.setattr("cf_cxr.images.dicom.MAX_BYTES", 10**5)
    monkeypatch.setattr(pydicom, "dcmread", lambda *args, **kwargs: pytest.fail("inflated"))
    for source in (bomb, (tmp_path / "bomb.dcm").read_bytes()):
        with pytest.raises(CXRImageError, match="inflates to more than 0 MiB.*not read"):
            load(source)
        assert header_attributes(source) == {}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((lambda data, kept=kept: data[:kept], "") for kept in (140, 400, -300)),
        (lambda data: b"not a radiograph, just a note" * 20, ""),
        (lambda data: data.replace(b"2048", b"2x.8"), " is damaged DICOM"),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, message):
    path = tmp_path / "bad.dcm"
    save_dicom(make_dicom(RAMP_12, 12, **FULL_WINDOW), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CXRImageError, match=f"bad.dcm.*{message}"):
        load(path)


# --- what the header says of the patient
@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"PatientAge": "006M", "PatientSex": "M"}, {"age": 0.5, "sex": "Male"}),
        ({"ViewPosition": "AP"}, {"view": "AP"}),
        ({"PatientAge": "052W"}, {"age": 52 * 7 / 365.25}),
        ({"PatientAge": "030D"}, {"age": 30 / 365.25}),
        ({"PatientAge": "51"}, {"age": 51.0}),  # as the RSNA's files have it
        ({"PatientAge": "000Y", "PatientSex": "O", "ViewPosition": "LL"}, {}),
        ({"PatientAge": "238Y", "PatientSex": "", "ViewPosition": ["PA", "AP"]}, {}),
        ({"PatientAge": ["045Y", "046Y"], "PatientSex": " f"}, {"sex": "Female"}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_header_attributes(tmp_path, elements, expected):
    dataset = make_dicom(RAMP_8, **elements)
    path = save_dicom(dataset, tmp_path / "film.dcm")
    for source in (path, (tmp_path / "film.dcm").read_bytes(), dataset, {"bytes": None, "path": path}):
        assert header_attributes(source) == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
def test_header_attributes_of_what_is_no_dicom_or_damaged(tmp_path):
    PIL.Image.fromarray(RAMP_8).save(tmp_path / "film.png")
    path = tmp_path / "film.dcm"
    save_dicom(make_dicom(RAMP_8, PatientAge="063Y"), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"063Y", b"\xff\x00\xe9Y"))
    assert header_attributes(path) == {}
    for kept in (0, 100, 140, 200, 300):
        path.write_bytes(content[:kept])
        assert header_attributes(path) == {} == header_attributes(content[:kept])
    nothing = (tmp_path / "film.png", tmp_path, tmp_path / "none.dcm", "http://x/y.dcm", RAMP_8, None, {})
    for source in nothing:
        assert header_attributes(source) == {}
