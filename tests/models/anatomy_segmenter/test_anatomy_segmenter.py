import math

import pytest
import torch

from cf_cxr.data.phantom.chest import ChestPhantom
from cf_cxr.data.phantom.config import PhantomConfig
from cf_cxr.models.anatomy_segmenter import AnatomySegmenterConfig, AnatomySegmenterModel
from cf_cxr.models.anatomy_segmenter.segmentation_loss import binary_cross_entropy, soft_dice_loss


def images(batch=3, size=16, seed=0):
    return torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tiny(**kwargs):
    torch.manual_seed(0)
    return AnatomySegmenterModel(AnatomySegmenterConfig(**{"widths": [8, 16], **kwargs})).eval()


def test_the_default_is_small_enough_to_bundle_and_needs_no_attention():
    model = AnatomySegmenterModel(AnatomySegmenterConfig())
    assert model.num_parameters() < 400_000
    assert not any("attention" in n for n, _ in model.named_parameters())
    assert model.config.labels == ["lungs", "heart", "devices"] and model.config.total_stride == 8


@pytest.mark.parametrize("size", [(16, 16), (32, 16), (34, 50)])
def test_any_size_that_the_strides_divide(size):
    model = tiny()
    with torch.no_grad():
        logits = model(torch.rand(2, 1, *size)).logits
    assert logits.shape == (2, 3, *size) and logits.dtype == torch.float32


def test_segment_thresholds_each_label_by_itself():
    model, x = tiny(), images()
    masks = model.segment(x)
    assert list(masks) == ["lungs", "heart", "devices"]
    probabilities = model(x).logits.sigmoid()
    for i, mask in enumerate(masks.values()):
        assert mask.dtype == torch.bool and mask.shape == (3, 16, 16)
        assert torch.equal(mask, probabilities[:, i] > 0.5)
    thresholds = {"devices": 0.2, "lungs": 0.9, "heart": 0.5}
    masks = model.segment(x, thresholds)
    for i, label in enumerate(model.config.labels):
        assert torch.equal(masks[label], probabilities[:, i] > thresholds[label])
    model.config.return_dict = False
    assert torch.equal(model.segment(x)["heart"], probabilities[:, 1] > 0.5)


def test_exposure_does_not_matter():
    model, x = tiny(), images()
    with torch.no_grad():
        assert torch.allclose(model(x).logits, model(0.4 * x - 0.3).logits, atol=1e-4)
        sensitive = tiny(standardize=False)
        assert not torch.allclose(sensitive(x).logits, sensitive(0.4 * x - 0.3).logits, atol=1e-2)
        assert model(torch.full((1, 1, 16, 16), -1.0)).logits.isfinite().all()


def test_loss_known_answers():
    # two pixels, two labels: p = (3/4, 1/2) of mask (1, 0); p = (1/2, 1/2) of an empty mask
    logits = torch.tensor([math.log(3), 0.0, 0.0, 0.0]).reshape(1, 2, 1, 2)
    masks = torch.tensor([1.0, 0, 0, 0]).reshape(1, 2, 1, 2)
    assert binary_cross_entropy(logits, masks).tolist() == pytest.approx(
        [(math.log(4 / 3) + math.log(2)) / 2, math.log(2)], rel=1e-5
    )
    assert soft_dice_loss(logits, masks).tolist() == pytest.approx(
        [1 - (2 * 0.75 + 1) / (1.25 + 1 + 1), 1 - 1 / (1 + 1)], rel=1e-5
    )
    sure = torch.tensor([60.0, -60, -60, -60]).reshape(1, 2, 1, 2)
    assert soft_dice_loss(sure, masks).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert soft_dice_loss(-sure, masks)[0].item() == pytest.approx(1 - 1 / (1 + 1 + 1))


def test_the_loss_of_the_model_is_their_mean_over_labels():
    model, x = tiny(dice_weight=0.3), images()
    masks = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.7
    with torch.no_grad():
        output = model(x, masks)
        expected = binary_cross_entropy(output.logits, masks.float()) + 0.3 * soft_dice_loss(
            output.logits, masks.float()
        )
        assert torch.allclose(output.losses, expected) and torch.allclose(output.loss, expected.mean())


def test_it_learns_the_phantom():
    phantom = ChestPhantom(PhantomConfig(resolution=32))
    rendered = phantom.render(phantom.sample_attributes(24, 0), phantom.sample_noise(24, 0))
    masks = torch.cat([rendered.lung_mask, rendered.heart_mask], dim=1)
    torch.manual_seed(0)
    model = tiny(labels=["lungs", "heart"], widths=[8, 16, 16]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(30):
        rows = torch.arange(8) + 8 * (step % 2)
        optimizer.zero_grad()
        model(rendered.pixel_values[rows], masks[rows]).loss.backward()
        optimizer.step()
    found = model.eval().segment(rendered.pixel_values[16:])  # not trained on
    for i, label in enumerate(("lungs", "heart")):
        a, b = found[label], masks[16:, i]
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.8, label


def test_bad_input_is_refused():
    model, x = tiny(), images()
    for wrong, message in [
        (x[0], "shape"),
        (x.expand(3, 3, 16, 16), r"\(3, 3, 16, 16\)"),
        (x[..., :15], "multiple of 2"),
        (x * float("nan"), "NaN"),
        (x * 1024, r"\[-1, 1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.segment(wrong)
    masks = torch.zeros(3, 3, 16, 16)
    for wrong, message in [
        (masks[:, :2], r"\(3, 3, 16, 16\) for the labels lungs, heart, devices"),
        (masks + 2, r"masks must lie in \[0, 1\]"),
        (masks * float("nan"), "masks contains NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(x, wrong)
    for threshold, message in [(0.0, r"\(0, 1\)"), (1.5, "1.5"), ({"lungs": 0.5}, "each of")]:
        with pytest.raises(ValueError, match=message):
            model.segment(x, threshold)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"labels": []}, "at least one"),
        ({"labels": ["heart", "heart"]}, "each once"),
        ({"widths": [12, 16]}, r"does not divide the widths \[12\]"),
        ({"image_size": 100}, "image_size=100 is not a multiple of 8"),
        ({"layers_per_block": 0}, "layers_per_block"),
        ({"dice_weight": -1.0}, "dice_weight"),
    ],
)
def test_impossible_configurations_are_refused(kwargs, message):
    with pytest.raises(Exception, match=message):
        AnatomySegmenterConfig(**kwargs)
