"""The two-sample AUC where its answer is known."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cf_cxr.data.phantom import ChestPhantom, PhantomConfig
from cf_cxr.metrics.bootstrap import patient_weights
from cf_cxr.metrics.patch_critic import train_critic
from cf_cxr.metrics.two_sample import CriticScores, critic_scores, two_sample_auc, two_sample_samples

N, STEPS = 240, 30
PHANTOM = ChestPhantom(PhantomConfig(resolution=64))
STRIPES = np.where(np.arange(64) % 4 < 2, 1.0, -1.0) * 3 / 127.5  # three grey levels up and down, period 4


@pytest.fixture(scope="module")
def films():
    """Images, values of a coin that is on no film, and patients with two films each."""
    torch.set_num_threads(1)
    images = PHANTOM.render(PHANTOM.sample_attributes(N, 3), PHANTOM.sample_noise(N, 3)).pixel_values
    return images.numpy(), np.random.default_rng(0).integers(0, 2, N), np.arange(N) // 2


def ask(films, counterfactuals, rows=slice(None), values=None, **options):
    images, coin, patients = films
    new = coin if values is None else values
    options = {"steps": STEPS, "n_resamples": 200, **options}
    return two_sample_auc(images, counterfactuals[rows], coin, new[rows], patients, patients[rows], **options)


def test_null_interventions_cannot_be_told(films):
    found = ask(films, films[0])
    estimate, low, high = found["two_sample_auc"]
    assert low < 0.5 < high and 0.4 < estimate < 0.6
    assert found["real"] == found["counterfactual"] == N / 2  # every patient is on one side
    assert found["reason"] == "" and found["bins_left_out"] == []


def test_true_counterfactuals_cannot_be_told(films):
    images, _, patients = films
    attributes, noise = PHANTOM.sample_attributes(N, 3), PHANTOM.sample_noise(N, 3)
    sex = attributes[:, PHANTOM.schema.index("sex")].numpy()
    true = PHANTOM.counterfactual(attributes, noise, {"sex": torch.from_numpy(1 - sex)})[
        1
    ].pixel_values.numpy()
    found = ask((images, sex, patients), true, values=1 - sex)
    estimate, low, high = found["two_sample_auc"]
    assert low < 0.5 < high and found["counterfactual"] == N / 2


def test_weak_stripes_are_found_and_shown_where_they_are(films):
    images, coin, patients = films
    striped = images.copy()
    striped[..., :32] += STRIPES[:32]  # on the left half only
    scores = critic_scores(images, striped.clip(-1, 1), coin, coin, patients, patients, steps=STEPS)
    auc = two_sample_samples(scores, patient_weights(scores.patients, 0, 0))
    assert auc[0] >= 0.95
    places = scores.places[scores.counterfactual].mean(0)
    assert places.shape == (8, 8) and places[:, :3].mean() > 2 * abs(places[:, 5:].mean())
    assert np.abs(scores.places[~scores.counterfactual].mean(0)).max() < 0.5


def test_the_same_seed_gives_the_same_numbers(films):
    first, again = (ask(films, films[0], steps=4, seed=2) for _ in range(2))
    assert first == again
    assert ask(films, films[0], steps=4, seed=3) != first


def test_a_value_that_is_on_the_film_tells_nothing(films):
    """Real films of the new value are all that counts: bright films are compared with bright films."""
    images, coin, patients = films
    shown = np.clip(images * 0.7 + 0.3 * (2 * coin - 1)[:, None, None, None], -1, 1)
    flipped = np.clip(images * 0.7 - 0.3 * (2 * coin - 1)[:, None, None, None], -1, 1)
    rows = np.flatnonzero(coin == 0)  # all of them become bright, whereas half of the real films are
    found = ask((shown, coin, patients), flipped, rows, values=1 - coin)
    estimate, low, high = found["two_sample_auc"]
    assert low < 0.5 < high
    assert found["bins_left_out"] == ["0"]


def test_nobody_is_on_both_sides_or_scored_by_a_critic_that_knows_him(films, monkeypatch):
    images, coin, patients = films
    seen = []

    def spy(stack, draw, seed, steps):
        rows = np.concatenate([np.concatenate(draw(np.random.default_rng(0), 64)) for _ in range(20)])
        seen.append(set(np.r_[patients, patients][rows].astype(str)))
        return train_critic(stack, draw, seed, 2)

    monkeypatch.setattr("cf_cxr.metrics.two_sample.train_critic", spy)
    scores = critic_scores(images, images, coin, coin, patients, patients, folds=3)
    for number, known in enumerate(seen):
        assert known.isdisjoint(scores.patients[scores.stratum // 2 == number])
    real, fake = (set(scores.patients[side]) for side in (~scores.counterfactual, scores.counterfactual))
    assert real.isdisjoint(fake) and len(real) == len(fake) == N / 4
    assert len(scores.score) == N


def test_samples_are_weighted_aucs_within_strata():
    rng = np.random.default_rng(0)
    label, stratum, score = rng.random(80) < 0.4, rng.integers(0, 3, 80), rng.normal(size=80).round(1)
    score += 5.0 * stratum + label  # the critics of two folds need not share a zero
    scores = CriticScores(label, np.arange(80), np.arange(80) // 2, stratum, score, np.zeros((80, 1, 1)), [])
    weights = patient_weights(scores.patients, 5, 0)
    samples = two_sample_samples(scores, weights)
    for sample, w in zip(samples, [np.ones(80), *weights]):
        parts = []
        for s in range(3):
            rows = (stratum == s) & (w > 0)
            real, fake = w[rows & ~label].sum(), w[rows & label].sum()
            auc = roc_auc_score(label[rows], score[rows], sample_weight=w[rows])
            parts.append((auc, real * fake / (real + fake)))
        values, shares = zip(*parts)
        assert sample == pytest.approx(np.average(values, weights=shares))


def test_too_few_films_have_a_reason_and_no_number(films):
    images, coin, patients = (part[:30] for part in films)
    found = two_sample_auc(images, images, coin, coin, patients, patients)
    assert np.isnan(found["two_sample_auc"]).all() and "at least 40 films" in found["reason"]
    assert found["real"] == found["counterfactual"] == 0
    few = np.repeat(np.arange(8), 30)
    found = ask((films[0], films[1], few), films[0])
    assert "4 patients (real) and 4 patients" in found["reason"]
    apart = ask(films, films[0], values=films[1] + 2, kind="categorical")
    assert apart["bins_left_out"] == ["0", "1", "2", "3"] and apart["reason"]
    small = two_sample_auc(images[..., :16], images[..., :16], coin, coin, patients, patients)
    assert "64 x 16 pixels are too small" in small["reason"]
    none = two_sample_auc(images, images[:0], coin, coin[:0], patients, patients[:0], kind="continuous")
    assert none["reason"]


def test_ages_are_binned(films):
    images, _, patients = films
    age = np.random.default_rng(0).uniform(20, 90, N)
    found = two_sample_auc(images, images, age, age, patients, patients, kind="continuous", steps=2)
    assert found["bins_left_out"] == [] and found["real"] + found["counterfactual"] == N


def test_how_a_film_was_stored_tells_nothing(films):
    """Films of 8 bits against the same without rounding: both are rounded, so the critic sees equal films."""
    stored = (films[0] * 127.5 + 127.5).round() / 127.5 - 1
    assert ask((stored, *films[1:]), films[0], steps=2) == ask((stored, *films[1:]), stored, steps=2)
