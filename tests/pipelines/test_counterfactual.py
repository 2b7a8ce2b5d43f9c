"""The pipeline on a tiny model: what goes in, what comes out, and that batching and seeding do not change answers."""

import datasets
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetModel, pipeline

import cf_cxr
from cf_cxr.images.errors import CXRImageError
from cf_cxr.pipelines import COUNTERFACTUAL_TASK, CounterfactualPipeline
from tests.images.dicom_files import make_dicom, save_dicom
from tests.pipelines.tiny import (
    SCHEMA,
    SIDE,
    grey_image,
    processor_knowing,
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
@pytest.mark.parametrize("batch_size", [2, 5])
def test_batch_size_does_not_change_the_answer(pipe, images, num_samples, batch_size):
    settings = {"do": [{"age": 48}, {"sex": "Female"}], "num_samples": num_samples, "seed": 3}
    for one, many in zip(pipe(images, **settings), pipe(images, batch_size=batch_size, **settings)):
        assert all(same(a, b) for a, b in zip(one, many))


def test_seed_repeats_and_generator_is_used(pipe, images):
    def draw(**source):
        return pipe(images[0], do={"sex": "Female"}, num_samples=2, **source)["std"]

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


def test_num_samples_gives_mean_and_standard_deviation(pipe, images):
    out = pipe(images[0], attributes=KNOWN, do={"sex": "Female"}, num_samples=4, seed=0)
    assert out["std"].shape == (SIDE, SIDE) and out["std"].min() >= 0 and out["std"].max() > 0


def test_every_kind_of_input_gives_the_same(pipe, images):
    settings = {"attributes": KNOWN, "do": {"sex": "Female"}, "seed": 0}
    expected = pipe(images, **settings)
    assert isinstance(expected, list)

    class Films(Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            return images[index]

    rows = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
    arrays = np.stack([np.asarray(image, dtype=np.uint8)[..., None] for image in images])
    kinds = {
        "tuple": tuple(images),
        "generator": (image for image in images),
        "iterator": map(np.asarray, images),
        "column": rows["image"],
        "undecoded column": rows.cast_column("image", datasets.Image(decode=False))["image"],
        "iterable column": rows.to_iterable_dataset()["image"],
        "torch data set": Films(),
        "array": arrays,
        "dictionaries": [{"image": image, "attributes": KNOWN} for image in images],
    }
    for kind, inputs in kinds.items():
        got = list(pipe(inputs, batch_size=2, **settings))
        assert len(got) == len(images), kind
        assert all(same(a, b) for a, b in zip(got, expected)), kind


def test_streams_are_computed_on_demand(pipe, images):
    taken = []

    def films():
        for image in images:
            taken.append(image)
            yield image

    outputs = iter(pipe(films(), do={"sex": "Female"}))
    next(outputs)
    assert len(taken) <= 2


def test_attributes_go_with_their_image(pipe, images):
    records = [{"age": 20 + i, "sex": "Male"} for i in range(5)]
    for inputs in (images, (image for image in images)):
        outs = list(pipe(inputs, attributes=records, do={"sex": "Female"}, batch_size=2))
        assert [out["factual_attributes"]["age"] for out in outs] == [20, 21, 22, 23, 24]
    mixed = [{"image": images[0], "attributes": {"age": 30}}, images[1]]
    outs = pipe(mixed, attributes={"age": 50, "sex": "Female"}, do={})
    assert [out["factual_attributes"]["age"] for out in outs] == [30, 50]
    assert all(out["factual_attributes"]["sex"] == "Female" for out in outs)


def test_rows_of_a_data_set_bring_their_attributes(pipe, images):
    table = datasets.Dataset.from_dict(
        {"image": images[:3], "age": [40.0, None, 50.0], "sex": [1, 0, -1], "patient_id": ["a", "b", "c"]},
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "age": datasets.Value("float32"),
                "sex": datasets.ClassLabel(names=["Female", "Male"]),  # not the model's order
                "patient_id": datasets.Value("string"),
            }
        ),
    )
    first, second, third = pipe(table, do={}, batch_size=2)
    assert "sex" in third["inferred"]  # -1 is what `datasets` writes for a label that is not known
    assert first["factual_attributes"]["age"] == 40 and first["factual_attributes"]["sex"] == "Male"
    assert first["inferred"] == ["site", "finding"]
    assert second["factual_attributes"]["sex"] == "Female" and "age" in second["inferred"]


