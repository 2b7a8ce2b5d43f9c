"""Whatever cannot be measured is refused with the name of the argument and the first wrong value."""

import numpy as np
import pytest
import torch

from cf_cxr.metrics.arrays import check_array
from cf_cxr.metrics.bootstrap import interval, paired_difference, patient_weights, score_samples
from cf_cxr.metrics.calibration import expected_calibration_error
from cf_cxr.metrics.cardiothoracic import cardiothoracic_ratio
from cf_cxr.metrics.costophrenic import costophrenic_angles
from cf_cxr.metrics.decision_distribution import decision_frechet_distance
from cf_cxr.metrics.distribution import frechet_distance, kernel_distance
from cf_cxr.metrics.effectiveness import effectiveness, fooling_gap
from cf_cxr.metrics.eigen_radiographs import eigen_radiographs
from cf_cxr.metrics.exaggeration import exaggeration_curve
from cf_cxr.metrics.identity import identity_preservation
from cf_cxr.metrics.masks import largest_components
from cf_cxr.metrics.minimality import latent_minimality
from cf_cxr.metrics.paired_tests import change_by_decision
from cf_cxr.metrics.preservation import foreign_object_preservation
from cf_cxr.metrics.soundness import image_distance
from cf_cxr.metrics.true_counterfactual import counterfactual_error
from cf_cxr.metrics.two_sample import two_sample_auc
from cf_cxr.metrics.validity import counterfactual_validity

NAN, INF, EYE, ONE = np.nan, np.inf, np.eye(4), np.ones((1, 2))
MASK = np.ones((1, 4, 4))
IMAGES = np.random.default_rng(0).normal(size=(5, 8, 8))


def score(kind, prediction, value, weights=None):
    return score_samples(
        kind, prediction, value, np.ones((1, len(value))) if weights is None else weights, "sex"
    )


def curve(**change):
    good = {"source_posterior": [0.1, 0.9], "target": [[0.5], [0.5]], "reached": [[0.5], [0.5]]}
    return exaggeration_curve(**good | change)


def distance(z=EYE[:3, :2], new=EYE[:3, :2], value=(0, 1, 0), changed=(1, 0, 1), **options):
    return latent_minimality("binary", z, new, value, changed, name="age", **options)


def critic(**change):
    given = {f"{side}_images": np.zeros((4, 64, 64)) for side in ("real", "counterfactual")}
    given |= {f"{side}_values": [0, 1, 0, 1] for side in ("real", "counterfactual")}
    return two_sample_auc(
        **given | {f"{side}_patients": range(4) for side in ("real", "counterfactual")} | change
    )


