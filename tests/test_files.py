"""Files that are whole or not there, and their hashes."""

import errno
import hashlib
import json

import pytest

from cf_cxr.files import sha256_of, write_atomically, write_json


def test_bytes_text_functions_and_json_are_written_and_hashed(tmp_path):
    path = tmp_path / "a.txt"
    for content, stored in (
        (b"\x00\xff", b"\x00\xff"),
        ("ä", "ä".encode()),
        (lambda to: to.write_bytes(b"x"), b"x"),
    ):
        write_atomically(path, content)
        assert path.read_bytes() == stored and sha256_of(path) == hashlib.sha256(stored).hexdigest()
    write_json(path, {"a": [1, path]})
    assert json.loads(path.read_text()) == {"a": [1, str(path)]}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: .*a.txt"),
        (OSError("of a library, without a number"), "of a library"),
        (FileNotFoundError(errno.ENOENT, "No such file", "other.png"), "other.png"),
        (KeyboardInterrupt("stop"), "stop"),
    ],
)
def test_a_failure_leaves_the_old_file_and_nothing_else_and_is_named(tmp_path, error, said):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(to):
        to.write_text("half")
        raise error

    with pytest.raises(type(error), match=said):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
