import math

import pytest
import torch
from torch import nn

from cf_cxr.black_box import as_image_classifier, from_torchxrayvision
from tests.black_box.helpers import Linear, assert_gradient, images

PATHOLOGIES = ["Effusion", "Pleural_Thickening", "", "Edema"]
POINTS = [0.2, 0.6, math.nan, math.nan]


class LikeTorchXRayVision(Linear):
    """Behaves as `torchxrayvision.models.DenseNet`: one channel in [-1024, 1024] at 8x8, own rescaling of outputs."""

    def __init__(self, op_threshs=POINTS, apply_sigmoid=False, upsample=True):
        super().__init__(classes=4, size=8, scale=2e-4)
        self.pathologies, self.apply_sigmoid = PATHOLOGIES, apply_sigmoid
        self.register_buffer("op_threshs", None if op_threshs is None else torch.tensor(op_threshs))
        if upsample:
            self.upsample = nn.Upsample(size=(8, 8), mode="bilinear", align_corners=False)

    def forward(self, x):
        assert x.shape[1:] == (1, 8, 8), "the adapter must bring images to the network's size"
        assert x.abs().max() > 255, "the adapter must scale to [-1024, 1024]"
        out = super().forward(x)
        if self.apply_sigmoid:
            out = out.sigmoid()
        if self.op_threshs is None:
            return out
        out = out.sigmoid()
        points = self.op_threshs.expand(len(out), -1)
        low, high = (out < points), (out >= points)
        new = torch.full_like(out, 0.5)
        new[low] = out[low] / (2 * points[low])
        new[high] = 1 - (1 - out[high]) / (2 * (1 - points[high]))
        return new


def probabilities(module, x):
    """Before the rescaling, from the closed form."""
    small = nn.functional.interpolate(x, size=(8, 8), mode="bilinear", antialias=True)
    return module.logits(1024 * small).sigmoid()


def test_operating_points_lie_at_one_half():
    module, x = LikeTorchXRayVision(), images(12)
    for index, name in enumerate(PATHOLOGIES[:2]):
        p, t = probabilities(module, x)[:, index], POINTS[index]
        expected = torch.where(p < t, p / (2 * t), 1 - (1 - p) / (2 * (1 - t)))
        classifier = from_torchxrayvision(module, name)
        torch.testing.assert_close(classifier.posterior(x).double(), expected, atol=1e-5, rtol=0)
        assert torch.equal(classifier.decision(classifier(x)), p >= t)
        assert_gradient(classifier, x[:2])


@pytest.mark.parametrize("apply_sigmoid", [False, True])
def test_without_operating_points_there_is_one_sigmoid(apply_sigmoid):
    module, x = LikeTorchXRayVision(None, apply_sigmoid), images()
    classifier = from_torchxrayvision(module, "edema")
    expected = probabilities(module, x)[:, 3]
    torch.testing.assert_close(classifier.posterior(x).double(), expected, atol=1e-5, rtol=0)
    assert classifier.class_name == "Edema" and expected.std() > 0.01


def test_the_size_is_the_networks_own_or_given_or_224():
    assert from_torchxrayvision(LikeTorchXRayVision(), "effusion").preprocess.size == (8, 8)
    bare = LikeTorchXRayVision(upsample=False)
    assert from_torchxrayvision(bare, "effusion").preprocess.size == (224, 224)
    assert from_torchxrayvision(bare, "effusion", size=8)(images()).shape == (6,)


def test_dispatch_by_pathology_and_lists_of_operating_points():
    module = LikeTorchXRayVision()
    classifier = as_image_classifier(module, "pleural thickening")
    assert classifier.index == 1 and classifier.class_name == "Pleural_Thickening"
    first = classifier.fingerprint()
    module.op_threshs[1] = 0.61
    assert classifier.fingerprint() != first
    # Old versions keep a list, which is not among the weights
    old = LikeTorchXRayVision(None)
    del old.op_threshs
    old.op_threshs = POINTS
    before = from_torchxrayvision(old, "Effusion").fingerprint()
    old.op_threshs = [0.3, *POINTS[1:]]
    assert from_torchxrayvision(old, "Effusion").fingerprint() != before
