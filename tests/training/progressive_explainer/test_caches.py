"""Posteriors are asked for once; every bin is shown equally often."""

import os
from collections import Counter

import pytest
import torch

from cf_cxr.black_box import BlackBoxError
from cf_cxr.models.progressive_explainer.posterior_bins import PosteriorBins
from cf_cxr.training.loop.sampling import BalancedStepBatchSampler
from cf_cxr.training.progressive_explainer.caches import (
    ExplainerBatches,
    bin_counts,
    cached_posterior,
    data_fingerprint,
    describe_empty_bins,
)
from tests.training.progressive_explainer.tiny_explainer import PatchClassifier, PatchData


def ask(classifier, data, folder, **options):
    return cached_posterior(classifier, data, folder, batch_size=16, progress=False, **options)


# ------------------------------------------------------------------ the cache


def test_answers_are_kept_and_not_asked_for_again(tmp_path):
    data, classifier = PatchData(), PatchClassifier()
    first = ask(classifier, data, tmp_path)
    assert classifier.asked == 40
    closed = torch.sigmoid(4 * data.images[:, 0, 4:12, 4:12].mean((1, 2)))
    torch.testing.assert_close(first, closed)
    again = PatchClassifier()
    assert torch.equal(ask(again, data, tmp_path), first)
    assert again.asked == 0


def test_another_classifier_or_another_image_is_asked_about(tmp_path):
    data = PatchData()
    first = ask(PatchClassifier(), data, tmp_path)
    other = PatchClassifier(slope=5)
    assert not torch.equal(ask(other, data, tmp_path), first) and other.asked == 40
    data.images[7, 0, 5, 5] += 0.3
    changed = PatchClassifier()
    second = ask(changed, data, tmp_path)
    assert changed.asked == 40
    assert (second != first).nonzero().flatten().tolist() == [7]
    assert len(list((tmp_path / "posteriors").iterdir())) == 3


def test_a_damaged_file_is_replaced_and_a_killed_write_leaves_none(tmp_path, monkeypatch):
    data, folder = PatchData(), tmp_path / "posteriors"
    first = ask(PatchClassifier(), data, tmp_path)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    classifier = PatchClassifier()
    assert torch.equal(ask(classifier, data, tmp_path), first) and classifier.asked == 40
    file.unlink()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ask(PatchClassifier(), data, tmp_path)
    assert not file.exists()


def test_a_constant_is_refused_also_from_the_cache(tmp_path):
    for _ in range(2):
        with pytest.raises(BlackBoxError, match="constant has no explanation"):
            ask(PatchClassifier(slope=0), PatchData(), tmp_path)


def test_fingerprint_of_rows_on_disk():
    class Rows:
        rows, collator = type("R", (), {"_fingerprint": "abc"}), type("C", (), {"resolution": 64})

        def __len__(self):
            return 5

    a = Rows()
    assert data_fingerprint(a) == data_fingerprint(a) != data_fingerprint(PatchData())
    a.rows = type("R", (), {})
    with pytest.raises(ValueError, match="cache_images"):
        data_fingerprint(a)


def test_batches_carry_their_posteriors():
    data = PatchData(5)
    batches = ExplainerBatches(data, torch.arange(5) / 10)
    batch = batches.__getitems__([3, 1])
    torch.testing.assert_close(batch["posterior"], torch.tensor([0.3, 0.1]))
    assert torch.equal(batch["pixel_values"], data.images[[3, 1]])
    with pytest.raises(ValueError, match="5 images"):
        ExplainerBatches(data, torch.zeros(4))


# ------------------------------------------------------------------- the bins


def test_empty_bins_are_named():
    bins = PosteriorBins(10)
    counts = bin_counts(torch.tensor([0.05, 0.05, 0.15, 0.95, 1.0, 0.55]), bins)
    assert counts == [2, 1, 0, 0, 0, 1, 0, 0, 0, 2]
    (text,) = describe_empty_bins(counts, 0.5)
    assert "2 (0.2 to 0.3)" in text and "8 (0.8 to 0.9)" in text and "1 (" not in text
    assert describe_empty_bins([1] * 10, 0.5) == []
    one_sided = describe_empty_bins(bin_counts(torch.tensor([0.05, 0.25]), bins), 0.5)
    assert "positive side" in one_sided[1] and len(one_sided) == 2


# ---------------------------------------------------------------- the sampler


def order(bins, steps=1, batch=8, **settings):
    sampler = BalancedStepBatchSampler(bins, batch_size=batch, seed=5, max_steps=steps, **settings)
    return sampler, [i for indices in sampler for i in indices]


def test_every_bin_is_shown_equally_often():
    """Bins of 60, 6, 0 and 30 images: 32 of each of the three in an epoch of 96; the six come 5 or 6 times each."""
    bins = torch.tensor([0] * 60 + [1] * 6 + [3] * 30)
    sampler, shown = order(bins, steps=12)
    assert sampler.steps_per_epoch == 12 and len(shown) == 96
    assert Counter(bins[shown].tolist()) == {0: 32, 1: 32, 3: 32}
    for first in range(0, 96, 3):
        assert sorted(bins[shown[first : first + 3]].tolist()) == [0, 1, 3]
    often = Counter(shown)
    assert {often[i] for i in range(60, 66)} == {5, 6}
    assert max(often[i] for i in range(60)) == 1
    assert {often[i] for i in range(66, 96)} <= {1, 2}
    positions = [bins[shown[i]].item() for i in range(0, 96, 3)]
    assert len(set(positions)) == 3  # the order within a group is random


def test_order_is_a_function_of_seed_and_step():
    bins = torch.arange(40) % 4
    _, whole = order(bins, steps=9)
    _, rest = order(bins, steps=9, start_step=6)
    assert rest == whole[6 * 8 :]
    assert whole[:40] != whole[40:80]
    halves = [
        [
            i
            for indices in BalancedStepBatchSampler(
                bins, batch_size=4, num_processes=2, process_index=p, seed=5, max_steps=1
            )
            for i in indices
        ]
        for p in range(2)
    ]
    assert halves[0] + halves[1] == whole[:8]
