"""Identity: distances and re-identification by hand."""

import numpy as np
import pytest

from cf_cxr.metrics.identity import identity_preservation

FEW = {"n_resamples": 50}
AXES = np.eye(4)


def test_cosine_distance_by_hand():
    first = [[1, 0], [1, 0], [1, 0], [3, 4], [0, 0]]
    second = [[5, 0], [0, 2], [-1, 0], [4, 3], [1, 0]]
    found = [identity_preservation([a], [b], **FEW)["distance"][0] for a, b in zip(first, second)]
    np.testing.assert_allclose(found, [0, 1, 2, 1 - 24 / 25, np.nan], atol=1e-12)


def test_a_collapsed_embedding_is_all_ties_hence_misses():
    same = np.random.default_rng(0).normal(size=(1, 64)).repeat(20, 0)
    out = identity_preservation(same, same, **FEW)
    assert out["reidentification"][0] == 0 and out["reference_distance"][0] == pytest.approx(0, abs=1e-9)


def test_images_of_one_patient_do_not_distract():
    before = np.array([[1, 0], [1, 0], [0, 1]])
    assert identity_preservation(before, before, **FEW)["reidentification"][0] == pytest.approx(1 / 3)
    out = identity_preservation(before, before, patients=list("aab"), **FEW)
    assert out["reidentification"][0] == 1 and out["n_distractors"] == 1
    assert out["reference_distance"][0] == 1


def test_given_distractors():
    before, after = [[1.0, 0.0]], [[1.0, 0.2]]
    near, far = [[1.0, 0.1]], [[0.0, 1.0]]
    assert identity_preservation(before, after, far, **FEW)["reidentification"][0] == 1
    assert identity_preservation(before, after, near + far, **FEW)["reidentification"][0] == 0
    out = identity_preservation(
        before, after, near + far, patients=["a"], distractor_patients=["a", "b"], **FEW
    )
    assert out["reidentification"][0] == 1 and out["n_distractors"] == 1


def test_the_explanation_searches_not_the_image():
    """The image is far from the stranger, the explanation is nearer to him than to its own image."""
    out = identity_preservation([[1.0, 0.0]], [[1.0, 1.2]], [[0.0, 1.0]], **FEW)
    assert out["reidentification"][0] == 0 and out["reference_distance"][0] == 1
    assert out["distance"][0] == pytest.approx(1 - 1 / np.sqrt(2.44))


def test_more_distractors_make_it_harder():
    rng = np.random.default_rng(1)
    before = rng.normal(size=(300, 8))
    after = before + 0.8 * rng.normal(size=before.shape)
    rates = [
        identity_preservation(before, after, n_distractors=n, **FEW)["reidentification"][0]
        for n in (1, 10, 299)
    ]
    assert rates[0] > rates[1] > rates[2] > 0
    # a draw of all of them is no draw
    assert rates[2] == identity_preservation(before, after, **FEW)["reidentification"][0]


def test_unrelated_embeddings_are_found_at_chance():
    rng = np.random.default_rng(2)
    out = identity_preservation(rng.normal(size=(800, 6)), rng.normal(size=(800, 6)), n_distractors=3, **FEW)
    assert out["reidentification"][0] == pytest.approx(1 / 4, abs=4 * np.sqrt(3 / 16 / 800))
    assert out["distance"][0] == pytest.approx(1, abs=0.06)


def test_undefined_rows_are_left_out_and_counted():
    after = AXES.copy()
    after[1] = 0
    out = identity_preservation(AXES, after, **FEW)
    assert out["undefined"] == 1 and out["reidentification"][0] == 1
    alone = identity_preservation(AXES[:2], AXES[:2], patients=["a", "a"], **FEW)
    assert np.isnan(alone["reidentification"]).all() and alone["undefined"] == 2
    assert np.isnan(alone["reference_distance"]).all() and alone["distance"][0] == 0
