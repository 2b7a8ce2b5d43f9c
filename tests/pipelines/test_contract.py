"""What holds for every pipeline: what goes in, in which order it comes out, and what becomes of films that fail."""

import os
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import ResNetConfig, ResNetModel, pipeline

from cf_cxr import AttributeValueError, OutOfDistributionWarning, UnknownAttributeError
from cf_cxr.images.errors import CXRImageError
from cf_cxr.pipelines import (
    COUNTERFACTUAL_TASK,
    EXPLANATION_TASK,
    CounterfactualPipeline,
    ExplanationPipeline,
)
from tests.images.dicom_files import make_dicom, save_dicom
from tests.pipelines.tiny import (
    flat_with_texture,
    grey_image,
    known_explainer,
    mean_classifier,
    processor_knowing,
    tiny_model,
    tiny_processor,
)

KNOWN = {"age": 63, "sex": "Male", "site": "B", "finding": "No Finding"}


@dataclass
class Case:
    """A kind of pipeline, and the options that a call of it needs."""

    task: str
    model: Any
    options: dict
    knows_attributes: bool = True

    def make(self, processor=None, **options):
        return pipeline(
            self.task,
            model=self.model(),
            image_processor=processor or tiny_processor(),
            device="cpu",
            **options,
        )

    @property
    def kind(self):
        return {COUNTERFACTUAL_TASK: CounterfactualPipeline, EXPLANATION_TASK: ExplanationPipeline}[self.task]


CASES = {
    "counterfactual": Case(COUNTERFACTUAL_TASK, tiny_model, {"do": {"sex": "Female"}}),
    "counterfactual of a flow": Case(
        COUNTERFACTUAL_TASK, lambda: tiny_model(mechanism="flow"), {"do": {"sex": "Female"}}
    ),
    "progressive": Case(EXPLANATION_TASK, known_explainer, {"classifier": mean_classifier()}, False),
    "causal": Case(EXPLANATION_TASK, tiny_model, {"class_name": "finding"}),
}
WITH_ATTRIBUTES = [name for name, case in CASES.items() if case.knows_attributes and "flow" not in name]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def pipe(case):
    return case.make(**case.options)


@pytest.fixture(scope="module")
def images():
    return [flat_with_texture(mean, seed) for seed, mean in enumerate([-0.3, 0.2, 0.05, -0.02])]


@pytest.fixture(scope="module")
def expected(pipe, images):
    return pipe(images, seed=3) if pipe.schema else pipe(images)


def same(first, second, atol=2e-4) -> bool:
    return np.allclose(first["difference"], second["difference"], atol=atol)


def failed(result) -> bool:
    return isinstance(result, dict) and "error" in result


@pytest.fixture
def call(pipe):
    """The pipeline with the seed of `expected`."""
    return (lambda *inputs, **options: pipe(*inputs, seed=3, **options)) if pipe.schema else pipe


class Films(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if isinstance(self.images[index], Exception):
            raise self.images[index]
        return self.images[index]


def test_every_kind_of_input_gives_the_same_whatever_the_batch(call, images, expected, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(len(images))]
    for image, path in zip(images, paths):
        image.save(path)
    rows = datasets.Dataset.from_dict({"image": images, "other": range(4)}).cast_column(
        "image", datasets.Image()
    )
    kinds = {
        "tuple": tuple(images),
        "paths": paths,
        "generator": (image for image in images),
        "iterator": map(np.asarray, images),
        "data set": rows,
        "column": rows["image"],
        "undecoded column": rows.cast_column("image", datasets.Image(decode=False))["image"],
        "stream": rows.to_iterable_dataset(),
        "iterable column": rows.to_iterable_dataset()["image"],
        "torch data set": Films(images),
        "array": np.stack([np.asarray(image, dtype=np.uint8)[..., None] for image in images]),
        "dictionaries": [{"image": image} for image in images],
    }  # fmt: skip
    assert isinstance(expected, list)
    for kind, inputs in kinds.items():
        got = list(call(inputs, batch_size=3))
        assert len(got) == len(images), kind
        assert all(same(a, b) for a, b in zip(got, expected)), kind
    assert call([]) == [] and list(call(iter([]))) == []


def test_streams_are_computed_on_demand(call, images):
    taken = []

    def films():
        for image in images:
            taken.append(image)
            yield image

    next(iter(call(films())))
    assert len(taken) <= 2


@pytest.mark.parametrize("name", WITH_ATTRIBUTES)
def test_attributes_go_with_their_image(name, images):
    case = CASES[name]
    pipe, image = case.make(**case.options), images[0]
    young, old = (pipe(image, attributes={**KNOWN, "age": age}) for age in (20, 90))
    assert not same(young, old, atol=1e-4)
    ages = [{**KNOWN, "age": age} for age in (20, 90)]
    table = {"image": [image, image], "age": [20.0, 90.0], "sex": [1, 1], "patient_id": ["a", "b"]}
    labels = datasets.ClassLabel(names=["Female", "Male"])  # not the model's order
    rows = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image()).cast_column("sex", labels)
    others = {name: KNOWN[name] for name in ("site", "finding")}
    for inputs, given in (
        ([image, image], ages),
        ((i for i in (image, image)), iter(ages)),
        ([{"image": image, "attributes": a} for a in ages], None),
        ([{"image": image, "age": 20}, image], {**KNOWN, "age": 90}),
        (rows, others),
    ):
        for got, wanted in zip(pipe(inputs, attributes=given, batch_size=2), (young, old), strict=True):
            assert same(got, wanted)


