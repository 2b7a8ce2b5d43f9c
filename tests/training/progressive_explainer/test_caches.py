"""Posteriors and masks are asked for once."""

import pytest
import torch

from cf_cxr.black_box import BlackBoxError
from cf_cxr.training.progressive_explainer.caches import (
    ExplainerBatches,
    cached_masks,
    cached_posterior,
    describe_empty_bins,
)
from tests.training.progressive_explainer.tiny_explainer import PatchClassifier, PatchData


def test_answers_are_kept_and_not_asked_for_again(tmp_path):
    data, classifier = PatchData(), PatchClassifier()
    first = cached_posterior(classifier, data, tmp_path)
    assert classifier.asked == 40
    torch.testing.assert_close(first, torch.sigmoid(4 * data.images[:, 0, 4:12, 4:12].mean((1, 2))))
    again = PatchClassifier()
    assert torch.equal(cached_posterior(again, data, tmp_path), first)
    assert again.asked == 0
    for other, images in ((PatchClassifier(slope=5), data), (PatchClassifier(), PatchData(seed=1))):
        assert not torch.equal(cached_posterior(other, images, tmp_path), first) and other.asked == 40
    assert len(list((tmp_path / "posteriors").glob("*.arrow"))) == 3


@pytest.mark.parametrize("cut", [1, 9, 500])
def test_a_damaged_file_is_replaced_and_a_killed_write_leaves_none(tmp_path, monkeypatch, cut):
    data, folder = PatchData(), tmp_path / "posteriors"
    first = cached_posterior(PatchClassifier(), data, tmp_path)
    (file,) = folder.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-cut])
    classifier = PatchClassifier()
    assert torch.equal(cached_posterior(classifier, data, tmp_path), first)
    assert classifier.asked in (0, 40)
    file.unlink()
    monkeypatch.setattr(data, "__class__", type("Killed", (PatchData,), {"__getitems__": killed_at(20)}))
    with pytest.raises(KeyboardInterrupt):
        cached_posterior(PatchClassifier(), data, tmp_path)
    assert not file.exists()


def killed_at(index):
    def get(self, indices):
        if index in indices:
            raise KeyboardInterrupt
        return PatchData.__getitems__(self, indices)

    return get


def test_a_constant_is_refused_also_from_the_cache(tmp_path):
    for _ in range(2):
        with pytest.raises(BlackBoxError, match="constant has no explanation"):
            cached_posterior(PatchClassifier(slope=0), PatchData(), tmp_path)


@pytest.mark.parametrize("kind", [torch.nn.Module, object])
def test_masks_found_once_are_those_of_the_segmenter(tmp_path, kind):
    asked = []

    class Bright(kind):
        def segment(self, pixel_values):
            asked.append(len(pixel_values))
            return {"bright": pixel_values[:, 0] > 0.2, "dark": pixel_values[:, 0] < -0.2}

    data = PatchData(10)
    for questions in (10, 0):  # computed, then read
        asked.clear()
        masks, labels = cached_masks(Bright(), data, tmp_path)
        assert sum(asked) - (1 if kind is torch.nn.Module else 1 + 8) == questions
        x = data.images[[7, 2]]
        assert torch.equal(masks[[7, 2]], torch.cat([x > 0.2, x < -0.2], dim=1))
        assert labels == ["bright", "dark"]
    batches = ExplainerBatches(data, torch.arange(10) / 10, masks, labels)
    batch = batches.__getitems__([3, 1])
    torch.testing.assert_close(batch["posterior"], torch.tensor([0.3, 0.1]))
    assert torch.equal(batch["pixel_values"], data.images[[3, 1]])
    assert batches.labels == ("bright", "dark") and torch.equal(batch["masks"], masks[[3, 1]])
    with pytest.raises(ValueError, match="10 images"):
        ExplainerBatches(data, torch.zeros(4))


def test_empty_bins_are_named():
    (text,) = describe_empty_bins([2, 1, 0, 0, 0, 1, 0, 0, 0, 2], 0.5)
    assert "2 (0.2 to 0.3)" in text and "8 (0.8 to 0.9)" in text and "1 (" not in text
    assert describe_empty_bins([1] * 10, 0.5) == []
    one_sided = describe_empty_bins([1, 0, 1, *[0] * 7], 0.5)
    assert "positive side" in one_sided[1] and len(one_sided) == 2
