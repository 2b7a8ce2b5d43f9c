"""What the pipeline says to impossible questions, unreadable images and broken model folders."""

import os

import datasets
import pytest
from torch.utils.data import Dataset
from transformers import pipeline

import cf_cxr  # noqa: F401  (registers the task)
from cf_cxr import AttributeValueError, UnknownAttributeError
from cf_cxr.images.errors import CXRImageError
from cf_cxr.pipelines import COUNTERFACTUAL_TASK, ModelFileError
from tests.pipelines.tiny import grey_image, save_tiny, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def pipe():
    return pipeline(COUNTERFACTUAL_TASK, model=tiny_model(), image_processor=tiny_processor())


class NeverRead:
    """Fails the test if the pipeline looks at the image before it has checked the question."""

    def read(self):
        raise AssertionError("the image was read")


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"do": {"race": "White"}}, UnknownAttributeError, "'race'.*age, sex, site, finding"),
        ({"do": {"sex": "Banana"}}, AttributeValueError, "sex='Banana'.*'Male', 'Female'"),
        ({"do": {"age": -3}}, AttributeValueError, "age=-3.*0 to 100 years"),
        ({"do": {"age": "sixty"}}, AttributeValueError, "age='sixty' is not a number.*0 to 100 years"),
        ({"do": {"age": float("nan")}}, AttributeValueError, "age=nan"),
        ({"do": [{"age": 3}, {"site": "Z"}]}, AttributeValueError, "site='Z'.*'A', 'B', 'C'"),
        ({"do": []}, TypeError, "non-empty list"),
        ({"do": "sex=Female"}, TypeError, "do must be a dictionary.*sex=Female"),
        ({}, ValueError, "which intervention.*age, sex, site, finding"),
        ({"do": {}, "attributes": {"race": "White"}}, UnknownAttributeError, "'race'"),
        ({"do": {}, "attributes": {"age": "sixty"}}, AttributeValueError, "age='sixty'"),
        ({"do": {}, "attributes": {"age": 130}}, AttributeValueError, "age=130"),
        ({"do": {}, "attributes": "age=3"}, TypeError, "attributes must be a dictionary"),
        ({"do": {}, "attributes": [{"age": 3}]}, TypeError, "One image takes one dictionary"),
        ({"do": {}, "num_samples": 0}, ValueError, "num_samples.*at least 1, got 0"),
        (
            {"do": [{}, {"age": 3}], "num_samples": 10**9},
            ValueError,
            r"num_samples=1000000000 needs about [\d,.]+ GB .*2 interventions.*available on cpu. At most \d+ draws fit",
        ),
        ({"do": {}, "seed": -1}, ValueError, "seed.*at least 0, got -1"),
        ({"do": {}, "seed": 1, "generator": object()}, ValueError, "seed or generator"),
        ({"do": {}, "on_error": "ignore"}, ValueError, "on_error='ignore'.*raise, report"),
        ({"do": {}, "atributes": {}}, TypeError, "no argument atributes.*attributes"),
    ],
)
def test_impossible_question_is_refused_before_the_image_is_read(pipe, arguments, error, message):
    with pytest.raises(error, match=message):
        pipe(NeverRead(), **arguments)


def test_impossible_question_is_refused_before_a_stream_is_started(pipe):
    def films():
        raise AssertionError("the stream was started")
        yield

    with pytest.raises(AttributeValueError, match="age=-3"):
        pipe(films(), do={"age": -3})


@pytest.mark.parametrize("record", [{"age": -3}, {"weight": 80}])
def test_one_impossible_record_of_a_list_is_refused_before_any_image_is_read(pipe, record):
    with pytest.raises((AttributeValueError, UnknownAttributeError)):
        pipe([NeverRead(), NeverRead()], attributes=[{"age": 3}, record], do={})


def test_attributes_must_be_as_many_as_images(pipe):
    with pytest.raises(ValueError, match="3 entries in attributes for 2 images"):
        pipe([NeverRead(), NeverRead()], attributes=[{}, {}, {}], do={})
    short = pipe((grey_image(i) for i in range(3)), attributes=iter([{"age": 1}]), do={})
    with pytest.raises(ValueError, match="ended after 1"):
        list(short)


