"""The pipeline on a tiny model: what goes in, what comes out, and that batching and seeding do not change answers."""

import datasets
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from transformers import pipeline

from cf_cxr.pipelines import COUNTERFACTUAL_TASK
from tests.images.dicom_files import make_dicom, save_dicom
from tests.pipelines.tiny import (
    SCHEMA,
    SIDE,
    grey_image,
    save_tiny,
    tiny_model,
    tiny_processor,
)

KNOWN = {"age": 63, "sex": "Male", "site": "B", "finding": "No Finding"}
OTHERS = [{"sex": "Female"}, {"age": 10}, {"site": "A", "finding": "Effusion"}]


@pytest.fixture(scope="module")
def pipe():
    return pipeline(COUNTERFACTUAL_TASK, model=tiny_model(), image_processor=tiny_processor())


@pytest.fixture(scope="module")
def images():
    return [grey_image(seed, side=24) for seed in range(5)]


def levels(image) -> np.ndarray:
    return np.asarray(image).astype(int)


def same(first, second) -> bool:
    """Two results agree in everything random or computed."""
    return (
        np.allclose(first["difference"], second["difference"], atol=1e-5)
        and first["attributes"] == pytest.approx(second["attributes"])
        and first["do"] == second["do"]
        and np.allclose(first.get("std", 0), second.get("std", 0), atol=1e-5)
        and np.allclose(estimates(first), estimates(second), rtol=1e-4, atol=1e-6)
    )


def estimates(result) -> list[float]:
    """All numbers of the classifier's predictions, before and after."""
    moments = result["predictions"].values()
    return [number for moment in moments for posterior in moment.values() for number in posterior.values()]


def test_one_image_one_intervention(pipe, images):
    out = pipe(images[0], attributes=KNOWN, do={"sex": "Female"})
    assert isinstance(out["image"], Image.Image) and out["image"].mode == "L"
    assert out["image"].size == out["factual_image"].size == (SIDE, SIDE)
    assert out["difference"].shape == (SIDE, SIDE) and out["difference"].dtype == np.float32
    change = (levels(out["image"]) - levels(out["factual_image"])) / 127.5
    assert np.abs(change).max() > 0.05
    np.testing.assert_allclose(out["difference"], change, atol=1.01 / 127.5)
    assert out["factual_attributes"] == KNOWN
    assert out["attributes"] == {**KNOWN, "sex": "Female"}
    assert out["units"] == {"age": "years"}
    assert out["inferred"] == [] and out["do"] == {"sex": "Female"} and "std" not in out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_null_intervention_returns_the_input(images, tmp_path, dtype):
    pipe = pipeline(COUNTERFACTUAL_TASK, model=save_tiny(tmp_path), dtype=dtype)
    assert str(pipe.model.dtype) == f"torch.{dtype}"
    for image, out in zip(images, pipe(images, do={}, batch_size=2)):
        expected = tiny_processor().postprocess(tiny_processor()(image)["pixel_values"])[0]
        np.testing.assert_array_equal(levels(out["image"]), levels(expected))
        assert np.abs(out["difference"]).max() <= 1 / 127.5
        assert out["attributes"] == out["factual_attributes"]


def test_several_interventions_cost_one_abduction_and_equal_single_ones(pipe, images):
    passes = []
    hook = pipe.model.image_mechanism.encoder.register_forward_hook(lambda *_: passes.append(1))
    together = pipe(images[0], attributes=KNOWN, do=OTHERS, seed=1)
    hook.remove()
    assert len(passes) == 1
    assert [out["do"] for out in together] == [
        {"sex": "Female"},
        {"age": 10.0},
        {"site": "A", "finding": "Effusion"},
    ]
    for out, do in zip(together, OTHERS):
        assert same(out, pipe(images[0], attributes=KNOWN, do=do, seed=1))


@pytest.mark.parametrize("num_samples", [1, 3])
def test_batch_size_does_not_change_the_answer(pipe, images, num_samples, batch_size=2):
    settings = {"do": [{"age": 48}, {"sex": "Female"}], "num_samples": num_samples, "seed": 3}
    for one, many in zip(pipe(images, **settings), pipe(images, batch_size=batch_size, **settings)):
        assert all(same(a, b) for a, b in zip(one, many))


def test_seed_repeats_and_generator_is_used(pipe, images):
    def draw(**source):
        return pipe(images[0], do={"sex": "Female"}, num_samples=2, **source)["std"]

    assert draw(seed=1).shape == (SIDE, SIDE) and draw(seed=1).min() >= 0

    np.testing.assert_array_equal(draw(seed=1), draw(seed=1))
    assert np.abs(draw(seed=1) - draw(seed=2)).max() > 0
    generator = torch.Generator().manual_seed(7)
    first, second = draw(generator=generator), draw(generator=generator)
    assert np.abs(first - second).max() > 0
    np.testing.assert_array_equal(first, draw(generator=torch.Generator().manual_seed(7)))


