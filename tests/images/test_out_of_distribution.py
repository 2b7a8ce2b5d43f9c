"""Which films are usual: the features, the record and its checks, and the bundled record on films, changed and not."""

import json

import numpy as np
import pytest
import torch

from cf_cxr import CXRImageProcessor, example_images
from cf_cxr.images.out_of_distribution import (
    KINDS,
    NUM_FEATURES,
    UsualFilms,
    describe_unusual,
    film_features,
    of_every_kind,
    put_right,
)
from cf_cxr.pretrained import default_explainer_path, default_model_path
from tests.pipelines.tiny import processor_knowing

FILMS = [example.path for example in example_images()]
PROCESSOR = CXRImageProcessor.from_pretrained(default_model_path())


def record(**changes):
    n = NUM_FEATURES
    return {
        "mean": [0.0] * n,
        "std": [1.0] * n,
        "weight": [[0.0] * n for _ in KINDS],
        "bias": [-9.0] * len(KINDS),
        "distance_limit": 2.0,
        "log_odds_limit": 3.0,
        **changes,
    }


def levels(path) -> np.ndarray:
    return np.asarray(PROCESSOR.postprocess(PROCESSOR(path)["pixel_values"])[0]).copy()


def test_features_know_no_exposure_and_hardly_the_size():
    x = torch.from_numpy(levels(FILMS[0])).float()[None, None] / 127.5 - 1
    features = film_features(x)
    assert features.shape == (1, NUM_FEATURES) == (1, 272)
    torch.testing.assert_close(film_features(x * 0.3 + 0.2), features, atol=1e-4, rtol=1e-4)
    larger = torch.nn.functional.interpolate(x, size=(192, 192), mode="bilinear", antialias=True)
    assert float((film_features(larger) - features).square().mean().sqrt()) < 0.1
    assert film_features(torch.zeros(2, 1, 16, 16)).isfinite().all()
    detail = film_features(torch.cat([x, torch.rand(1, 1, 128, 128) * 2 - 1]))[:, 256:].mean(1)
    assert detail[1] > detail[0] + 1


def test_every_kind_is_put_right():
    x = torch.rand(2, 1, 8, 8)
    changed = of_every_kind(x)
    assert torch.equal(changed[1][..., 0, 0], x[..., 0, -1])  # the upper right corner goes to the upper left
    for kind, image in zip(KINDS, changed):
        assert not torch.equal(image, x) and torch.equal(put_right(image, kind), x)


def test_distance_and_log_odds_are_what_they_are_said_to_be():
    x = torch.from_numpy(levels(FILMS[0])).float()[None, None] / 127.5 - 1
    features = film_features(x)[0]
    weight = [[0.0] * NUM_FEATURES for _ in KINDS]
    weight[2][5] = 4.0
    usual = UsualFilms.from_dict(
        record(mean=(features - 3).tolist(), std=[2.0] * NUM_FEATURES, weight=weight)
    )
    [distance], [odds] = usual.measure(x)
    assert float(distance) == pytest.approx(1.5, rel=1e-4)
    assert odds.tolist() == pytest.approx([-9, -9, 4 * 1.5 - 9, -9, -9], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, "cannot be read"),
        ({"limit": 1}, None),
        ({"mean": [0.0]}, r"mean must hold finite numbers of the shape \(272,\), it has \(1,\).*remove it"),
        ({"std": [0.0] * NUM_FEATURES}, "every std"),
        ({"weight": [[0.0] * NUM_FEATURES]}, "weight must hold"),
        ({"distance_limit": -1}, "distance_limit must be positive"),
        ({"distance_limit": float("inf")}, "distance_limit must hold finite"),
        ({"log_odds_limit": 10**400}, "cannot be read"),
    ],
)
def test_a_record_is_not_trusted(tmp_path, changes, message):
    CXRImageProcessor(size=32).save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "usual_films": record(**changes)}))
    if message is None:
        assert CXRImageProcessor.from_pretrained(tmp_path).usual_films == record()
    else:
        with pytest.raises(ValueError, match=f"usual_films.*{message}"):
            CXRImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="usual_films cannot be read"):
        CXRImageProcessor(usual_films=[1])


