"""The radiographs that ship with the package."""

import numpy as np
from PIL import Image

from cf_cxr.data import cxr_schema
from cf_cxr.examples import FOLDER, example_dicom, example_images
from cf_cxr.images.image_processing_cxr import CXRImageProcessor


def test_four_films_of_both_sexes_views_and_findings():
    films = example_images()
    assert len(films) == 4
    schema, _ = cxr_schema("nih_cxr14")
    raw = schema.to_tensor([film.attributes for film in films])
    for name in ("sex", "view", "finding"):
        assert set(raw[:, schema.index(name)].tolist()) == {0.0, 1.0}
    ages = raw[:, 0]
    assert ages.max() - ages.min() > 40


def test_films_are_grey_224_pixel_pngs_and_small():
    for film in example_images():
        with Image.open(film.path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (224, 224))
            assert np.asarray(image).std() > 30
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 250_000


def test_attribution_names_provider_link_and_paper():
    text = (FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for needed in ("NIH Clinical Center", "https://nihcc.app.box.com/v/ChestXray-NIHCC", "Wang", "CVPR 2017"):
        assert needed in text


def test_dicom_shows_the_same_film():
    import pydicom

    header = pydicom.dcmread(example_dicom())
    assert (header.PhotometricInterpretation, header.BitsStored) == ("MONOCHROME2", 12)
    assert header.PatientIdentityRemoved == "YES"
    processor = CXRImageProcessor(size=224)
    film = processor(example_images()[0].path)["pixel_values"]
    dicom = processor(example_dicom())["pixel_values"]
    assert (film - dicom).abs().max() <= 2 / 255 + 1e-6
