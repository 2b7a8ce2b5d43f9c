"""Preparing images: right pixels, cached by settings, resumable, and nothing is skipped in silence."""

import os
import struct
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pandas as pd
import pytest
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
from cf_cxr.images.image_processing_cxr import CXRImageProcessor
from tests.data import layouts

FRACTIONS = (0.5, 0.25, 0.25)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "SHARD_ROWS", 2)
    monkeypatch.setenv("CF_CXR_CACHE", str(tmp_path / "cache"))
    return layouts.folder(tmp_path / "data")


def load(root, **options):
    return load_cxr(root, **({"resolution": 16, "fractions": FRACTIONS} | options))


def all_rows(data):
    return {row["image_id"]: row for split in data.values() for row in split}


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


def test_pixels_are_those_of_the_processor(root):
    rows = all_rows(load(root))
    assert len(rows) == 12
    processor = CXRImageProcessor(size=16)
    for i in range(12):
        expected = processor(root / f"img{i:02d}.png")["pixel_values"][0, 0].numpy()
        stored = np.asarray(rows[f"img{i:02d}.png"]["image"], dtype=np.float32) / 127.5 - 1
        assert np.abs(stored - expected).max() < 1e-6
        assert rows[f"img{i:02d}.png"]["age"] == 30 + i
        assert rows[f"img{i:02d}.png"]["sex"] == i % 2


def test_images_of_the_right_size_are_not_encoded_again(root):
    data = load(root, resolution=40).cast_column("image", raw_image())
    for row in all_rows(data).values():
        assert row["image"]["bytes"] == (root / row["image_id"]).read_bytes()


def test_without_resolution_the_files_stay_where_they_are(root):
    data = load(root, resolution=None).cast_column("image", raw_image())
    for name, row in all_rows(data).items():
        assert row["image"]["bytes"] is None
        assert row["image"]["path"] == str(root / name)
    assert all_rows(load(root, resolution=None))["img03.png"]["image"].size == (40, 40)


def raw_image():
    from datasets import Image as ImageFeature

    return ImageFeature(mode="L", decode=False)


def test_a_second_call_reads_no_image(root, decoded):
    first = load(root)
    assert sorted(decoded) == [f"img{i:02d}.png" for i in range(12)]
    decoded.clear()
    second = load(root)
    assert decoded == []
    assert all_rows(first).keys() == all_rows(second).keys()
    assert first["train"]._fingerprint == second["train"]._fingerprint


def test_a_finished_cache_is_not_written_to(root, tmp_path):
    damage(root)
    with pytest.warns(SkippedImagesWarning):
        load(root, on_error="skip")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    with pytest.warns(SkippedImagesWarning) as caught:
        load(root, on_error="skip")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before
    assert caught[0].filename == __file__  # the warning points at the caller


@pytest.mark.parametrize(
    "options",
    [{"resolution": 24}, {"seed": 1}, {"processor": CXRImageProcessor(size=16, crop_mode="pad")}],
    ids=["resolution", "seed", "processor"],
)
def test_other_settings_are_another_cache(root, decoded, options):
    load(root)
    decoded.clear()
    load(root, **options)
    assert len(decoded) == 12


def test_a_changed_table_is_another_cache(root, decoded):
    load(root)
    text = (root / "metadata.csv").read_text()
    (root / "metadata.csv").write_text(text.replace("img00.png,p0,30", "img00.png,p0,77"))
    assert all_rows(load(root))["img00.png"]["age"] == 77


def test_overwrite_cache_prepares_again(root, decoded):
    load(root)
    layouts.write_image(root / "img00.png", 99)
    decoded.clear()
    load(root)
    assert decoded == []
    load(root, overwrite_cache=True)
    assert len(decoded) == 12


def test_an_interrupted_preparation_goes_on_where_it_stopped(root, monkeypatch):
    seen = []
    prepare_shard = preparation.prepare_shard

    def stop_after_two(shard):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(shard.path.name)
        prepare_shard(shard)

    monkeypatch.setattr(preparation, "prepare_shard", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        load(root)
    assert len(seen) == 2

    def go_on(shard):
        assert shard.path.name not in seen[:2]
        seen.append(shard.path.name)
        prepare_shard(shard)

    monkeypatch.setattr(preparation, "prepare_shard", go_on)
    assert len(all_rows(load(root))) == 12
    assert len(seen) == len(set(seen)) == 7  # 6 + 3 + 3 patients in shards of two


def test_a_killed_process_leaves_no_half_written_shard(root, tmp_path, decoded):
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
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == -9
    cache = next((tmp_path / "cache").iterdir())
    assert len(list(cache.glob("*.arrow"))) == len(list(cache.glob("*.json"))) == 2
    assert list(cache.glob(".incomplete-*"))
    data = load(root)
    assert len(decoded) == 8
    assert len(all_rows(data)) == 12
    assert not list(cache.glob(".incomplete-*"))


def test_two_processes_give_the_same_as_one(root, tmp_path):
    one = all_rows(load(root))
    two = all_rows(load(root, num_proc=2, cache_dir=tmp_path / "other"))
    assert list(one) == list(two)
    for name in one:
        assert one[name]["image"].tobytes() == two[name]["image"].tobytes()
        assert one[name]["age"] == two[name]["age"]


def test_an_error_in_a_worker_process_reaches_the_caller(root):
    (root / "img05.png").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match="img05.png"):
        load(root, num_proc=2)