CASES = [
    (lambda: check_array([0.1, NAN, INF], "x"), r"x: row 1 is nan \(2 values are NaN or infinite\)"),
    (lambda: check_array([NAN, -INF], "x", missing=True), r"x: row 1 is -inf \(1 values are infinite\)"),
    (lambda: check_array([[0.5], [3.2]], "x", ndim=(2,), low=0, high=1, hint="Why?"), r"row 1 is 3.2 .*outside \[0, 1\].*Why"),
    (lambda: check_array([], "x"), "x is empty"),
    (lambda: check_array([["a"]], "x"), "x must be numbers"),
    (lambda: check_array([[1], [2, 3]], "x"), "x must be numbers, all rows of one shape"),
    (lambda: check_array(EYE, "x"), r"x must have shape \(N,\), got \(4, 4\)"),
    (lambda: check_array([1, 2], "x", rows=3), "x has 2 rows, .* 3"),
    (lambda: score("binary", [0.1, NAN], [0, 1]), "sex: the binary prediction: row 1 is nan.*classifier that diverged"),
    (lambda: score("binary", [0.1, 0.2], [0, NAN]), "sex: the value: row 1 is nan.*known"),
    (lambda: score("binary", [0.1, 0.2], [0, 1, 1]), "sex: the value has 3 rows"),
    (lambda: score("binary", [0.1, 0.2], [0, 2]), "sex has 2 classes.*row 1.*2"),
    (lambda: score("categorical", EYE[:, :1], [0] * 4), r"sex is categorical.*\(N, classes\)"),
    (lambda: score("categorical", np.eye(3), [0, 1, 0.5]), "row 2 has the value 0.5"),
    (lambda: score("ordinal", [0.1], [0]), "sex: kind must be one of"),
    *((lambda w=w: score("binary", [0.1, 0.2], [0, 1], w), "weights must")
      for w in (np.ones(2), np.ones((3, 5)), -ONE, [[NAN, 1]])),
    (lambda: patient_weights([], 10, seed=0), "no patients"),
    (lambda: patient_weights(["a"], 10, 0, rows=2), "patients has 1 entries for 2"),
    (lambda: interval([1, 2], confidence=95), "confidence"),
    (lambda: interval([]), "shape"),
    (lambda: paired_difference([1, 2], [1]), "same resamples"),
    (lambda: effectiveness("binary", [0.1, 0.9], [1, 0], [0.1] * 3, [0, 1, 1], ONE, name="sex"), "sex: 2 counterfactuals .* 3 real"),
    (lambda: fooling_gap("binary", [0.1, 0.2], [0.1, NAN], [0, 1], ONE, name="sex"), r"sex \(training classifier\).*nan"),
    (lambda: expected_calibration_error([0.2, 1.2], [0, 1]), r"\[0, 1\].*logits"),
    (lambda: expected_calibration_error([0.2, 0.3], [0]), "probability has 2 rows"),
    (lambda: expected_calibration_error([0.2], [NAN]), "known label"),
    (lambda: expected_calibration_error(np.eye(3), [0, 1, 3]), "3 classes"),
    (lambda: expected_calibration_error([0.2], [1], 0), "n_bins"),
    (lambda: cardiothoracic_ratio(MASK, MASK / 2), "thorax must be binary"),
    (lambda: cardiothoracic_ratio(MASK * NAN, MASK), "heart must be binary.*NaN"),
    (lambda: cardiothoracic_ratio(np.array([[["a"]]]), MASK), "heart must be binary"),
    *((lambda m=m: cardiothoracic_ratio(m, m), "heart must be masks") for m in (MASK[0], np.ones((1, 3, 4, 4)), MASK[:0])),
    (lambda: cardiothoracic_ratio(np.ones((2, 4, 4)), MASK), "thorax has shape"),
    (lambda: largest_components(MASK, 0), "count"),
    (lambda: costophrenic_angles(MASK, zone=0), "zone"),
    (lambda: costophrenic_angles(MASK, wall_share=1), "wall_share"),
    *((lambda m=m: costophrenic_angles(MASK, midline=m), "midline must be a column") for m in (500, NAN, [1, 2])),
    (lambda: decision_frechet_distance(EYE, EYE, [0.1] * 3, [0.1] * 4), "real_posterior has 3 rows"),
    (lambda: decision_frechet_distance(EYE, EYE[:, :2], [0.1] * 4, [0.1] * 4), "4 features and explanation_features 2"),
    *((lambda f=f, x=x: f(x, np.eye(3)), message) for f in (frechet_distance, kernel_distance)
      for x, message in ((np.ones((1, 3)), "at least 2 rows"), (np.ones((3, 2)), "2 and 3 features"))),
    (lambda: kernel_distance(EYE, EYE, subset_size=5), "subset_size"),
    (lambda: eigen_radiographs(IMAGES, IMAGES[:, :4, :4], 3), "probes must be"),
    (lambda: eigen_radiographs(IMAGES[:2], IMAGES[:2], 3), "at least 3 images"),
    (lambda: eigen_radiographs(IMAGES, IMAGES, 0), "components=0"),
    (lambda: curve(reached=[[0.5], [3.2]]), "reached: row 1 is 3.2.*sigmoid"),
    (lambda: curve(source_posterior=[[0.1], [0.2]]), r"source_posterior must have shape \(N,\)"),
    (lambda: curve(target=[[0.5, 0.6], [0.5, 0.6]]), r"target has shape \(2, 2\) and reached \(2, 1\)"),
    *((lambda n=n: curve(n_bins=n), "n_bins") for n in (1, 2.5)),
    (lambda: curve(threshold=0.0), "threshold"),
    (lambda: identity_preservation(EYE, EYE[:2]), "embedding_after has shape"),
    (lambda: identity_preservation(EYE, EYE * NAN), "embedding_after: row 0 is nan"),
    (lambda: identity_preservation(EYE, EYE, np.eye(3)), "distractors have 3 numbers"),
    *((lambda n=n: identity_preservation(EYE, EYE, n_distractors=n), "between 1 and 3") for n in (0, 4)),
    *((lambda d=d: identity_preservation(EYE, EYE, d, distractor_patients=list("abcd")), "needs distractors and patients")
      for d in (None, EYE)),
    (lambda: identity_preservation(EYE, EYE, EYE, patients=list("abcd"), distractor_patients=["a"]), "distractor_patients has 1"),
    (lambda: distance(distance="l2"), "l1, kl"),
    (lambda: distance(weights=(1, 0)), "two positive"),
    (lambda: distance(distance="kl"), r"age: the factual latent must have shape \(N, D, E\)"),
    (lambda: distance(np.zeros((3, 1))), r"age: latents must both have shape \(N, D\)"),
    (lambda: distance(value=[0, 1]), "age: the value has 2 rows"),
    (lambda: distance(changed=[0, 1, 2]), "age has 2 classes"),
    (lambda: change_by_decision([1, 2], [1], [0.1]), "after has 1 rows.* 2"),
    (lambda: change_by_decision([1], [INF], [0.1]), "after: row 0 is inf"),
    (lambda: change_by_decision([1], [1], [1.2]), "source_posterior: row 0 is 1.2"),
    (lambda: foreign_object_preservation([1, 2], [1, 1]), "before must be flags.*row 1 is 2"),
    (lambda: foreign_object_preservation([1], [1, 0]), "after has 2 rows"),
    (lambda: foreign_object_preservation([1], MASK), r"after must have shape \(N,\)"),
    (lambda: foreign_object_preservation(MASK, MASK[..., :3]), r"after has shape \(1, 4, 3\)"),
    (lambda: foreign_object_preservation([1], [1], minimum_overlap=0), "minimum_overlap"),
    (lambda: foreign_object_preservation([1], [1], minimum_area=0), "minimum_area"),
    (lambda: image_distance(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 5)), "different shapes"),
    (lambda: counterfactual_error(EYE, EYE[:, :3], EYE), "one shape"),
    (lambda: counterfactual_error(EYE[:0], EYE[:0], EYE[:0]), "one shape"),
    *((lambda m=m: counterfactual_error(EYE, EYE, m), "touch_mask") for m in (EYE[:, :3], EYE[:1])),
    (lambda: counterfactual_error(EYE + [[0], [NAN], [0], [0]], EYE, EYE), "Image 1 has NaN"),
    (lambda: critic(real_images=np.zeros((4, 3, 64, 64))), r"real_images must have shape.*\(4, 3, 64, 64\)"),
    (lambda: critic(counterfactual_images=np.zeros((4, 32, 32))), "resize them alike"),
    (lambda: critic(counterfactual_images=np.full((4, 64, 64), 255)), r"must lie in \[-1, 1\].*255 to 255"),
    (lambda: critic(real_values=[0, 1, 0, 2]), "real_values has 2 classes.*row 3"),
    (lambda: critic(counterfactual_values=[0, 1, 0, NAN]), "counterfactual_values.*row 3 is nan"),
    (lambda: critic(real_patients=[1, 2]), r"real_patients must have shape \(4,\)"),
    (lambda: critic(folds=1), "folds and steps must be at least 2"),
    (lambda: critic(kind="ordinal"), "kind must be one of"),
    (lambda: counterfactual_validity([0.1], [4.0]), "reached: row 0 is 4"),
    (lambda: counterfactual_validity([0.1], np.zeros((1, 0))), "reached is empty"),
    (lambda: counterfactual_validity([0.1], [0.2], threshold=1.5), "threshold"),
    (lambda: counterfactual_validity([0.1], [0.2], minimum_change=-0.1), "minimum_change"),
    (lambda: counterfactual_validity([0.1], [0.2], patients=["a", "b"]), "patients has 2"),
]  # fmt: skip


@pytest.mark.parametrize("call, message", CASES, ids=[message for _, message in CASES])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