@pytest.mark.parametrize("name", WITH_ATTRIBUTES)
def test_the_header_of_a_dicom_is_used_where_nothing_is_given(name, tmp_path):
    case, pixels = CASES[name], np.asarray(grey_image(3, side=40))
    said, plain = (
        save_dicom(make_dicom(pixels, **header), tmp_path / f"{len(header)}.dcm")
        for header in ({"PatientAge": "020Y", "PatientSex": "M"}, {})
    )
    pipe = case.make(**case.options)
    given = pipe(plain, attributes={"age": 20, "sex": "Male"})
    assert same(pipe(said), given)
    assert not same(pipe(said, attributes={"age": 90}), given, atol=1e-5)


# ---------------------------------------------------------------- impossible questions


class NeverRead:
    """Fails the test if the pipeline looks at the image before it has checked the question."""

    def read(self):
        raise AssertionError("the image was read")


EVERY = [
    ({"on_error": "ignore"}, ValueError, "on_error='ignore'.*raise, report"),
    ({"invert": "twice"}, ValueError, "invert='twice' is unknown"),
    ({"invert": "auto"}, ValueError, "knows its usual films"),
    ({"seed": -1}, ValueError, "seed.*at least 0, got -1"),
    ({"atributes": {}}, TypeError, "no argument atributes; it takes"),
]
COUNTERFACTUAL = [
    ({"do": {"race": "White"}}, UnknownAttributeError, "'race'.*age, sex, site, finding"),
    ({"do": {"sex": "Banana"}}, AttributeValueError, "sex='Banana'.*'Male', 'Female'"),
    ({"do": {"age": -3}}, AttributeValueError, "age=-3.*0 to 100 years"),
    ({"do": {"age": "sixty"}}, AttributeValueError, "age='sixty' is not a number.*0 to 100 years"),
    ({"do": {"age": float("nan")}}, AttributeValueError, "age=nan"),
    ({"do": [{"age": 3}, {"site": "Z"}]}, AttributeValueError, "site='Z'.*'A', 'B', 'C'"),
    ({"do": []}, TypeError, "non-empty list"),
    ({"do": "sex=Female"}, TypeError, "do must be a dictionary.*sex=Female"),
    ({"num_samples": 0}, ValueError, "num_samples.*at least 1, got 0"),
    (
        {"do": [{}, {"age": 3}], "num_samples": 10**9},
        ValueError,
        r"num_samples=1000000000 needs about [\d,.]+ GB .*2 interventions.*available on cpu. At most \d+ draws fit",
    ),
    ({"seed": 1, "generator": object()}, ValueError, "seed or generator"),
]
ATTRIBUTES = [
    ({"attributes": {"race": "White"}}, UnknownAttributeError, "'race'"),
    ({"attributes": {"age": "sixty"}}, AttributeValueError, "age='sixty'"),
    ({"attributes": {"age": 130}}, AttributeValueError, "age=130"),
    ({"attributes": "age=3"}, TypeError, "attributes must be a dictionary"),
    ({"attributes": [{"age": 3}]}, TypeError, "One image takes one dictionary"),
]
EXPLANATION = [
    ({"steps": 1}, ValueError, "steps must be a whole number of at least 2, got 1"),
    ({"steps": 10**9}, ValueError, "steps must be at most 1000, got 1000000000"),
    ({"steps": 2.5}, ValueError, "steps.*got 2.5"),
    ({"target": 1.5}, ValueError, "target must be a posterior.*got 1.5"),
    ({"target": float("nan")}, ValueError, "target"),
    ({"do": {}}, TypeError, "no argument do; it takes classifier"),
]
PROGRESSIVE = [
    ({"attributes": {"age": 3}}, TypeError, "attributes is for a causal model"),
    ({"variable": "finding"}, TypeError, "variable is for a causal model"),
]
QUESTIONS = {
    "counterfactual": [*EVERY, *ATTRIBUTES, *COUNTERFACTUAL],
    "progressive": [*EVERY, *EXPLANATION, *PROGRESSIVE],
    "causal": [*EVERY, *ATTRIBUTES, *EXPLANATION],
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_impossible_questions_are_refused_before_an_image_is_read(name):
    case = CASES[name]
    pipe = case.make()

    def films():
        yield NeverRead()
        raise AssertionError("the stream was started")

    for arguments, error, message in QUESTIONS[name]:
        options = {**case.options, **arguments}
        with pytest.raises(error, match=message):
            pipe(NeverRead(), **options)
        if not isinstance(arguments.get("attributes"), list):
            with pytest.raises(error, match=message):
                pipe(films(), **options)
    with pytest.raises(ValueError, match="Give an image"):
        pipe(**case.options)
    with pytest.raises(ValueError, match="without an image.*picture"):
        pipe({"picture": "x.png"}, **case.options)
    if case.knows_attributes:
        for record in ({"age": -3}, {"weight": 80}):
            with pytest.raises((AttributeValueError, UnknownAttributeError)):
                pipe([NeverRead()] * 2, attributes=[{"age": 3}, record], **case.options)
        with pytest.raises(ValueError, match="3 entries in attributes for 2 images"):
            pipe([NeverRead()] * 2, attributes=[{}] * 3, **case.options)
        with pytest.raises(ValueError, match="ended after 1"):
            list(pipe((grey_image(i) for i in range(3)), attributes=iter([{"age": 1}]), **case.options))
        with pytest.raises(TypeError, match="Default attributes are one dictionary"):
            case.make(attributes=[{"age": 3}])


def test_wrong_parts_are_refused_and_the_model_is_put_into_evaluation(case):
    with pytest.raises(TypeError, match="ResNetModel cannot (make counterfactuals|explain a classifier)"):
        case.kind(ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])))
    with pytest.raises(TypeError, match="needs the image processor"):
        case.kind(case.model())
    assert not case.kind(case.model().train(), image_processor=tiny_processor()).model.training


