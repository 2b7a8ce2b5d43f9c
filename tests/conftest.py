"""Before the first test imports torch or transformers."""

import os

# Tests run side by side (pytest-xdist), one thread each: two threads on every worker would fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402

from tests.optional_libraries import make_torchvision_importable  # noqa: E402

make_torchvision_importable()


@pytest.fixture(autouse=True)
def transformers_speaks_as_before():
    """Commands silence transformers; the next test on the same worker may wait for its words."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)
