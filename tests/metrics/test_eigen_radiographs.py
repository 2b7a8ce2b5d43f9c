import numpy as np

from cf_cxr.metrics.eigen_radiographs import eigen_radiographs
from cf_cxr.metrics.identity import identity_preservation


def people(count=40, size=8, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (count, size, size))


def test_components_are_white_and_do_not_see_exposure():
    gallery = people(200)
    known, probes = eigen_radiographs(gallery, 3 * gallery + 0.7, components=10)
    assert known.shape == probes.shape == (200, 10)
    np.testing.assert_allclose(np.cov(known.T), np.eye(10), atol=1e-6)
    np.testing.assert_allclose(probes, known, atol=1e-6)


def test_a_small_change_leaves_a_patient_and_a_swap_does_not():
    gallery = people()
    changed = gallery.copy()
    changed[:, 6:, 6:] += 1.0
    for probes, expected in ((changed, 1.0), (gallery[::-1], 0.0)):
        found = identity_preservation(*eigen_radiographs(gallery, probes), n_resamples=20)
        assert found["reidentification"][0] == expected and found["n_distractors"] == 39


def test_no_more_components_than_there_can_be():
    known, probes = eigen_radiographs(people(5), people(2, seed=1))
    assert known.shape == (5, 4) and probes.shape == (2, 4)
