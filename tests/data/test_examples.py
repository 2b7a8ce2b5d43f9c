"""The radiographs that ship with the package."""

import numpy as np
import pydicom
from PIL import Image

from cf_cxr.data import cxr_schema
from cf_cxr.examples import FOLDER, example_dicom, example_images
from cf_cxr.images.image_processing_cxr import CXRImageProcessor


def test_four_small_grey_films_of_both_sexes_views_and_findings():
    films = example_images()
    assert len(films) == 4
    schema, _ = cxr_schema("nih_cxr14")
    raw = schema.to_tensor([film.attributes for film in films])
    for name in ("sex", "view", "finding"):
        assert set(raw[:, schema.index(name)].tolist()) == {0.0, 1.0}
    assert raw[:, 0].max() - raw[:, 0].min() > 40
    for film in films:
        with Image.open(film.path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (224, 224))
            assert np.asarray(image).std() > 30
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 250_000
    text = (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for needed in ("NIH Clinical Center", "https://nihcc.app.box.com/v/ChestXray-NIHCC", "Wang", "CVPR 2017"):
        assert needed in text


def test_dicom_shows_the_same_film():
    header = pydicom.dcmread(example_dicom())
    assert (header.PhotometricInterpretation, header.BitsStored) == ("MONOCHROME2", 12)
    assert header.PatientIdentityRemoved == "YES"
    processor = CXRImageProcessor(size=224)
    film, dicom = (processor(path)["pixel_values"] for path in (example_images()[0].path, example_dicom()))
    assert (film - dicom).abs().max() <= 2 / 255 + 1e-6
