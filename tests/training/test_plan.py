"""Plans: order, templates, resuming, failures."""

import json
import sys

import pytest

from cf_cxr.training.plan import PlanError, main, read_plan, select_jobs

WRITER = """
import sys, pathlib
out, word = sys.argv[1], sys.argv[2]
path = pathlib.Path(out)
path.parent.mkdir(parents=True, exist_ok=True)
with path.open("a") as f:
    f.write(word + "\\n")
if word == "fail":
    sys.exit("this went wrong")
"""


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "write.py").write_text(WRITER)

    def make(jobs):
        for job in jobs:
            job.setdefault("script", str(tmp_path / "write.py"))
        (tmp_path / "plan.yaml").write_text(json.dumps({"output_dir": str(tmp_path / "out"), "jobs": jobs}))
        return str(tmp_path / "plan.yaml")

    return make


def test_jobs_are_repeated_ordered_and_filled_in(plan):
    path = plan(
        [
            {"name": "table", "needs": ["fit_*"]},
            {
                "name": "fit_{method}_{seed}",
                "for": {"method": ["soft", "hard"], "seed": [1, 2]},
                "config": "{method}.yaml",
                "arguments": {"seed": "{seed}", "to": ["{output_dir}/a", "b"], "fast": True, "slow": None},
                "needs": ["base"],
            },
            {"name": "base"},
        ]
    )
    folder, jobs = read_plan(path, output_dir="elsewhere")
    assert str(folder) == "elsewhere"
    assert [j.name for j in jobs] == ["base", "fit_soft_1", "fit_soft_2", "fit_hard_1", "fit_hard_2", "table"]
    assert jobs[2].command[1:] == ["soft.yaml", "--seed", "2", "--to", "elsewhere/a", "b", "--fast"]
    assert jobs[-1].needs == ["fit_soft_1", "fit_soft_2", "fit_hard_1", "fit_hard_2"]
    assert [j.name for j in select_jobs(jobs, ["fit_hard"])] == ["base", "fit_hard_1", "fit_hard_2"]


def test_a_plan_runs_once_and_goes_on_after_a_failure(plan, tmp_path, monkeypatch):
    out = tmp_path / "out"
    jobs = [
        {"name": "first", "config": str(out / "first.txt"), "arguments": {}, "needs": []},
        {"name": "second", "config": str(out / "second.txt"), "needs": ["first"]},
    ]
    script = tmp_path / "write.py"
    script.write_text(WRITER.replace("sys.argv[2]", "'word'"))
    path = plan(jobs)
    broken = script.read_text().replace('word == "fail"', "'second' in out")
    script.write_text(broken)
    with pytest.raises(PlanError, match="second failed(.|\n)*this went wrong"):
        main([path, "--workers", "2"])
    script.write_text(WRITER.replace("sys.argv[2]", "'word'"))
    seconds = main([path])
    assert set(seconds) == {"first", "second"}
    assert (out / "first.txt").read_text() == "word\n", "a finished job is not repeated"
    assert (out / "second.txt").read_text() == "word\nword\n"
    main([path])
    assert (out / "second.txt").read_text() == "word\nword\n"
    stamp = json.loads((out / "done" / "first.json").read_text())
    assert stamp["command"][0] == str(script) and stamp["seconds"] >= 0
    assert sys.executable not in stamp["command"]


def test_a_changed_command_runs_again(plan, tmp_path):
    out = tmp_path / "out"
    main([plan([{"name": "a", "config": str(out / "a.txt"), "arguments": {"x": 1}}])])
    main([plan([{"name": "a", "config": str(out / "a.txt"), "arguments": {"y": 1}}])])
    assert (out / "a.txt").read_text() == "--x\n--y\n"


def test_what_needs_a_repeated_job_is_repeated(plan, tmp_path):
    out = tmp_path / "out"

    def jobs(word):
        return plan(
            [
                {"name": "base", "config": str(out / "base.txt"), "arguments": {word: 1}},
                {"name": "beside", "config": str(out / "beside.txt"), "arguments": {"z": 1}},
                {"name": "top", "config": str(out / "top.txt"), "arguments": {"z": 1}, "needs": ["base"]},
            ]
        )

    main([jobs("x")])
    main([jobs("y"), "--only", "base"])  # in a call of its own
    main([jobs("y")])
    lines = {name: (out / f"{name}.txt").read_text().count("\n") for name in ("base", "beside", "top")}
    assert lines == {"base": 2, "beside": 1, "top": 2}


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([{"name": "a", "needs": ["b"]}], "'a' needs 'b', which is no job"),
        ([{"name": "a", "needs": ["b"]}, {"name": "b", "needs": ["a"]}], "wait for each other"),
        ([{"name": "a"}, {"name": "a"}], "two jobs are called 'a'"),
        ([{"name": "a", "config": "{method}"}], "no variable of this job"),
        ([{"name": "a", "config": "{data_dir}"}], "pass --data_dir"),
        ([{"name": "a", "command": "rm"}], "a job has name, script"),
    ],
)
def test_impossible_plans_are_refused(plan, jobs, message):
    with pytest.raises(PlanError, match=message):
        main([plan(jobs)])