def test_no_image_is_refused(pipe):
    with pytest.raises(ValueError, match="Give an image"):
        pipe(None, do={})
    with pytest.raises(ValueError, match="without an image.*picture"):
        pipe({"picture": "x.png"}, do={})


@pytest.fixture
def files(tmp_path):
    """A good, a truncated, an empty, a textual and an absent image, and another good one."""
    paths = {
        name: tmp_path / f"{name}.png" for name in ("good", "truncated", "empty", "text", "absent", "last")
    }
    grey_image(0, side=40).save(paths["good"])
    grey_image(1, side=40).save(paths["last"])
    paths["truncated"].write_bytes(paths["good"].read_bytes()[:200])
    paths["empty"].touch()
    paths["text"].write_text("no image")
    return list(map(str, paths.values()))


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("as_stream", [False, True])
def test_batch_job_reports_bad_files_and_goes_on(pipe, files, batch_size, as_stream):
    inputs = (file for file in files) if as_stream else files
    outs = list(pipe(inputs, do=[{}, {"sex": "Female"}], on_error="report", batch_size=batch_size))
    assert [isinstance(out, list) for out in outs] == [True, False, False, False, False, True]
    for file, out in zip(files[1:5], outs[1:5]):
        assert out["file"] == file and os.path.basename(file) in out["error"]
    alone = pipe(files[-1], do=[{}, {"sex": "Female"}])
    assert abs(outs[-1][1]["difference"] - alone[1]["difference"]).max() < 1e-5


def test_bad_file_stops_the_job_unless_told_otherwise(pipe, files):
    with pytest.raises(CXRImageError, match="truncated.png"):
        pipe(files, do={}, batch_size=2)


def test_array_without_name_is_named_by_its_position(pipe):
    bad = [grey_image(0), grey_image(1).resize((1, 1))]
    with pytest.raises(CXRImageError, match="^image 1: .*too small"):
        pipe(bad, do={})
    assert pipe(bad, do={}, on_error="report")[1]["file"] == "image 1"


def test_undecodable_row_of_a_data_set_is_reported_with_its_file(pipe, files):
    rows = datasets.Dataset.from_dict({"image": files[:2] + files[-1:]}).cast_column(
        "image", datasets.Image()
    )
    stream = rows.to_iterable_dataset()
    for inputs in (rows["image"], rows, stream["image"], stream):
        outs = list(pipe(inputs, do={}, on_error="report", batch_size=3))
        assert ["error" in out for out in outs] == [False, True, False]
        assert outs[1]["file"] == files[1] and "truncated.png" in outs[1]["error"]


def test_bad_attributes_of_one_row_are_reported_too(pipe):
    rows = [{"image": grey_image(i), "attributes": {"age": age}} for i, age in enumerate((3, "sixty", 5))]
    outs = pipe(rows, do={}, on_error="report", batch_size=3)
    assert ["error" in out for out in outs] == [False, True, False]
    assert "age='sixty'" in outs[1]["error"]


def test_model_folder_without_weights(tmp_path):
    folder = save_tiny(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=f"{tmp_path} has no weights.*save_pretrained"):
        pipeline(COUNTERFACTUAL_TASK, model=folder)


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "empty"])
def test_corrupted_weights(tmp_path, damage):
    folder = save_tiny(tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes({"truncated": content[:-100], "overwritten": b"\xff" * 500, "empty": b""}[damage])
    with pytest.raises(ModelFileError, match=r"model\.safetensors is damaged.*again"):
        pipeline(COUNTERFACTUAL_TASK, model=folder)


def test_folder_without_configuration(tmp_path):
    with pytest.raises((OSError, ValueError), match="config.json"):
        pipeline(COUNTERFACTUAL_TASK, model=str(tmp_path))


def test_failing_torch_data_set_is_reported_by_position(pipe):
    class Films(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 1:
                raise OSError("the archive is damaged")
            return grey_image(index)

    outs = list(pipe(Films(), do={}, on_error="report", batch_size=3))
    assert outs[1] == {"error": "the archive is damaged", "file": "image 1"} and "image" in outs[2]
    with pytest.raises(OSError, match="archive"):
        list(pipe(Films(), do={}))