def damage(root):
    """Four images that cannot be read, each in its own way."""
    whole = (root / "img01.png").read_bytes()
    (root / "img01.png").write_bytes(whole[: len(whole) // 2])
    (root / "img02.png").write_bytes(b"")
    (root / "img03.png").write_text("this is not an image")
    (root / "img04.png").unlink()
    return [f"img0{i}.png" for i in (1, 2, 3, 4)]


def test_an_unreadable_image_stops_and_is_named(root):
    whole = (root / "img07.png").read_bytes()
    (root / "img07.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImageError, match='img07.png.*on_error="skip"'):
        load(root)


def test_skipped_images_are_warned_of_and_listed(root, tmp_path):
    bad = damage(root)
    with pytest.warns(SkippedImagesWarning, match="4 images were skipped"):
        data = load(root, on_error="skip")
    assert sorted(all_rows(data)) == sorted({f"img{i:02d}.png" for i in range(12)} - set(bad))
    report = load_report(data)
    assert sorted(entry["image"] for entry in report.skipped) == bad
    assert all(entry["image"] in entry["reason"] for entry in report.skipped)
    assert sum(report.images.values()) == 8
    listed = pd.read_csv(next((tmp_path / "cache").glob("*/skipped.csv")))
    assert sorted(listed["image"]) == bad
    with pytest.warns(SkippedImagesWarning):  # not only the first time
        load(root, on_error="skip")


def test_what_was_skipped_stops_a_later_call_that_wants_to_stop(root):
    damage(root)
    with pytest.warns(SkippedImagesWarning):
        load(root, on_error="skip")
    with pytest.raises(UnreadableImageError):
        load(root, on_error="raise")


def test_a_repaired_image_is_read_the_next_time(root, decoded):
    bad = damage(root)
    with pytest.warns(SkippedImagesWarning):
        load(root, on_error="skip")
    for i, name in enumerate(bad):
        layouts.write_image(root / name, i)
    decoded.clear()
    assert len(all_rows(load(root))) == 12
    assert set(bad) <= set(decoded) and len(decoded) < 12


def test_too_many_unreadable_images_are_an_error_even_when_skipping(root):
    damage(root)
    with pytest.raises(CXRDataError, match="4 of 12 images cannot be used.*max_skipped=0.25"):
        load(root, on_error="skip", max_skipped=0.25)
    for i in range(12):
        (root / f"img{i:02d}.png").write_bytes(b"")
    with pytest.raises(CXRDataError, match="12 of 12"):
        load(root, on_error="skip", max_skipped=1.0, overwrite_cache=True)


def test_a_colour_photograph_is_used_but_reported(root):
    colours = np.zeros((40, 40, 3), dtype=np.uint8)
    colours[:20, :, 0], colours[20:, :, 1] = 200, np.arange(200, 240)
    Image.fromarray(colours).save(root / "img06.png")
    with pytest.warns(UserWarning, match="1 images were read with a warning.*img06.png"):
        data = load(root)
    assert [entry["image"] for entry in load_report(data).suspicious] == ["img06.png"]
    assert len(all_rows(data)) == 12


def test_a_huge_image_is_refused_without_decoding(root):
    size = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    (root / "img00.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(UnreadableImageError, match="img00.png.*(pixels|large)"):
        load(root)


def test_split_by_node_shares_the_rows(root):
    from datasets.distributed import split_dataset_by_node

    train = load(root)["train"]
    names = [split_dataset_by_node(train, rank, 2)["image_id"] for rank in (0, 1)]
    assert sorted([*names[0], *names[1]]) == sorted(train["image_id"])


def test_processor_and_resolution_must_agree(root):
    with pytest.raises(CXRDataError, match="resolution=16, but the processor makes images of 24"):
        load(root, processor=CXRImageProcessor(size=24))
    data = load(root, resolution=None, processor=CXRImageProcessor(size=24))
    assert data["train"][0]["image"].size == (24, 24)


@pytest.mark.parametrize("resolution", [0, 7, -1, 16.0, "16"])
def test_impossible_resolutions_are_refused(root, resolution):
    with pytest.raises(CXRDataError, match="resolution="):
        load(root, resolution=resolution)


def test_unknown_on_error_is_refused_before_any_work(root, decoded):
    with pytest.raises(ValueError, match="on_error='ignore'"):
        load(root, on_error="ignore")
    assert decoded == []
