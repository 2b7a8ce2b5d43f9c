"""Records of an evaluation: what is finished is kept, and nothing depends on how the work was divided."""

import json
import signal

import numpy as np
import pytest

from cf_cxr.evaluation.records import RecordsError, RecordStore
from tests.evaluation.tiny_evaluation import command, evaluate
from tests.training.loop.tiny import run_process


@pytest.fixture(scope="module")
def whole(parts, data_dir, tmp_path_factory):
    """A folder with an evaluation that nothing interrupted: 16 images in 4 batches."""
    out = tmp_path_factory.mktemp("whole") / "out"
    evaluate(parts, data_dir, out)
    return out


def numbers(folder):
    """The results but for what tells of the run itself and of the code, which may be committed meanwhile."""
    results = json.loads((folder / "results.json").read_text())
    del results["run"], results["identity"]["commit"]
    return results


def assert_same(first, second):
    assert numbers(first) == numbers(second)
    a, b = (np.load(folder / "samples.npz", allow_pickle=False) for folder in (first, second))
    assert set(a.files) == set(b.files)
    for name in a.files:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_killed_run_goes_on_where_it_stopped(parts, data_dir, whole, tmp_path):
    out = tmp_path / "out"
    words = command(parts, data_dir, out)
    died = run_process("tests.evaluation.run_tiny_evaluation", *words, TINY_KILL="2")
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    finished = sorted((out / "records").glob("batch-*.safetensors"))
    assert len(finished) == 2 and not (out / "results.json").exists()
    before = [path.stat().st_mtime_ns for path in finished]
    results = evaluate(parts, data_dir, out)  # no flag needed: it is the same evaluation
    assert results["run"]["batches_kept"] == 2 and results["run"]["batches_computed"] == 2
    assert [path.stat().st_mtime_ns for path in finished] == before
    assert_same(out, whole)


def test_two_processes_give_the_numbers_of_one(parts, data_dir, whole, tmp_path):
    """Four batches for two processes, by the launcher that starts them on a CPU."""
    words = command(parts, data_dir, tmp_path / "out")
    result = run_process("tests.evaluation.run_tiny_evaluation", *words, processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    run = json.loads((tmp_path / "out" / "results.json").read_text())["run"]
    assert run["processes"] == 2 and run["batches_computed"] == 4
    assert_same(tmp_path / "out", whole)


def test_damaged_and_missing_batches_are_computed_again_and_all_when_overwriting(
    parts, data_dir, whole, tmp_path
):
    out = tmp_path / "out"
    evaluate(parts, data_dir, out)
    batches = sorted((out / "records").glob("batch-*.safetensors"))
    batches[0].unlink()
    batches[1].write_bytes(batches[1].read_bytes()[:-7])  # cut off
    content = bytearray(batches[2].read_bytes())
    content[-1] ^= 64  # another number, the same length
    batches[2].write_bytes(content)
    results = evaluate(parts, data_dir, out, "--resume")
    assert results["run"]["batches_computed"] == 3 and results["run"]["batches_kept"] == 1
    assert_same(out, whole)
    (out / "notes.txt").write_text("mine")
    results = evaluate(parts, data_dir, out, "--overwrite_output_dir", "--seed", 1)
    assert results["identity"]["seed"] == 1 and results["run"]["batches_computed"] == 4
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", 1], "seed was 0 and is 1"),
        (["--batch_size", 4], "batch_size was 5 and is 4"),
        (["--max_images", 9], "images was 16 and is 9"),
        (["--split", "validation"], "split was test and is validation"),
    ],
)
def test_records_of_another_evaluation_are_refused(parts, data_dir, whole, words, message):
    before = (whole / "results.json").read_bytes()
    with pytest.raises(RecordsError, match=message):
        evaluate(parts, data_dir, whole, "--resume", *words)
    assert (whole / "results.json").read_bytes() == before


def test_a_store_gives_back_what_was_written_and_only_to_its_owner(tmp_path):
    store, other = RecordStore(tmp_path / "r", {"seed": 0}), RecordStore(tmp_path / "r", {"seed": 1})
    store.prepare()
    store.prepare()
    for batch in (1, 0):
        store.write(batch, {"a/b": np.full((2, 3), batch, np.float32)})
    store.path(1).with_name(".batch-000002.safetensors.9.incomplete").write_bytes(b"half")
    assert store.read_all(2)["a/b"][:, 0].tolist() == [0, 0, 1, 1]
    assert other.read(0) is None
    with pytest.raises(RecordsError, match="seed was 0 and is 1"):
        other.prepare()
    before = tmp_path / "old"
    before.mkdir()
    (before / "identity.json").write_text('{"records_version": 2, "seed": 0}')
    with pytest.raises(
        RecordsError, match="an earlier version of this package wrote them, .*overwrite_output_dir"
    ):
        RecordStore(before, {"seed": 0}).prepare()
    with pytest.raises(RecordsError, match="missing or damaged"):
        store.read_all(3)
    store.path(0).rename(store.path(2))
    assert store.read(2) is None, "a file under another batch's name is not that batch"
