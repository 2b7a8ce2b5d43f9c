"""Wrong arguments of every script in training/: one line that says what is wrong, then exit status 2."""

import importlib.util
from pathlib import Path

import pytest

from cf_cxr.training.loop.script import run_script

FOLDER = Path(__file__).parents[2] / "training"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))
NO_DATA = "--dataset parquet --data_dir /nope/data"
# Of each script: a flag of which "many" is the wrong type or choice, and words that name a folder that is not there.
CASES = {
    "compare_counterfactuals": ("--seed", "--runs a=/nope b=/nope"),
    "compare_explainers": ("--no_plots", "--runs a=/nope b=/nope"),
    "evaluate_counterfactuals": ("--seed", f"--model /nope --judge /nope --cpu {NO_DATA}"),
    "evaluate_explainer": ("--seed", f"--explainer /nope --classifier /nope --cpu {NO_DATA}"),
    "finetune_soft": (
        "--max_steps",
        "--attribute_scm /nope --image_mechanism /nope --classifiers /nope "
        "--dataset phantom --num_images 20 "
        "--resolution 16",
    ),
    "package_explainer": ("--storage_dtype", "--explainer /nope"),
    "package_model": ("--dtype", "--attribute_scm /nope"),
    "run_plan": ("--workers", "--plan /nope/plan.yaml"),
    "train_classifier": ("--max_steps", NO_DATA),
    "train_explainer": ("--max_steps", f"--classifier /nope {NO_DATA}"),
    "train_flow": ("--max_steps", NO_DATA),
    "train_hvae": ("--max_steps", NO_DATA),
    "train_scm": ("--max_steps", NO_DATA),
    "train_segmenter": ("--max_steps", "--num_images 0"),
}


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(params=SCRIPTS)
def script(request):
    """Name and `main` of a script."""
    source = (FOLDER / f"{request.param}.py").read_text()
    assert 'if __name__ == "__main__":\n    run_script(main)\n' in source
    return request.param, load(request.param)


def refuses(main, words, capsys, *parts):
    """The script says all parts in its error, and leaves with status 2."""
    with pytest.raises(SystemExit) as left:
        run_script(main, [str(word) for word in words])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert "Traceback" not in error and "error: " in error, error
    assert not [part for part in parts if part not in error], error


def test_unknown_flag(script, capsys):
    plan = ["--plan", "plan.yaml"] if script[0] == "run_plan" else []
    refuses(script[1], [*plan, "--nonsense", "1"], capsys, "--nonsense")


def test_wrong_type_or_choice(script, capsys):
    flag = CASES[script[0]][0]
    refuses(script[1], [flag, "many"], capsys, flag, "many")


def test_missing_file(script, capsys):
    refuses(script[1], ["nowhere.yaml"], capsys, "nowhere.yaml")
    with pytest.raises(Exception, match="nowhere.yaml"):  # its traceback is kept
        run_script(script[1], ["nowhere.yaml", "--debug"])


def test_unknown_key_in_the_file(script, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("learning_rat: 1\n", encoding="utf-8")
    refuses(script[1], [file], capsys, "learning_rat", "run.yaml")


def test_missing_data_or_model(script, tmp_path, capsys):
    words = CASES[script[0]][1].split()
    part = "/nope" if "/nope" in " ".join(words) else "num_images"
    refuses(script[1], [*words, "--output_dir", tmp_path / "out"], capsys, part)


@pytest.mark.parametrize(
    "name, flag",
    [
        ("package_model", "--card"),
        ("package_explainer", "--card"),
        ("package_model", "--results"),
        ("train_hvae", "--init_from"),
        ("train_flow", "--init_from"),
        ("train_explainer", "--init_from"),
    ],
)
def test_other_files(name, flag, tmp_path, capsys):
    value, part = "/nope", "/nope"
    if flag == "--card":
        value, part = tmp_path / "card.yaml", "licence"
        value.write_text("licence: mit\n", encoding="utf-8")
    if flag == "--results":
        value, part = Path(__file__), "test_scripts.py is no JSON"
    words = [flag, value, "--output_dir", tmp_path / "out"]
    if flag == "--init_from":
        words += ["--dataset", "phantom", "--num_images", "20", "--resolution", "32", "--cache_dir", tmp_path]
    if name == "train_explainer":
        words += ["--classifier", "tests.pipelines.tiny:mean_classifier", "--segmenter", "none"]
    refuses(load(name), words, capsys, part)
