"""A plan: commands that depend on each other, several at a time, each at most once."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..files import write_json
from .loop.arguments import _option, parse_arguments, read_config
from .loop.run_folder import git_commit

_TEXT = ("name", "script", "config")
_KEYS = {*_TEXT, "arguments", "needs", "for"}


class PlanError(ValueError):
    """A plan that cannot be read, or a job of it that failed."""


@dataclass
class Job:
    """One command of a plan.

    Args:
        name: unique; its log is `logs/<name>.log`, its stamp `done/<name>.json`.
        command: words after the Python interpreter.
        needs: names of the jobs that must be done before.
    """

    name: str
    command: list[str]
    needs: list[str]


@dataclass
class PlanArguments:
    """Which plan, where its results go, how much of the machine it may use."""

    _argument_group_name = "Plan"

    plan: str = _option("", "YAML file with the jobs.")
    output_dir: str | None = _option(None, "Replaces the plan's output_dir.")
    data_dir: str | None = _option(None, "Fills {data_dir} in the plan.")
    workers: int = _option(2, "Jobs at a time; the cores are shared out evenly.")
    only: list[str] = field(
        default_factory=list, metadata={"help": "Only jobs whose name starts so, and what they need."}
    )
    dry_run: bool = _option(False, "Print the commands and stop.")

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}, but must be at least 1.")
        if not self.plan:
            raise ValueError("--plan is missing: give a YAML file such as training/phantom_64/plan.yaml.")


def read_plan(
    path: str | Path, output_dir: str | None = None, data_dir: str | None = None
) -> tuple[Path, list[Job]]:
    """The folder of the results and the jobs of a plan file.

    The file holds `output_dir` and a list `jobs`. A job has `name`, `script`, optional `config` (first word of the
    script), `arguments` (name: value or list), `needs` (names), and `for` (variable: values): it is repeated for
    every combination, with `{variable}` replaced in all texts; so are `{output_dir}` and `{data_dir}`. A value that is
    null is left out, true is a bare flag. A name in `needs` that ends in `*` stands for all jobs that start so.

    Raises:
        PlanError: an unknown key or variable, a name used twice, a missing or circular need.
    """
    content = read_config(path)
    if set(content) - {"output_dir", "jobs"} or not isinstance(content.get("jobs"), list):
        raise PlanError(f"{path}: a plan has output_dir and a list of jobs, got {', '.join(content)}.")
    folder = Path(output_dir or content.get("output_dir") or "outputs/plan")
    fixed = {"output_dir": str(folder), "data_dir": data_dir}
    jobs: list[Job] = []
    for entry in content["jobs"]:
        if not isinstance(entry, Mapping) or set(entry) - _KEYS or not {"name", "script"} <= set(entry):
            raise PlanError(f"{path}: a job has name, script, config, arguments, needs, for; got {entry!r}.")
        loops = entry.get("for") or {}
        for values in itertools.product(*loops.values()):
            names = {**fixed, **dict(zip(loops, map(str, values), strict=True))}
            jobs.append(_job(entry, names, path))
    _expand_needs(jobs, path)
    return folder, _in_order(jobs, path)


def _job(entry: Mapping[str, Any], names: Mapping[str, str | None], path) -> Job:
    def fill(text: Any) -> str:
        def replace(match: re.Match) -> str:
            if names.get(match[1]) is None:
                raise PlanError(
                    f"{path}: {{{match[1]}}} in {text!r} has no value; "
                    + ("pass --data_dir." if match[1] == "data_dir" else "it is no variable of this job.")
                )
            return str(names[match[1]])

        return re.sub(r"\{(\w+)\}", replace, str(text))

    command = [fill(entry["script"])]
    if entry.get("config"):
        command.append(fill(entry["config"]))
    for key, value in (entry.get("arguments") or {}).items():
        if value is None or value is False:
            continue
        command.append(f"--{key}")
        if value is not True:
            command += [fill(v) for v in (value if isinstance(value, list) else [value])]
    return Job(fill(entry["name"]), command, [fill(need) for need in entry.get("needs") or []])


def _expand_needs(jobs: Sequence[Job], path) -> None:
    names = [job.name for job in jobs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise PlanError(f"{path}: two jobs are called {sorted(twice)[0]!r}.")
    for job in jobs:
        expanded: list[str] = []
        for need in job.needs:
            found = [n for n in names if n == need or (need.endswith("*") and n.startswith(need[:-1]))]
            if not found:
                raise PlanError(f"{path}: {job.name!r} needs {need!r}, which is no job.")
            expanded += found
        job.needs = expanded


def _in_order(jobs: Sequence[Job], path) -> list[Job]:
    """Every job after those it needs."""
    by_name = {job.name: job for job in jobs}
    try:
        order = TopologicalSorter({job.name: job.needs for job in jobs}).static_order()
        return [by_name[name] for name in order]
    except CycleError as error:
        raise PlanError(f"{path}: the jobs {', '.join(error.args[1])} wait for each other.") from None


def select_jobs(jobs: Sequence[Job], starts: Sequence[str]) -> list[Job]:
    """Jobs whose name starts with one of `starts`, and whatever they need; all if there are no `starts`."""
    if not starts:
        return list(jobs)
    wanted = {job.name for job in jobs if job.name.startswith(tuple(starts))}
    if not wanted:
        raise PlanError(
            f"No job starts with {' or '.join(starts)}; there are {', '.join(j.name for j in jobs)}."
        )
    for job in reversed(jobs):
        if job.name in wanted:
            wanted.update(job.needs)
    return [job for job in jobs if job.name in wanted]


def finished_jobs(jobs: Sequence[Job], folder: Path) -> set[str]:
    """Names of the jobs whose very command has finished before, after everything that it needs.

    Args:
        jobs: each after those that it needs, as `read_plan` gives them.
    """
    finished: dict[str, float] = {}
    for job in jobs:
        stamp = _stamp(folder, job)
        if not stamp.is_file() or not finished.keys() >= set(job.needs):
            continue
        content = json.loads(stamp.read_text(encoding="utf-8"))
        when = content.get("finished", 0.0)
        if content["command"] == job.command and all(finished[name] <= when for name in job.needs):
            finished[job.name] = when
    return set(finished)


def run_plan(folder: Path, jobs: Sequence[Job], workers: int) -> dict[str, float]:
    """Runs the jobs that are not done yet, `workers` at a time, those first that come first.

    Returns:
        name -> seconds, of all jobs, also those done in an earlier call.

    Raises:
        PlanError: a job failed; the others in progress are finished first, and what is done stays done.
    """
    for name in ("logs", "done"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    done = finished_jobs(jobs, folder)
    waiting = [job for job in jobs if job.name not in done]
    running: dict[str, tuple[Job, subprocess.Popen, float]] = {}
    failed: list[str] = []
    with tqdm(total=len(jobs), initial=len(done), desc="Jobs", unit="job") as bar:
        while running or (waiting and not failed):
            for job in [j for j in waiting if done.issuperset(j.needs)]:
                if len(running) < workers and not failed:
                    waiting.remove(job)
                    running[job.name] = (job, _start(job, folder, environment), time.time())
            bar.set_postfix_str(" ".join(running))
            for name, (job, process, start) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                if process.returncode:
                    failed.append(name)
                    continue
                now = time.time()
                content = {"command": job.command, "seconds": round(now - start, 1), "finished": now}
                write_json(_stamp(folder, job), {**content, "commit": git_commit()})
                done.add(name)
                bar.update()
            time.sleep(0.2)
    if failed:
        log = folder / "logs" / f"{failed[0]}.log"
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise PlanError(
            f"{', '.join(failed)} failed; {log} ends with:\n{tail}\nRun again to go on from here."
        )
    stamps = {job.name: json.loads(_stamp(folder, job).read_text()) for job in jobs}
    return {name: stamp["seconds"] for name, stamp in stamps.items()}


def _stamp(folder: Path, job: Job) -> Path:
    return folder / "done" / f"{job.name}.json"


def _start(job: Job, folder: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    log = (folder / "logs" / f"{job.name}.log").open("w", encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, *job.command], stdout=log, stderr=subprocess.STDOUT, env=dict(environment)
    )


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Runs a plan from command-line arguments; prints the seconds of every job."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--plan", *argv]
    (args,) = parse_arguments((PlanArguments,), argv, description="Run a plan of dependent commands.")
    folder, jobs = read_plan(args.plan, args.output_dir, args.data_dir)
    jobs = select_jobs(jobs, args.only)
    if args.dry_run:
        print("\n".join(f"python {shlex.join(job.command)}" for job in jobs))
        return {}
    start = time.time()
    seconds = run_plan(folder, jobs, args.workers)
    for name, value in seconds.items():
        print(f"{value:8.0f} s  {name}")
    print(
        f"{sum(seconds.values()):8.0f} s  of jobs; {time.time() - start:.0f} s now, {args.workers} at a time"
    )
    return seconds