def test_a_saved_pipeline_is_reloaded_without_code(case, pipe, images, expected, tmp_path):
    pipe.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"config.json", "model.safetensors", "preprocessor_config.json"}
    again = pipeline(case.task, model=str(tmp_path), device="cpu", **case.options)
    assert isinstance(again, case.kind)
    if case.model is not known_explainer:  # whose decoder is not in its weights
        assert same(again(images, seed=3)[0], expected[0])


# ---------------------------------------------------------------- a film that fails stays alone


@pytest.mark.parametrize("batch_size", [1, 4])
def test_bad_files_are_reported_and_the_rest_goes_on(call, batch_size, tmp_path):
    paths = {
        name: tmp_path / f"{name}.png" for name in ("good", "truncated", "empty", "text", "absent", "last")
    }
    grey_image(0, side=40).save(paths["good"])
    grey_image(1, side=40).save(paths["last"])
    paths["truncated"].write_bytes(paths["good"].read_bytes()[:200])
    paths["empty"].touch()
    paths["text"].write_text("no image")
    files = list(map(str, paths.values()))
    stored = [file for file in files if os.path.exists(file)]
    rows = datasets.Dataset.from_dict({"image": stored}).cast_column("image", datasets.Image())
    good = call([grey_image(0, side=40)] * 5 + [grey_image(1, side=40)])
    for names, inputs in (
        (files, files),
        (files, (file for file in files)),
        (stored, rows),
        (stored, rows.to_iterable_dataset()["image"]),
    ):
        outs = list(call(inputs, on_error="report", batch_size=batch_size))
        assert [failed(out) for out in outs] == [False, *[True] * (len(names) - 2), False]
        for file, out in zip(names[1:-1], outs[1:-1]):
            assert out["file"] == file and os.path.basename(file) in out["error"]
        assert same(outs[0], good[0]) and (len(names) == 5 or same(outs[-1], good[-1]))
    with pytest.raises(CXRImageError, match="truncated.png"):
        call(files, batch_size=2)


def test_what_has_no_name_is_named_by_its_position(call):
    bad = [grey_image(0), grey_image(1).resize((1, 1))]
    with pytest.raises(CXRImageError, match="^image 1: .*too small"):
        call(bad)
    assert call(bad, on_error="report")[1]["file"] == "image 1"
    broken = Films([grey_image(0), OSError("the archive is damaged"), grey_image(2)])
    outs = list(call(broken, on_error="report", batch_size=3))
    assert outs[1] == {"error": "the archive is damaged", "file": "image 1"} and not failed(outs[2])
    with pytest.raises(OSError, match="archive"):
        list(call(broken))