def test_images_of_one_call_draw_different_noise(pipe, images):
    """Under do(age) the finding is random: with one noise for all images it would flip for all or none."""
    outs = pipe(
        [images[0]] * 40, attributes={**KNOWN, "finding": "Effusion"}, do={"age": 48}, seed=0, batch_size=20
    )
    assert {out["attributes"]["finding"] for out in outs} == {"No Finding", "Effusion"}


def test_missing_attributes_are_inferred_and_said_to_be(pipe, images):
    table = datasets.Dataset.from_dict({"image": images[1:2], "age": [63], "sex": [-1]})  # -1: not known
    labels = datasets.ClassLabel(names=["Female", "Male"])
    table = table.cast_column("image", datasets.Image()).cast_column("sex", labels)
    assert next(iter(pipe(table, do={})))["inferred"] == ["sex", "site", "finding"]
    out = pipe(images[1], attributes={"age": 63, "site": None}, do={"age": 64})
    assert out["inferred"] == ["sex", "site", "finding"]
    guess = pipe.model.infer_attributes(tiny_processor()(images[1])["pixel_values"])
    [expected] = SCHEMA.to_records(guess)
    assert out["factual_attributes"] == {**expected, "age": 63.0}


def test_predictions_are_the_classifiers_before_and_after(pipe, images):
    out = pipe(images[0], attributes=KNOWN, do={"site": "A"})
    factual = tiny_processor()(images[0])["pixel_values"]
    after = factual + torch.from_numpy(out["difference"])[None, None]
    for moment, pixel_values in (("before", factual), ("after", after)):
        posterior, reported = pipe.model.predict(pixel_values), out["predictions"][moment]
        assert reported["sex"]["Female"] == pytest.approx(posterior["sex"].item(), abs=1e-4)
        assert sum(reported["sex"].values()) == pytest.approx(1)
        assert list(reported["site"].values()) == pytest.approx(posterior["site"][0].tolist(), abs=1e-4)
        mean, std = (value.item() for value in posterior["age"])
        assert reported["age"] == pytest.approx({"mean": mean, "std": std}, abs=1e-2)
    assert out["predictions"]["before"] != out["predictions"]["after"]


def test_defaults_can_be_set_when_the_pipeline_is_built(images):
    pipe = pipeline(
        COUNTERFACTUAL_TASK,
        model=tiny_model(),
        image_processor=tiny_processor(),
        do={"sex": "Female"},
        attributes={"sex": "Male"},
        batch_size=2,
    )
    assert all(out["attributes"]["sex"] == "Female" for out in pipe(images))
    assert pipe(images[0], do={"sex": "Male"})["attributes"]["sex"] == "Male"


# ---------------------------------------------------------------- a film that fails stays alone


# ---------------------------------------------------------------- what the file says


def dicom_film(tmp_path, **elements):
    pixels = np.asarray(grey_image(3, side=40))
    return save_dicom(make_dicom(pixels, **elements), tmp_path / "film.dcm")


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_header_of_a_dicom_is_used_where_nothing_is_given(pipe, tmp_path):
    path = dicom_film(tmp_path, PatientAge="063Y", PatientSex="F")
    with open(path, "rb") as file:
        content = file.read()
    for image in (path, content, {"bytes": content, "path": None}, open(path, "rb"), pydicom.dcmread(path)):
        out = pipe(image, attributes={"age": 50, "site": "B", "sex": None}, do={"sex": "Male"})
        assert out["factual_attributes"]["sex"] == "Female" and out["factual_attributes"]["age"] == 50
        assert out["given_by"] == {
            "age": "argument", "sex": "file", "site": "argument", "finding": "inferred",
        }  # fmt: skip
        assert out["inferred"] == ["finding"]
    [out] = pipe([path], do={}, batch_size=2)
    assert out["factual_attributes"]["age"] == 63 and out["given_by"]["age"] == "file"
    assert pipe(grey_image(0), do={})["given_by"] == dict.fromkeys(SCHEMA.names, "inferred")


def test_a_header_that_the_model_does_not_know_is_inferred_with_a_word(pipe, tmp_path):
    path = dicom_film(tmp_path, PatientAge="119Y", PatientSex="M")
    with pytest.warns(UserWarning, match="film.dcm.*age=119.* out of range.*age is inferred"):
        out = pipe(path, do={})
    assert out["given_by"] == {"age": "inferred", "sex": "file", "site": "inferred", "finding": "inferred"}
    assert out["factual_attributes"]["age"] <= 100


def test_an_intervention_must_be_said(pipe):
    with pytest.raises(ValueError, match="which intervention.*age, sex, site, finding"):
        pipe(grey_image(0))