def test_saved_pipeline_is_reloaded_without_code(pipe, images, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    again = pipeline(COUNTERFACTUAL_TASK, model=str(tmp_path), device="cpu")
    assert isinstance(again, CounterfactualPipeline)
    assert same(pipe(images[0], do={"sex": "Female"}, seed=0), again(images[0], do={"sex": "Female"}, seed=0))


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


def test_an_unusual_image_is_warned_about_once_and_can_be_put_right(images, recwarn):
    negative = Image.fromarray(255 - np.asarray(images[0]))
    pipe = CounterfactualPipeline(tiny_model(), image_processor=processor_knowing(images[0]))
    two = [{"sex": "Male"}, {"sex": "Female"}]
    results = pipe([images[0], negative], do=two, batch_size=2)
    told = [str(w.message) for w in recwarn if w.category is cf_cxr.OutOfDistributionWarning]
    assert len(told) == 1 and told[0].startswith("image 1: the image looks inverted, unlike those")
    assert [[r["out_of_distribution"] is None for r in of_one] for of_one in results] == [
        [True] * 2,
        [False] * 2,
    ]
    assert results[1][0]["out_of_distribution"]["looks"] == "inverted"
    with pytest.warns(cf_cxr.OutOfDistributionWarning, match="looked inverted and was inverted back"):
        corrected = pipe(negative, do={"sex": "Male"}, invert="auto")
    assert corrected["out_of_distribution"]["corrected"]
    assert np.array_equal(levels(corrected["factual_image"]), levels(results[0][0]["factual_image"]))
    assert pipe(negative, do={"sex": "Male"}, invert=True)["out_of_distribution"] is None
    with pytest.raises(ValueError, match="invert='twice' is unknown"):
        pipe(images[0], do={}, invert="twice")
    with pytest.raises(ValueError, match="knows its usual films"):
        CounterfactualPipeline(tiny_model(), image_processor=tiny_processor())(
            images[0], do={}, invert="auto"
        )


def test_model_in_training_mode_is_put_into_evaluation(images):
    model = tiny_model().train()
    assert not CounterfactualPipeline(model, image_processor=tiny_processor()).model.training


def test_wrong_parts_are_refused(images):
    resnet = ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1]))
    with pytest.raises(TypeError, match="ResNetModel cannot make counterfactuals"):
        CounterfactualPipeline(resnet, image_processor=tiny_processor())
    with pytest.raises(TypeError, match="needs the image processor"):
        CounterfactualPipeline(tiny_model())


def test_empty_list_gives_empty_list(pipe):
    assert pipe([], do={}) == []


# ---------------------------------------------------------------- a film that fails stays alone


def two_in_one(images):
    """Ways in which one item holds several films."""
    a, b = images[:2]
    arrays = np.stack([np.asarray(a), np.asarray(b)])
    return {
        "list": [a, b],
        "tuple": (a, b),
        "list of one": [a],
        "dictionary": {"image": [a, b], "attributes": KNOWN},
        "columns of a data set": {"image": [a, b], "age": [3, 4]},
        "array (2, H, W)": arrays,
        "array (2, 1, H, W)": arrays[:, None],
        "tensor in a dictionary": {"image": torch.from_numpy(arrays)[:, None]},
        "array (2, 2, 1, H, W)": np.stack([arrays[:, None]] * 2),
        "iterator": iter([a, b]),
        "values of a dictionary": {"a": a, "b": b}.values(),
    }


@pytest.mark.parametrize("as_stream", [False, True])
def test_several_films_in_the_place_of_one_are_refused_and_no_film_gets_anothers_answer(
    pipe, images, as_stream
):
    expected = pipe(images[2], do={"sex": "Female"}, attributes=KNOWN)
    for kind in two_in_one(images):
        inputs = [two_in_one(images)[kind], images[2]]
        inputs = iter(inputs) if as_stream else inputs
        settings = {"do": {"sex": "Female"}, "attributes": KNOWN, "batch_size": 2}
        bad, good = list(pipe(inputs, **settings, on_error="report"))
        assert bad["file"] == "image 0" and "image" in bad["error"], kind
        assert same(good, expected), kind
        with pytest.raises(CXRImageError, match="image 0: "):
            list(pipe([two_in_one(images)[kind], images[2]], **settings))
    with pytest.raises(CXRImageError, match=r"image 0: a list in the place of one image.*\[a, b, c\]"):
        pipe([images[:2]], do={})
    with pytest.raises(CXRImageError, match="the image: a dict_values in the place of one"):
        pipe({"a": images[0]}.values(), do={})


def test_a_film_that_fails_in_the_model_or_afterwards_is_reported_alone(pipe, images, monkeypatch):
    settings = {"do": [{"sex": "Female"}], "attributes": KNOWN, "seed": 0}
    expected = pipe(images[:3], **settings)
    marked = tiny_processor()(images[1])["pixel_values"]
    abduct, post = pipe.model.abduct, pipe.image_processor.postprocess

    def fails_in_the_model(pixel_values, *arguments, **options):
        if (pixel_values == marked).flatten(1).all(1).any():
            raise RuntimeError("no such film")
        return abduct(pixel_values, *arguments, **options)

    def fails_afterwards(pixel_values, **options):
        if torch.equal(pixel_values[:1], marked):
            raise RuntimeError("no such film")
        return post(pixel_values, **options)

    for part, name, fails in (
        (pipe.model, "abduct", fails_in_the_model),
        (pipe.image_processor, "postprocess", fails_afterwards),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(part, name, fails)
            for batch_size in (1, 3):
                first, bad, last = pipe(images[:3], **settings, batch_size=batch_size, on_error="report")
                assert bad == {"error": "no such film", "file": "image 1"}
                assert same(first[0], expected[0][0]) and same(last[0], expected[2][0])
            with pytest.raises(RuntimeError, match="no such film"):
                pipe(images[:3], **settings, batch_size=3)


def test_what_fails_for_every_film_is_no_films_fault(pipe, images, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("weights diverged")

    monkeypatch.setattr(pipe.model, "abduct", broken)
    with pytest.raises(RuntimeError, match="weights diverged"):
        pipe(images, do={}, on_error="report", batch_size=2)


@pytest.mark.filterwarnings("ignore")
def test_a_dicom_whose_pixels_overflow_is_reported_alone(pipe, images, tmp_path):
    pixels = np.asarray(grey_image(3, side=40)).astype(np.uint16)
    path = save_dicom(make_dicom(pixels, RescaleSlope="1e308", RescaleIntercept="0"), tmp_path / "big.dcm")
    bad, good = pipe([path, images[0]], do={}, on_error="report", batch_size=2)
    assert bad["file"] == path and "image" in good
    with pytest.raises(ValueError):
        pipe(path, do={})


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