@pytest.mark.parametrize("name", WITH_ATTRIBUTES)
def test_bad_attributes_of_one_row_are_reported_too(name):
    case = CASES[name]
    rows = [{"image": grey_image(i), "attributes": {"age": age}} for i, age in enumerate((3, "sixty", 5))]
    outs = case.make(**case.options)(rows, on_error="report", batch_size=3)
    assert [failed(out) for out in outs] == [False, True, False] and "age='sixty'" in outs[1]["error"]


@pytest.mark.filterwarnings("ignore")
def test_a_dicom_whose_pixels_overflow_is_reported_alone(call, images, tmp_path):
    pixels = np.asarray(grey_image(3, side=40)).astype(np.uint16)
    path = save_dicom(make_dicom(pixels, RescaleSlope="1e308", RescaleIntercept="0"), tmp_path / "big.dcm")
    bad, good = call([path, images[0]], on_error="report", batch_size=2)
    assert bad["file"] == path and not failed(good)
    with pytest.raises(ValueError):
        call(path)


def two_in_one(a, b):
    """Ways in which one item holds several films."""
    arrays = np.stack([np.asarray(a), np.asarray(b)])
    return {
        "list": [a, b],
        "tuple": (a, b),
        "list of one": [a],
        "dictionary": {"image": [a, b]},
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
    call, images, expected, as_stream
):
    for kind in two_in_one(*images[:2]):
        inputs = [two_in_one(*images[:2])[kind], images[1]]
        inputs = iter(inputs) if as_stream else inputs
        bad, good = list(call(inputs, batch_size=2, on_error="report"))
        assert bad["file"] == "image 0" and "image" in bad["error"], kind
        assert same(good, expected[1]), kind
        with pytest.raises(CXRImageError, match="image 0: "):
            list(call([two_in_one(*images[:2])[kind], images[2]]))
    with pytest.raises(CXRImageError, match=r"image 0: a list in the place of one image.*\[a, b, c\]"):
        call([images[:2]])
    with pytest.raises(CXRImageError, match="the image: a dict_values in the place of one"):
        call({"a": images[0]}.values())


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("stage", ["compute", "finish"])
def test_a_film_that_fails_in_the_model_or_afterwards_is_reported_alone(
    pipe, call, images, expected, monkeypatch, stage, batch_size
):
    marked, works = tiny_processor()(images[1])["pixel_values"], getattr(pipe, stage)

    def fails(first, *arguments, **options):
        pixels = first if stage == "compute" else first.get("query", first.get("factual_image"))[None]
        if (pixels == marked).flatten(1).all(1).any():
            raise RuntimeError("no such film")
        return works(first, *arguments, **options)

    monkeypatch.setattr(pipe, stage, fails)
    first, bad, last = call(images[:3], batch_size=batch_size, on_error="report")
    assert bad == {"error": "no such film", "file": "image 1"}
    assert same(first, expected[0]) and same(last, expected[2])
    with pytest.raises(RuntimeError, match="no such film"):
        call(images[:3], batch_size=batch_size)


def test_what_fails_for_every_film_is_no_films_fault(pipe, call, images, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("weights diverged")

    monkeypatch.setattr(pipe, "compute", broken)
    with pytest.raises(RuntimeError, match="weights diverged"):
        call(images, on_error="report", batch_size=2)


# ---------------------------------------------------------------- images unlike those of the training


def test_an_unusual_image_is_warned_about_once_and_can_be_put_right(case, recwarn):
    image = flat_with_texture(0.1)
    negative = Image.fromarray(255 - np.asarray(image))
    pipe = case.make(processor_knowing(image), **case.options)
    usual, odd = pipe([image, negative], batch_size=2)
    told = [str(w.message) for w in recwarn if w.category is OutOfDistributionWarning]
    assert len(told) == 1 and told[0].startswith("image 1: the image looks inverted, unlike those")
    assert usual["out_of_distribution"] is None and odd["out_of_distribution"]["looks"] == "inverted"
    with pytest.warns(OutOfDistributionWarning, match="looked inverted and was inverted back"):
        corrected = pipe(negative, invert="auto")
    assert corrected["out_of_distribution"]["corrected"]
    assert same(corrected, pipe(image), atol=1e-4)
    assert pipe(negative, invert=True)["out_of_distribution"] is None
    if case.task == EXPLANATION_TASK:
        assert usual.warnings == () and odd.warnings[0].startswith("The image looks inverted")
