"""The `cf-cxr` command: what it prints and writes, and what it refuses."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

import cf_cxr
from cf_cxr.cli import main as cli
from cf_cxr.cli.counterfactual import opposites
from cf_cxr.cli.files import UsageError, free_name, plan_output, write_png
from cf_cxr.cli.shared import parse_assignments
from tests.images.dicom_files import make_dicom, save_dicom
from tests.pipelines.tiny import SCHEMA, SIDE, grey_image, processor_knowing, save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with two X-rays and a file that is none."""
    monkeypatch.chdir(tmp_path)
    grey_image(0, side=40).save("a.png")
    grey_image(1, side=40).save("b.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    return tmp_path


def written(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {
        "a.png",
        "b.png",
        "broken.png",
    }


def test_two_questions_make_a_picture_and_a_table(here, model, capsys):
    command = [
        "counterfactual",
        "a.png",
        "--model",
        model,
        "--attribute",
        "age=63",
        "--attribute",
        "sex=Male",
    ]
    assert cli.main([*command, "--do", "finding=Effusion", "--do", "sex=Female,age=80"]) == 0
    out, err = capsys.readouterr()
    assert written(here) == {"outputs/a_counterfactual.png", "outputs/a_counterfactual.json"}
    with Image.open("outputs/a_counterfactual.png") as picture:
        assert picture.width > 3 * 200
    assert "do(finding=Effusion)" in out and "do(sex=Female, age=80)" in out
    [row] = [line for line in out.splitlines() if line.startswith("do(sex=Female, age=80)")]
    assert re.search(r"\d+\.\d/255 +age +63 years +80 years +\d+ ± \d+ +\d+ ± \d+", row)
    assert re.search(r"sex +Male +Female +P\(Female\) = 0\.\d\d +P\(Female\) = 0\.\d\d", out)
    assert "(inferred)" in out and "not for diagnosis" in out and err == ""


def test_an_inverted_film_is_said_and_put_right_when_asked(here, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("knowing")
    command = ["counterfactual", "negative.png", "a.png", "--model", save_tiny(folder), "--do", "sex=Male"]
    processor_knowing(Image.open("a.png")).save_pretrained(folder)
    Image.fromarray(255 - np.asarray(Image.open("a.png"))).save("negative.png")
    assert cli.main([*command, "--output", "first"]) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("cf-cxr: warning: negative.png: the image looks inverted, unlike those")
    assert cli.main([*command, "--output", "second", "--invert", "auto"]) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line == "cf-cxr: warning: negative.png: the image looked inverted and was inverted back."
    for folder, corrected in (("first", False), ("second", True)):
        odd, usual = json.loads((here / folder / "counterfactual.json").read_text())["images"]
        assert odd["out_of_distribution"]["corrected"] is corrected and usual["out_of_distribution"] is None


def test_joint_makes_one_intervention(here, model, capsys):
    command = ["counterfactual", "a.png", "--model", model, "--do", "sex=Female", "--do", "age=80", "--joint"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.count("do(") == 1


def test_directory_holds_the_counterfactuals_and_bad_files_are_reported(here, model, capsys):
    command = ["counterfactual", "a.png", "broken.png", "b.png", "--model", model, "--output", "results"]
    assert cli.main([*command, "--do", "sex=Female", "--batch-size", "2"]) == 1
    out, err = capsys.readouterr()
    assert written(here) == {
        f"results/{name}_{kind}.png" for name in "ab" for kind in ("grid", "do_sex=Female")
    } | {"results/counterfactual.json"}
    with Image.open("results/b_do_sex=Female.png") as counterfactual:
        assert counterfactual.size == (SIDE, SIDE) and counterfactual.mode == "L"
    assert re.search(r"cf-cxr: error: .*broken\.png", err) and "1 of 3 images" in err
    assert "Traceback" not in err


def test_only_bad_files_leave_nothing_behind(here, model, capsys):
    assert cli.main(["counterfactual", "broken.png", "--model", model, "--do", "sex=Female"]) == 1
    assert written(here) == set() and "broken.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], r"--do finding=Effusion.*\n.*model knows.*\n *age: 0 to 100 years\n *sex: Male \| Female"),
        (["--do", "sex=Banana"], "sex='Banana'.*'Male', 'Female'"),
        (["--do", "age=-3"], "age=-3.*0 to 100 years"),
        (["--do", "age=sixty"], "age='sixty' is not a number"),
        (["--do", "race=White"], "Unknown attribute 'race'.*age, sex, site, finding"),
        (["--do", "Female"], "--do 'Female': write NAME=VALUE"),
        (["--do", ""], "--do '': write NAME=VALUE"),
        (["--do", "age=3,age=4"], "age is given twice, as '3' and '4'"),
        (["--do", "age=3", "--do", "age=4", "--joint"], "age is given twice"),
        (["--do", "age=3", "--attribute", "sex"], "--attribute 'sex': write NAME=VALUE"),
        (["--do", "age=3", "--attribute", "sex=Banana"], "sex='Banana'"),
        (["--do", "age=3", "--output", "x.jpg"], "x.jpg: give a name that ends in .png, or a directory"),
        (["--do", "age=3", "--output", "a.png"], "a.png exists; choose another --output"),
        (["--do", "age=3", "--output", "a.png/x"], "a.png"),
        (["--do", "age=3", "--num-samples", "0"], "num_samples.*got 0"),
        (["--do", "age=3", "--num-samples", "1000000000"], "num_samples=1000000000 needs about .* GB"),
        (["--do", "age=3", "--seed", "-1"], "seed.*got -1"),
        (["--do", "age=3", "--json", "a.png"], "a.png exists; choose another --output"),
        (["--do", "age=3", "--json", "a.png", "--overwrite"], "a.png is one of the images"),
        (["--do", "age=3", "--output", "a.png", "--overwrite"], "a.png is one of the images"),
        (["--do", "age=3", "--json", "x.png", "--output", "x.png"], "x.png is to hold two things"),
        (["--do", "age=3", "--json", "."], r"\. is a folder, but a file is to be written"),
        (["--do", "age=3", "--output", "a.png/x.png"], "a.png is a file, but a folder is needed"),
        (["--do", "age=3", "--output", "/proc/none/x.png"], "Nothing can be written|No such file"),
        (["--do", "age=3", "--output", "x" * 300], "too long"),
        *[
            (["--do", "age=3", "--device", d], f"--device {d} cannot be used here.*use --device cpu")
            for d in ("toaster", "mps", "meta", "vulkan", "cuda:7")
        ],
        (["--do", "age=3", "--model", "/nope"], "There is no model folder '/nope'"),
        (["--do", "age=3", "--model", "nope/"], "There is no model folder 'nope/'"),
        (["--do", "age=3", "--model", ""], "There is no model folder ''"),
        (["--do", "age=3", "--model", "nope/deeper/still"], "There is no model folder 'nope/deeper/still'"),
    ],
)
def test_usage_errors_are_explained_and_write_nothing(here, model, capsys, arguments, message):
    before = (here / "a.png").read_bytes()
    assert cli.main(["counterfactual", "a.png", "--model", model, *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("cf-cxr: error: ") and re.search(message, err) and "Traceback" not in err
    assert written(here) == set() and (here / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--output", ""], "--output: it is empty"),
        (["--json", " "], "--json: it is empty"),
        (["--dtype", "int3"], "--dtype: invalid choice"),
        (["--num-samples", "many"], "--num-samples: invalid int"),
    ],
)
def test_wrong_arguments_end_with_a_line(here, model, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(["counterfactual", "a.png", "--model", model, "--do", "age=3", *arguments])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and re.search(message, err.splitlines()[-1]) and written(here) == set()


def test_the_traceback_of_any_error_is_for_debug(here, model, capsys, monkeypatch):
    def bug(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr("cf_cxr.cli.counterfactual.mechanism_options", bug)
    command = ["counterfactual", "a.png", "--model", model, "--do", "sex=Female"]
    assert cli.main(command) == 2
    assert capsys.readouterr().err == "cf-cxr: error: RuntimeError: a bug (see --debug)\n"
    assert cli.main([*command, "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and 'raise RuntimeError("a bug")' in err


@pytest.mark.parametrize("name", [b"bad\xff.png", b"$\\frac{$.png"])
def test_odd_file_names(here, model, capsys, name):
    (here / os.fsdecode(name)).write_bytes((here / "a.png").read_bytes())
    assert cli.main(["counterfactual", os.fsdecode(name), "--model", model, "--do", "sex=Female"]) == 0
    shown = name.decode("utf-8", "backslashreplace")
    out, err = capsys.readouterr()
    assert (
        out.startswith(f"{shown}\n") and f"Wrote outputs/{shown[:-4]}_counterfactual.png" in out and err == ""
    )
    [record] = (here / "outputs").glob("*.json")
    assert json.loads(record.read_text(encoding="ascii"))["images"][0]["file"] == shown
    assert (
        cli.main(["counterfactual", "none" + os.fsdecode(name), "--model", model, "--do", "sex=Female"]) == 1
    )
    assert "no such file" in capsys.readouterr().err


def test_the_record_has_the_tables_numbers_and_where_they_come_from(here, model, capsys):
    pixels = np.asarray(grey_image(3, side=40))
    save_dicom(make_dicom(pixels, PatientAge="063Y", PatientSex="F"), here / "c.dcm")
    command = ["counterfactual", "c.dcm", "broken.png", "--model", model, "--attribute", "site=B"]
    command += ["--do", "sex=Female", "--do", "sex=Male,age=63", "--seed", "5", "--output", "x.png"]
    assert cli.main([*command, "--json", "numbers/x.json"]) == 1
    assert (here / "x.png").is_file() and not (here / "x.json").exists()
    record = json.loads((here / "numbers" / "x.json").read_text())
    assert record["cf_cxr"] == cf_cxr.__version__ and record["model"] == model and record["seed"] == 5
    assert re.fullmatch("sha256:[0-9a-f]{64}", record["weights"]) and record["num_samples"] == 1
    good, bad = record["images"]
    assert bad["file"] == "broken.png" and "broken.png" in bad["error"]
    assert good["given_by"] == {"age": "file", "sex": "file", "site": "argument", "finding": "inferred"}
    first, second = good["counterfactuals"]
    assert first["do"] == {"sex": "Female"} and first["already"] == ["sex"] and first["mean_change"] < 1
    assert second["do"] == {"sex": "Male", "age": 63} and second["already"] == ["age"]
    assert second["attributes"]["sex"] == "Male" and 0 <= second["predictions"]["sex"]["Male"] <= 1
    out = capsys.readouterr().out
    assert "do(sex=Female): already Female" in out and "do(sex=Male, age=63): already 63 years" in out
    assert (
        f"{second['mean_change']:.1f}/255" in out
        and "63 years (file)" in out
        and "Wrote x.png and numbers/x.json" in out
    )


def test_a_picture_that_cannot_be_written_does_not_lose_the_others(here, model, capsys, monkeypatch):
    def fails(image, path, overwrite=False):
        if path.name.startswith("a_"):
            raise OSError("no room for a")
        write_png(image, path, overwrite)

    monkeypatch.setattr("cf_cxr.cli.counterfactual.write_png", fails)
    command = ["counterfactual", "a.png", "b.png", "--model", model, "--do", "sex=Female", "--output", "out"]
    assert cli.main(command) == 1
    assert written(here) == {"out/b_grid.png", "out/b_do_sex=Female.png", "out/counterfactual.json"}
    assert "cf-cxr: error: a.png: no room for a" in capsys.readouterr().err
    record = json.loads((here / "out" / "counterfactual.json").read_text())
    assert (
        record["images"][0] == {"file": "a.png", "error": "no room for a"}
        and "given_by" in record["images"][1]
    )


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_broken_model_is_explained(here, tmp_path_factory, capsys, damage):
    folder = tmp_path_factory.mktemp("broken")
    save_tiny(folder)
    weights = folder / "model.safetensors"
    weights.unlink() if damage == "missing" else weights.write_bytes(weights.read_bytes()[:-10])
    assert cli.main(["counterfactual", "a.png", "--model", str(folder), "--do", "sex=Female"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("cf-cxr: error: ") and str(folder) in err and len(err.splitlines()) == 1


def test_existing_output_is_only_replaced_when_asked(here, model, capsys):
    command = ["counterfactual", "a.png", "--model", model, "--do", "sex=Female", "--output", "x.png"]
    (here / "x.png").write_text("mine")
    assert cli.main(command) == 2
    assert "x.png exists" in capsys.readouterr().err and (here / "x.png").read_text() == "mine"
    no_model = [*command[:3], "./no/model", *command[4:]]
    assert cli.main(no_model) == 2 and "x.png exists" in capsys.readouterr().err  # before anything is loaded
    assert cli.main([*command, "--overwrite"]) == 0
    with Image.open("x.png") as picture:
        assert picture.format == "PNG"


def test_one_existing_file_in_a_directory_refuses_the_whole_run(here, model, capsys):
    (here / "results").mkdir()
    (here / "results" / "b_do_sex=Female.png").write_text("mine")
    command = [
        "counterfactual",
        "a.png",
        "b.png",
        "--model",
        model,
        "--do",
        "sex=Female",
        "--output",
        "results",
    ]
    assert cli.main(command) == 2
    assert "b_do_sex=Female.png exists" in capsys.readouterr().err
    assert written(here) == {"results/b_do_sex=Female.png"}


def test_failed_write_leaves_no_partial_file(tmp_path):
    class Fails:
        def save(self, path, format):
            path.write_bytes(b"half")
            raise OSError("disk full")

    target = tmp_path / "new" / "x.png"
    with pytest.raises(OSError, match="disk full"):
        write_png(Fails(), target)
    assert list(target.parent.iterdir()) == []
    target.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        write_png(grey_image(0), target)
    assert target.read_text() == "mine" and len(list(target.parent.iterdir())) == 1


def test_demo_shows_every_example_under_every_intervention(here, model, capsys, monkeypatch):
    assert cli.main(["demo", "--model", model]) == 0
    out = capsys.readouterr().out
    from cf_cxr import example_images

    examples = example_images()
    assert all(example.path.name in out for example in examples)
    assert out.count("do(") == SCHEMA.n * len(examples)
    assert "Wrote outputs/cf_cxr_demo.png" in out and written(here) == {"outputs/cf_cxr_demo.png"}
    monkeypatch.setattr("cf_cxr.cli.counterfactual.example_images", lambda: examples[:1])
    assert cli.main(["demo", "--model", model]) == 0
    assert "Wrote outputs/cf_cxr_demo_2.png" in capsys.readouterr().out
    assert written(here) == {"outputs/cf_cxr_demo.png", "outputs/cf_cxr_demo_2.png"}


def test_help_teaches_by_example(capsys):
    for arguments in (["--help"], ["counterfactual", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        out = capsys.readouterr().out
        assert stop.value.code == 0 and "cf-cxr counterfactual chest.png --do finding=Effusion" in out


def test_assignments():
    assert parse_assignments(["sex=Female,age=80", "site=A"], "--do") == {
        "sex": "Female",
        "age": "80",
        "site": "A",
    }
    assert parse_assignments(["finding=Edema, mild"], "--do") == {"finding": "Edema, mild"}


def test_opposites_move_every_attribute_away():
    known = {"age": 70.0, "sex": "Female", "site": "A", "finding": "No Finding"}
    assert opposites(SCHEMA, known) == [
        {"age": 25.0},
        {"sex": "Male"},
        {"site": "B"},
        {"finding": "Effusion"},
    ]
    assert opposites(SCHEMA, {"age": 30.0})[0] == {"age": 80.0}


def test_output_names(tmp_path):
    dos = [{"sex": "Female"}, {"site": "A/B"}, {"sex": "Female"}]
    plan = plan_output(["x/a.png", "y/a.dcm", "https://host/scan.png?size=1"], dos, tmp_path, False)
    names = [[path.name for path in paths] for paths in plan.per_image]
    assert names[0] == ["a_grid.png", "a_do_sex=Female.png", "a_do_site=A-B.png", "a_do_sex=Female_2.png"]
    assert names[1][0] == "a_2_grid.png" and names[2][0] == "scan_grid.png"
    assert free_name(tmp_path / "d.png") == tmp_path / "d.png"
    for name in ("d.png", "d_2.png"):
        (tmp_path / name).touch()
    assert free_name(tmp_path / "d.png") == tmp_path / "d_3.png"


def test_counterfactual_file_holds_the_pipelines_image(here, model):
    """The picture in the directory is what the pipeline gives, not a rendering of it."""
    from transformers import pipeline

    assert (
        cli.main(["counterfactual", "a.png", "--model", model, "--do", "sex=Female", "--output", "out"]) == 0
    )
    expected = pipeline("chest-xray-counterfactual", model=model)("a.png", do={"sex": "Female"}, seed=0)
    with Image.open("out/a_do_sex=Female.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected["image"]))


def test_a_batch_is_no_larger_than_there_are_images(here, model, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        cf_cxr.CounterfactualPipeline, "__call__", lambda *_, **k: sizes.append(k["batch_size"]) or []
    )
    cli.main(
        ["counterfactual", "a.png", "b.png", "--model", model, "--do", "age=3", "--batch-size", "1000000000"]
    )
    assert sizes == [2]  # torch makes a list as long as the batch


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_name_on_the_hub(here, capsys):
    os.mkfifo("pipe")
    assert cli.main(["counterfactual", "a.png", "--model", "pipe", "--do", "age=3"]) == 2
    assert "There is no model folder 'pipe'" in capsys.readouterr().err
