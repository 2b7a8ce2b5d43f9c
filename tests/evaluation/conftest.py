"""Trained parts and data of the tiny evaluation, made once."""

import pytest
import torch

from cf_cxr import DeepSCMModel
from tests.evaluation.tiny_evaluation import build_model, build_parts, write_data


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in processes that tests start: sums on two threads round in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Folder of the parts, and of a `deep_scm` made of them; nobody writes there."""
    root = build_parts(tmp_path_factory.mktemp("parts"))
    build_model(root)
    return root


@pytest.fixture(scope="session")
def phantom_parts(tmp_path_factory):
    root = build_parts(tmp_path_factory.mktemp("phantom_parts"), "phantom")
    build_model(root)
    return root


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Data that nobody changes."""
    return write_data(tmp_path_factory.mktemp("data") / "parquet")


@pytest.fixture
def own_data(tmp_path):
    """Data of which a test may write a split anew."""
    return write_data(tmp_path / "data")


@pytest.fixture
def model(parts):
    return DeepSCMModel.from_pretrained(parts / "deep_scm").eval()
