import numpy as np
import pytest
import torch

from cf_cxr.models.progressive_explainer.posterior_bins import PosteriorBins

BINS = PosteriorBins()


def test_edges_and_centres():
    assert BINS.num_bins == 10
    assert BINS.edges.tolist() == pytest.approx([k / 10 for k in range(11)])
    assert BINS.centres.tolist() == pytest.approx([0.05 + k / 10 for k in range(10)])
    assert torch.equal(PosteriorBins(2).centres, torch.tensor([0.25, 0.75]))
    assert BINS.centres.dtype == BINS.edges.dtype == torch.float32
    with pytest.raises(ValueError, match="at least 2"):
        PosteriorBins(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_bins", [2, 3, 7, 10, 100])
def test_an_edge_belongs_to_the_bin_above_it_and_one_to_the_last(num_bins, dtype):
    edges = torch.tensor([k / num_bins for k in range(num_bins + 1)], dtype=dtype)
    expected = [*range(num_bins), num_bins - 1]
    assert PosteriorBins(num_bins).index(edges).tolist() == expected
    below = torch.nextafter(edges[1:], torch.zeros(1, dtype=dtype))
    assert PosteriorBins(num_bins).index(below).tolist() == list(range(num_bins))


def test_index_is_the_floor_and_a_centre_is_in_its_bin():
    p = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(BINS.index(p), (p * 10).floor().long().clamp(max=9))
    assert torch.equal(BINS.index(BINS.centres), torch.arange(10))
    assert (BINS.centre(BINS.index(p)) - p).abs().max() <= 0.05 + 1e-6


def test_index_keeps_the_shape_and_takes_numbers_arrays_and_half_precision():
    assert BINS.index(torch.full((2, 3, 1), 0.31)).shape == (2, 3, 1)
    assert int(BINS.index(0.95)) == 9
    assert BINS.index(np.array([0.0, 0.55])).tolist() == [0, 5]
    assert BINS.index(torch.tensor([0.24, 1.0], dtype=torch.bfloat16)).tolist() == [2, 9]
    assert BINS.index(torch.zeros(0)).shape == (0,)
    p = torch.tensor([0.2, 0.7], requires_grad=True)
    assert BINS.index(p).dtype == torch.int64


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("index", [0.5, -0.01], r"posterior must lie in \[0, 1\].*logits"),
        ("index", [float("inf")], r"posterior must lie in \[0, 1\]"),
        ("index", [0.5, float("nan")], "posterior contains NaN"),
        ("centre", -1, "Bin -1 does not exist.*0 to 9"),
        ("centre", [3, 12], "Bin 12 does not exist.*0 to 9"),
        ("centre", [0.5], "integers.*float32"),
    ],
)
def test_what_is_no_posterior_or_no_bin_is_refused(method, value, message):
    with pytest.raises(ValueError, match=message):
        getattr(BINS, method)(torch.tensor(value))
