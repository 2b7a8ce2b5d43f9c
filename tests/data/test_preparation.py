"""Preparing images: right pixels, cached by settings, resumable, and nothing is skipped or damaged in silence."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from datasets.arrow_writer import ArrowWriter
from PIL import Image

from cf_cxr.data import (
    CXRDataError,
    SkippedImagesWarning,
    UnreadableImageError,
    load_cxr,
    load_report,
    preparation,
)
from cf_cxr.data.encoding import ImageEncoder
from cf_cxr.examples import example_dicom
from cf_cxr.images.image_processing_cxr import CXRImageProcessor
from tests.data import layouts
from tests.data.layouts import rows_of

FRACTIONS = (0.5, 0.25, 0.25)
NAMES = [f"img{i:02d}.png" for i in range(12)]


@pytest.fixture
def root(place, monkeypatch):
    monkeypatch.setattr(preparation, "SHARD_ROWS", 2)
    return layouts.folder(place)


def load(root, **options):
    return load_cxr(root, **({"resolution": 16, "fractions": FRACTIONS} | options))


@pytest.fixture
def decoded(monkeypatch):
    """Names of the files that are encoded from now on, in order."""
    names = []
    encode = ImageEncoder.__call__

    def spy(self, file, row=-1):
        names.append(os.path.basename(file))
        return encode(self, file, row)

    monkeypatch.setattr(ImageEncoder, "__call__", spy)
    return names


# Pixels
def test_pixels_are_those_of_the_processor(root):
    rows = rows_of(load(root))
    processor = CXRImageProcessor(size=16)
    assert sorted(rows) == NAMES
    for i, name in enumerate(NAMES):
        expected = processor(root / name)["pixel_values"][0, 0].numpy()
        stored = np.asarray(rows[name]["image"], dtype=np.float32) / 127.5 - 1
        assert np.abs(stored - expected).max() < 1e-6
        assert (rows[name]["age"], rows[name]["sex"]) == (30 + i, i % 2)


def test_files_of_the_right_size_are_kept_and_without_resolution_stay_where_they_are(root):
    raw = ImageFeature(mode="L", decode=False)
    for row in rows_of(load(root, resolution=40).cast_column("image", raw)).values():
        assert row["image"]["bytes"] == (root / row["image_id"]).read_bytes()
    for name, row in rows_of(load(root, resolution=None).cast_column("image", raw)).items():
        assert row["image"] == {"bytes": None, "path": str(root / name)}
    assert rows_of(load(root, resolution=None))["img03.png"]["image"].size == (40, 40)


@pytest.mark.parametrize("kind", ["16-bit", "float", "transparent", "dicom"])
def test_files_that_datasets_would_read_otherwise_are_not_used_as_they_are(place, kind):
    root = layouts.folder(place, file_name=["x.tiff", *NAMES[1:]])
    pixels, path = layouts.pixels(0), place / "x.tiff"
    if kind == "16-bit":
        layouts.write_image(path, 0, bits=16)
    elif kind == "float":
        Image.fromarray(pixels.astype(np.float32) / 255).save(path)
    elif kind == "transparent":
        Image.merge("LA", (Image.fromarray(pixels), Image.fromarray(layouts.pixels(1)))).save(path)
    else:
        path.write_bytes(example_dicom().read_bytes())
    with pytest.raises(UnreadableImageError, match="x.tiff.*not 8-bit.*resolution="):
        load_cxr(root)
    stored = rows_of(load_cxr(root, resolution=40))["x.tiff"]["image"]
    assert stored.size == (40, 40) and (kind != "16-bit" or (np.asarray(stored) == pixels).all())


def test_a_colour_photograph_is_used_but_reported(root):
    colours = np.zeros((40, 40, 3), dtype=np.uint8)
    colours[:20, :, 0], colours[20:, :, 1] = 200, np.arange(200, 240)
    Image.fromarray(colours).save(root / "img06.png")
    with pytest.warns(UserWarning, match="1 images were read with a warning.*img06.png"):
        data = load(root)
    assert [entry["image"] for entry in load_report(data).suspicious] == ["img06.png"]
    assert len(rows_of(data)) == 12


@pytest.mark.parametrize("resolution", [None, 16, 40])
def test_one_picture_under_two_names_and_patients_is_reported(root, resolution):
    (root / "img07.png").write_bytes((root / "img02.png").read_bytes())
    for _ in range(2):  # from the cache too
        with pytest.warns(UserWarning, match="img0[27].png.*same picture.*img0[27].png"):
            data = load(root, resolution=resolution)
    assert "patient p2" in str(load_report(data)) and "patient p7" in str(load_report(data))
    layouts.edit(root / "metadata.csv", "img07.png,p7", "img07.png,p2")  # one patient's: no fault
    assert load_report(load(root, resolution=resolution)).suspicious == []


def test_settings_are_checked_before_any_work(root, decoded):
    processor = CXRImageProcessor(size=24)
    for resolution in (0, 7, -1, 16.0, "16"):
        with pytest.raises(CXRDataError, match="resolution="):
            load(root, resolution=resolution)
    with pytest.raises(CXRDataError, match="resolution=16, but the processor makes images of 24"):
        load(root, processor=processor)
    with pytest.raises(ValueError, match="on_error='ignore'"):
        load(root, on_error="ignore")
    assert decoded == []
    assert load(root, resolution=None, processor=processor)["train"][0]["image"].size == (24, 24)


# The cache
def test_a_second_call_reads_no_image_and_writes_nothing(root, decoded, cache):
    damage(root)
    with pytest.warns(SkippedImagesWarning):
        first = load(root, on_error="skip")
    assert sorted(decoded) == NAMES
    decoded.clear()
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    with pytest.warns(SkippedImagesWarning) as caught:
        second = load(root, on_error="skip")
    assert decoded == [] and rows_of(first).keys() == rows_of(second).keys()
    assert first["train"]._fingerprint == second["train"]._fingerprint
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before
    assert caught[0].filename == __file__  # the warning points at the caller


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": 24},
        {"seed": 1},
        {"overwrite_cache": True},
        {"processor": CXRImageProcessor(size=16, crop_mode="pad")},
    ]
    + ["table"],
)
def test_other_settings_are_another_cache(root, decoded, options):
    load(root)
    decoded.clear()
    if options == "table":
        layouts.edit(root / "metadata.csv", "img00.png,p0,30", "img00.png,p0,77")
        options = {}
    assert rows_of(load(root, **options))["img00.png"]["age"] in (30, 77)
    assert len(decoded) == 12


def test_a_killed_process_leaves_no_half_written_shard(root, cache, decoded):
    """SIGKILL in the middle of the third shard: two shards are whole, the third begins anew."""
    script = textwrap.dedent(
        f"""
        import os, signal
        from cf_cxr.data import load_cxr, preparation
        from cf_cxr.data.encoding import ImageEncoder
        preparation.SHARD_ROWS, preparation.BATCH_ROWS = 2, 1
        encode, count = ImageEncoder.__call__, []
        def kill_at_the_sixth(self, file, row=-1):
            count.append(file)
            if len(count) == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            return encode(self, file, row)
        ImageEncoder.__call__ = kill_at_the_sixth
        load_cxr({str(root)!r}, resolution=16, fractions={FRACTIONS})
        """
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == -9
    folder = next(cache.iterdir())
    assert len(list(folder.glob("*.arrow"))) == len(list(folder.glob("*.json"))) == 2
    assert list(folder.glob(".incomplete-*"))
    assert len(rows_of(load(root))) == 12 and len(decoded) == 8
    assert not list(folder.glob(".incomplete-*"))


def test_two_processes_give_the_same_as_one(root, tmp_path):
    one, two = rows_of(load(root)), rows_of(load(root, num_proc=2, cache_dir=tmp_path / "other"))
    assert list(one) == list(two)
    for name in one:
        assert one[name]["image"].tobytes() == two[name]["image"].tobytes()
        assert one[name]["age"] == two[name]["age"]
    (root / "img05.png").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match="img05.png"):  # it reaches the caller
        load(root, num_proc=2, overwrite_cache=True)


# Images that cannot be read
def damage(root):
    """Four images that cannot be read, each in its own way."""
    whole = (root / "img01.png").read_bytes()
    (root / "img01.png").write_bytes(whole[: len(whole) // 2])
    (root / "img02.png").write_bytes(b"")
    (root / "img03.png").write_text("this is not an image")
    (root / "img04.png").unlink()
    return NAMES[1:5]


def test_skipped_images_are_warned_of_and_listed_and_stop_a_call_that_wants_to_stop(root, cache):
    bad = damage(root)
    with pytest.raises(UnreadableImageError, match='img0[1-4].png.*on_error="skip"'):
        load(root)
    with pytest.warns(SkippedImagesWarning, match="4 images were skipped"):
        data = load(root, on_error="skip")
    assert sorted(rows_of(data)) == sorted(set(NAMES) - set(bad))
    report = load_report(data)
    assert sorted(entry["image"] for entry in report.skipped) == bad
    assert all(entry["image"] in entry["reason"] for entry in report.skipped)
    assert sum(report.images.values()) == 8
    assert sorted(pd.read_csv(next(cache.glob("*/skipped.csv")))["image"]) == bad
    with pytest.raises(UnreadableImageError):
        load(root, on_error="raise")


def test_a_repaired_image_is_read_the_next_time(root, decoded):
    bad = damage(root)
    with pytest.warns(SkippedImagesWarning):
        load(root, on_error="skip")
    for i, name in enumerate(bad):
        layouts.write_image(root / name, 100 + i)
    decoded.clear()
    assert len(rows_of(load(root))) == 12
    assert set(bad) <= set(decoded) and len(decoded) < 12


def test_too_many_unreadable_images_are_an_error_even_when_skipping(root):
    damage(root)
    with pytest.raises(CXRDataError, match="4 of 12 images cannot be used.*max_skipped=0.25"):
        load(root, on_error="skip", max_skipped=0.25)
    for name in NAMES:
        (root / name).write_bytes(b"")
    with pytest.raises(CXRDataError, match="12 of 12"):
        load(root, on_error="skip", max_skipped=1.0, overwrite_cache=True)


@pytest.mark.parametrize("resolution", [None, 16])
@pytest.mark.parametrize("link", [False, True])
def test_a_pipe_is_not_opened(root, tmp_path, resolution, link):
    (root / "img05.png").unlink()
    os.mkfifo(tmp_path / "pipe" if link else root / "img05.png")
    if link:
        (root / "img05.png").symlink_to(tmp_path / "pipe")
    with pytest.raises(UnreadableImageError, match="img05.png.*not a.* file"):
        load(root, resolution=resolution)


# Damage to the cache
@pytest.fixture
def prepared(root, cache):
    load(root)
    return root, next(cache.iterdir())


@pytest.mark.parametrize("damage", ["half", "empty", "text", "columns", "another split"])
def test_a_damaged_shard_is_named_with_the_remedy(prepared, damage):
    root, place = prepared
    shard, other = place / "test-00000-of-00002.arrow", place / "train-00000-of-00003.arrow"
    if damage == "columns":
        table = Dataset.from_file(str(shard)).remove_columns("age")
        with ArrowWriter(features=table.features, path=f"{shard}x") as writer:
            writer.write_table(table.data.table)
            writer.finalize()
        os.replace(f"{shard}x", shard)
    else:
        whole = shard.read_bytes()
        contents = {"half": whole[: len(whole) // 2], "empty": b"", "text": b"no arrow" * 99}
        shard.write_bytes(contents.get(damage, other.read_bytes()))
    with pytest.raises(CXRDataError, match="test-00000-of-00002.arrow.*Delete it"):
        load(root)
    if damage == "half":
        assert len(rows_of(load(root, overwrite_cache=True))) == 12
    else:
        shard.unlink()
        assert len(rows_of(load(root))) == 12


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"images": 3}', "null", "\ud800"])
def test_a_damaged_sidecar_makes_its_shard_anew(prepared, content, caplog):
    root, place = prepared
    sidecar = place / "test-00000-of-00002.json"
    sidecar.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert len(rows_of(load(root))) == 12
    assert sidecar.name in caplog.text
    assert json.loads(sidecar.read_text())["images"] == 2


def test_a_damaged_report_is_written_anew(prepared):
    root, place = prepared
    (place / "report.json").write_text("{")
    with pytest.raises(CXRDataError, match="report.json"):
        load_report(place)
    assert load_report(load(root)).images == {"train": 6, "validation": 3, "test": 3}
