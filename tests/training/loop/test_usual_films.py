"""Measuring which films are usual: frames as a photograph has them, limits at a quantile, and what is then noticed."""

import json

import pytest
import torch

from cf_cxr import CXRImageProcessor
from cf_cxr.images.out_of_distribution import KINDS, UsualFilms, of_every_kind
from cf_cxr.training.loop import usual_films
from cf_cxr.training.loop.usual_films import framed, record_usual_films

SIDE = 32


class Discs:
    """A bright disc at about the same place in the upper left of a grey slope."""

    def __init__(self, count, seed=0):
        generator = torch.Generator().manual_seed(seed)
        y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
        place = -0.4 + 0.05 * torch.randn(count, 2, 1, 1, generator=generator)
        disc = ((x - place[:, 0]) ** 2 + (y - place[:, 1]) ** 2 < 0.15).float()
        noise = 0.05 * torch.randn(count, SIDE, SIDE, generator=generator)
        self.images = (disc + 0.3 * y - 0.5 + noise).clamp(-1, 1)[:, None]

    def __len__(self):
        return len(self.images)

    def __getitems__(self, rows):
        return {"pixel_values": self.images[rows]}


@pytest.mark.parametrize("held_out", [True, False])
def test_a_trained_model_knows_which_films_are_usual(tmp_path, held_out):
    CXRImageProcessor(size=SIDE, crop_mode="pad").save_pretrained(tmp_path)
    before = json.loads((tmp_path / "preprocessor_config.json").read_text())
    usual = record_usual_films(tmp_path, Discs(150), Discs(60, seed=1) if held_out else None, batch_size=16)
    after = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert after.pop("usual_films") == usual.to_dict() and after == before
    saved = UsualFilms.from_dict(CXRImageProcessor.from_pretrained(tmp_path).usual_films)
    others = Discs(40, seed=2).images
    assert sum(saved.unusual(one) is not None for one in others.split(1)) <= 2
    for kind, changed in zip(KINDS, of_every_kind(others)):
        found = [saved.unusual(one) for one in changed.split(1)]
        assert sum(f is not None for f in found) >= 39 and sum(f["looks"] == kind for f in found if f) >= 30
    photographs = framed(others, torch.Generator().manual_seed(5))
    assert sum(saved.unusual(one) is not None for one in photographs.split(1)) >= 30
    assert all(saved.unusual(one) for one in (torch.rand(3, 1, SIDE, SIDE) * 2 - 1).split(1))


def test_limits_are_set_by_the_held_out_films(monkeypatch):
    monkeypatch.setattr(usual_films, "QUANTILE", 0.8)
    monkeypatch.setattr(usual_films, "LEAST_LOG_ODDS", -100.0)
    others = Discs(100, seed=1).images
    usual = usual_films.measure_usual_films(iter(Discs(60).images.split(20)), iter(others.split(50)))
    distance, odds = usual.measure(others)
    assert (
        int((distance > usual.distance_limit).sum()) == int((odds.amax(1) > usual.log_odds_limit).sum()) == 20
    )


def test_too_few_films_are_no_reason_to_fail(tmp_path, caplog):
    CXRImageProcessor(size=SIDE).save_pretrained(tmp_path)
    assert record_usual_films(tmp_path, Discs(1), Discs(5)) is None
    assert "1 and 5 films are too few" in caplog.text
    assert CXRImageProcessor.from_pretrained(tmp_path).usual_films is None


def test_a_frame_is_around_the_film_and_everything_of_it_is_seen():
    film = torch.full((50, 1, SIDE, SIDE), 0.9)
    film[:, :, 8:24, 8:24] = -0.9
    photographs = framed(film, torch.Generator().manual_seed(0))
    assert photographs.shape == (50, 1, 64, 64) and photographs.abs().max() <= 1
    assert not photographs.equal(framed(film, torch.Generator().manual_seed(1)))
    black = framed(torch.full_like(film, -1.0), torch.Generator().manual_seed(0))
    bright = framed(torch.full_like(film, 1.0), torch.Generator().manual_seed(0))
    inside = (black != bright).float()
    assert (inside[:, :, 16:48, 16:48] == 1).all()  # the middle always
    around = 1 - inside.mean((1, 2, 3))
    assert (around > 0.02).all() and around.max() < 0.7 and 0.1 < around.mean() < 0.4