def test_the_record_travels_with_the_processor_and_is_not_printed(tmp_path):
    PROCESSOR.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").stat().st_size < 100_000
    again = CXRImageProcessor.from_pretrained(tmp_path)
    assert again.usual_films == PROCESSOR.usual_films and again.to_dict() == PROCESSOR.to_dict()
    assert len(repr(again)) < 600 and "usual_films" in repr(again)
    assert "usual_films" not in CXRImageProcessor().to_dict()
    assert CXRImageProcessor.from_pretrained(default_explainer_path()).usual_films == again.usual_films


@pytest.mark.parametrize("film", FILMS, ids=lambda path: path.stem)
def test_the_bundled_record_knows_films_from_others(film):
    image = levels(film)
    pixel_values, finding = PROCESSOR.examine(film)
    assert finding is None and pixel_values.equal(PROCESSOR(film)["pixel_values"])
    changed = [255 - image, *(np.rot90(image, quarters) for quarters in (1, 2, 3))]
    for kind, picture in zip(KINDS, changed):
        found = PROCESSOR.examine(picture.copy())[1]
        assert found["looks"] == kind and kind in describe_unusual(found)
    photograph = np.full((160, 160), 200, np.uint8)
    photograph[16:144, 16:144] = image // 2 + 40
    assert PROCESSOR.examine(photograph)[1] is not None


def test_the_bundled_record_knows_other_pictures():
    y, x = np.mgrid[:128, :128] / 127
    noise = np.random.default_rng(0).integers(0, 256, (128, 128))
    blob = 200 * np.exp(-8 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
    for picture in (noise, 255 * x, blob, 180 * (x > y) + 60 * x):
        assert PROCESSOR.examine(picture.astype(np.uint8))[1] is not None


def test_inverted_films_are_inverted_back_when_asked():
    right, _ = PROCESSOR.examine(levels(FILMS[0]))
    negative = 255 - levels(FILMS[0])
    pixel_values, found = PROCESSOR.examine(negative)
    torch.testing.assert_close(pixel_values, -right)
    assert found["looks"] == "inverted" and not found["corrected"]
    assert found["distance"] > 0 and found["limit"] > 1
    pixel_values, found = PROCESSOR.examine(negative, invert="auto")
    assert pixel_values.equal(right) and found["corrected"] and "inverted back" in describe_unusual(found)
    assert PROCESSOR.examine(negative, invert=True)[0].equal(right)
    assert PROCESSOR.examine(negative, invert=True)[1] is None
    pixel_values, found = PROCESSOR.examine(FILMS[0], invert="auto")
    assert pixel_values.equal(right) and found is None
    padding = CXRImageProcessor(size=128, crop_mode="pad", usual_films=PROCESSOR.usual_films)
    pixel_values, found = padding.examine(negative[:, 8:-8], invert="auto")
    assert found["corrected"] and (pixel_values[..., :4] == -1).all()  # the padding stays black


def test_an_inverted_film_that_is_odd_when_put_right_is_said_to_be_both():
    knowing = processor_knowing(levels(FILMS[0]), side=128)
    weight = knowing.usual_films["weight"]
    weight[2] = [-w for w in weight[0]]  # the film itself "looks rotated by 180°"
    again = CXRImageProcessor(size=128, usual_films=knowing.usual_films)
    found = again.examine(255 - levels(FILMS[0]), "auto")[1]
    assert found["corrected"] and found["looks"] == "rotated by 180°"
    assert "inverted back, but it still looks rotated by 180°" in describe_unusual(found)


def test_invert_is_checked():
    with pytest.raises(ValueError, match="invert='maybe' is unknown. Choose one of False, True, 'auto'"):
        PROCESSOR.examine(FILMS[0], invert="maybe")
    with pytest.raises(ValueError, match="needs the image processor of a model that knows its usual films"):
        CXRImageProcessor().examine(FILMS[0], invert="auto")
    assert CXRImageProcessor().examine(255 - levels(FILMS[0]))[1] is None  # nothing is known


def test_a_cause_is_named_only_where_it_explains_the_film():
    weight = [[0.0] * NUM_FEATURES for _ in KINDS]
    usual = UsualFilms.from_dict(record(weight=weight, bias=[9.0, 0, 0, 0, 0], distance_limit=0.1))
    found = usual.unusual(torch.rand(1, 1, 32, 32) * 2 - 1)  # "inverted", but inverting it does not help
    assert found["looks"] is None and "distance" in describe_unusual(found)
