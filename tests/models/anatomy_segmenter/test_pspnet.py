import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cf_cxr.models.anatomy_segmenter import PSPNetSegmenter

# torchxrayvision.baseline_models.chestx_det.PSPNet().targets
TARGETS = (
    "Left Clavicle,Right Clavicle,Left Scapula,Right Scapula,Left Lung,Right Lung,Left Hilus Pulmonis,"
    "Right Hilus Pulmonis,Heart,Aorta,Facies Diaphragmatica,Mediastinum,Weasand,Spine"
).split(",")


class HandMade(nn.Module):
    """Says: left half is the left lung where bright, right half the right lung where bright, heart where dark."""

    targets = TARGETS

    def __init__(self, outputs=14, shrink=1):
        super().__init__()
        self.outputs, self.shrink = outputs, shrink

    def forward(self, x):
        self.seen = x
        logits = torch.full((len(x), self.outputs, *x.shape[2:]), -20.0)
        half = x.shape[3] // 2
        bright = x[:, 0] / 50
        logits[:, 4, :, :half] = bright[..., :half]
        logits[:, 5, :, half:] = bright[..., half:]
        logits[:, 8] = -bright
        return F.avg_pool2d(logits, self.shrink)


def image(size=64):
    """Bright upper left, lower right; dark elsewhere."""
    x = torch.full((1, 1, size, size), -0.9)
    half = size // 2
    x[..., :half, :half] = x[..., half:, half:] = 0.8
    return x


@pytest.mark.parametrize("shrink", [1, 4])
def test_lungs_are_the_union_of_both_and_sizes_come_back(shrink):
    segmenter = PSPNetSegmenter(HandMade(shrink=shrink), input_size=128)
    masks = segmenter.segment(image())
    assert list(masks) == segmenter.labels == ["lungs", "heart"]
    bright = image()[:, 0] > 0
    assert masks["lungs"].dtype == torch.bool and masks["lungs"].shape == (1, 64, 64)
    assert (masks["lungs"] == bright).float().mean() > 0.9
    assert (masks["heart"] == ~bright).float().mean() > 0.9
    inner = torch.zeros_like(bright)
    inner[:, 8:24, 8:24] = True
    assert masks["lungs"][inner].all() and not masks["heart"][inner].any()


def test_the_module_sees_its_own_range_and_size():
    module = HandMade()
    PSPNetSegmenter(module).segment(image())
    assert module.seen.shape == (1, 1, 512, 512) and not module.training
    assert module.seen.max().item() == pytest.approx(0.8 * 1024, rel=1e-4)
    assert module.seen.min().item() == pytest.approx(-0.9 * 1024, rel=1e-4)
    PSPNetSegmenter(module, input_size=None).segment(image(40))
    assert torch.equal(module.seen, image(40) * 1024)


def test_labels_and_thresholds_can_be_chosen():
    module = HandMade()
    segmenter = PSPNetSegmenter(module, {"left": ["Left Lung"], "spine": ["Spine"]}, input_size=None)
    masks = segmenter.segment(image(), {"left": 0.5, "spine": 1e-12})
    assert masks["left"].sum() == 32 * 32 and masks["spine"].all()
    assert not segmenter.segment(image())["spine"].any()


def test_no_gradient_is_kept():
    x = image().requires_grad_()
    assert not PSPNetSegmenter(HandMade()).segment(x)["heart"].requires_grad


def test_bad_modules_and_input_are_refused():
    with pytest.raises(ValueError, match="Identity has no 'targets'.*PSPNet"):
        PSPNetSegmenter(nn.Identity())
    with pytest.raises(ValueError, match="no target Pacemaker; it has Left Clavicle"):
        PSPNetSegmenter(HandMade(), {"devices": ["Pacemaker"]})
    with pytest.raises(ValueError, match=r"\(1, 14, height, width\), got \(1, 15"):
        PSPNetSegmenter(HandMade(15)).segment(image())
    segmenter = PSPNetSegmenter(HandMade())
    for wrong, message in [
        (image()[0], "shape"),
        (image() * 1024, r"\[-1, 1\]"),
        (image() * float("nan"), "NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            segmenter.segment(wrong)
    with pytest.raises(ValueError, match="each of"):
        segmenter.segment(image(), {"lungs": 0.5})
