import torch

from cf_cxr.black_box import check_images, check_not_constant, check_posterior
from cf_cxr.black_box.checks import check_repeated, find_name
from tests.black_box.helpers import images


def test_good_answers_pass_and_keep_their_graph():
    given = torch.tensor([0.0, 0.25, 1.0], requires_grad=True)
    checked = check_posterior(given, 3)
    assert checked.tolist() == [0.0, 0.25, 1.0] and checked.dtype == torch.float32
    checked.sum().backward()
    assert given.grad.tolist() == [1, 1, 1]
    assert check_images(x := images()) is x
    check_images(torch.full((1, 1, 8, 8), 1.04))
    for several in ([0.7], [0.7, 0.70001]):  # a single image is no constant
        check_not_constant(torch.tensor(several))
    first = torch.tensor([0.2, 0.7])
    assert check_repeated(first, torch.tensor([0.204, 0.696])) is first


def test_rounding_beyond_the_ends_is_clamped():
    checked = check_posterior(torch.tensor([1.0005, -0.0005, 1.0000001], dtype=torch.float64), 3)
    assert checked.tolist() == [1, 0, 1] and checked.dtype == torch.float32
    for dtype in (torch.float16, torch.bfloat16):
        assert check_posterior(torch.tensor([0.25, 1.0], dtype=dtype), 2).tolist() == [0.25, 1]


def test_names_are_found_without_regard_to_case_and_underscores():
    names = ["Effusion", "", "Pleural_Thickening", "No Finding"]
    found = [find_name(n, names, "label") for n in ("effusion", "pleural thickening", "No Finding")]
    assert found == [0, 2, 3] and find_name("A", ["A", "a"], "label") == 0
