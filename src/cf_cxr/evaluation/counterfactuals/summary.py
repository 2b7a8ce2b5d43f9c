"""From records to numbers with intervals.

A = Xia et al., MICCAI 2024; N = Melistas et al., NeurIPS 2024.

Every statistic is a row of bootstrap samples `(1 + R,)`: its value on all images, then on R resamples of patients.
All share one matrix of resamples, so that any two statistics, also of two models on the same images, are paired.
Samples are named by their path in the results, e.g. `do/sex/amplification/view`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...attributes import AttributeSchema
from ...causal_graph import CausalGraph
from ...metrics.amplification import amplification, untouched
from ...metrics.bootstrap import interval, mean_samples, patient_weights, score_samples
from ...metrics.calibration import calibration_samples
from ...metrics.distribution import frechet_distance, kernel_distance
from ...metrics.effectiveness import absolute_interval, effectiveness_samples
from ...metrics.minimality import latent_minimality
from ...metrics.two_sample import CriticScores, two_sample_samples
from ..reports import plain, put
from ..run import Samples
from .two_sample import describe_scores

SCHEMA_VERSION = 2
MINIMALITY_IMAGES = 2000  # the yard-stick takes N x N distances
#: Means per image of which an interval is given, if they were recorded: record -> result, below do/{k}.
MEANS = {
    "change": "change",
    "exposure": "exposure_share",
    "reversibility/1": "reversibility",
    "reversibility/5": "reversibility_5",
    "error": "error",
    "error_inside": "error_inside",
    "error_outside": "error_outside",
    "identity_inside": "identity_inside",
}


def bootstrap_samples(
    records: Mapping[str, np.ndarray],
    schema: AttributeSchema,
    graph: CausalGraph,
    patients: Sequence,
    seed: int,
    n_resamples: int,
    critics: Mapping[str, CriticScores] | None = None,
) -> Samples:
    """Bootstrap samples of every statistic, by its path in the results.

    AUC in points (0 to 100), mean absolute errors in units, images in grey levels of 0 to 255, likelihoods in bits
    per dimension, calibration errors, shares and the two-sample AUC in [0, 1]. NaN where a statistic is not defined
    (one class only).
    """
    weights = patient_weights(patients, n_resamples, seed)
    factual = {j: records["factual"][:, schema.index(j)] for j in schema.names}
    out: Samples = {}
    if not np.isnan(records["real/nll"]).all():
        bits = (records["real/nll"] + records["real/kl"]) / math.log(2)
        out["nelbo_bits_per_dim"] = mean_samples(bits, weights)
    out["composition"] = mean_samples(records["real/composition/1"], weights)
    out["composition_10"] = mean_samples(records["real/composition/10"], weights)
    for result, who in (("real", "judge"), ("real_model_classifier", "model"), ("bayes", "bayes")):
        for j in schema.names:
            if f"real/{who}/{j}" in records:
                score = score_samples(schema[j].scored_as, records[f"real/{who}/{j}"], factual[j], weights, j)
                out[f"{result}/{j}"] = score
    for who in ("judge", "model"):
        for a in schema:
            if a.is_discrete:
                prediction = records[f"real/{who}/{a.name}"]
                out[f"ece_{who}/{a.name}"] = calibration_samples(prediction, factual[a.name], weights)
    names = interventions(records, schema)
    for k in names:
        out |= {f"do/{k}/{name}": s for name, s in _intervention(records, schema, graph, k, weights).items()}
    for k, scores in (critics or {}).items():
        out[f"do/{k}/two_sample_auc"] = two_sample_samples(scores, weights[:, scores.rows])
    real = _predictions(records, schema, "real/judge")
    for result, kind in (("amplification", "judge"), ("oracle_amplification", "true/judge")):
        asked = {k: _predictions(records, schema, f"do/{k}/{kind}") for k in names}
        if not all(asked.values()) or not asked:
            continue
        found = amplification(schema, graph, real, asked, records["factual"], weights)
        prefix = "" if result == "amplification" else "oracle_"
        out |= {f"{prefix}mean_abs_amplification/{j}": s for j, s in found.mean_abs_samples.items()}
        for k, row in found.samples.items():
            out |= {f"do/{k}/{result}/{j}": s for j, s in row.items()}
    return out | means_over_interventions(out, schema, names)


def interventions(records: Mapping[str, np.ndarray], schema: AttributeSchema) -> list[str]:
    """The variables that were intervened on, in the schema's order."""
    return [k for k in schema.names if f"do/{k}/attributes" in records]


def _predictions(records: Mapping, schema: AttributeSchema, prefix: str) -> dict[str, np.ndarray]:
    return {j: records[f"{prefix}/{j}"] for j in schema.names if f"{prefix}/{j}" in records}


def _intervention(
    records: Mapping[str, np.ndarray],
    schema: AttributeSchema,
    graph: CausalGraph,
    k: str,
    weights: np.ndarray,
) -> Samples:
    """Statistics of one intervention but for its amplification."""
    kind, column = schema[k].scored_as, schema.index(k)
    factual, value = records["factual"][:, column], records[f"do/{k}/attributes"][:, column]
    judge, model = records[f"do/{k}/judge/{k}"], records[f"do/{k}/model/{k}"]
    out = effectiveness_samples(kind, judge, value, records[f"real/judge/{k}"], factual, weights, k)
    del out["real"]
    changed = value != factual
    out["changed_share"] = mean_samples(changed.astype(float), weights)
    if changed.any():
        out["effectiveness_changed_only"] = score_samples(
            kind, judge[changed], value[changed], weights[:, changed], k
        )
    else:
        out["effectiveness_changed_only"] = np.full(1 + len(weights), np.nan)
    out["effectiveness_model_classifier"] = score_samples(kind, model, value, weights, k)
    out["fooling_gap"] = out["effectiveness_model_classifier"] - out["effectiveness"]
    if f"do/{k}/true/judge/{k}" in records:
        out["oracle_effectiveness"] = score_samples(
            kind, records[f"do/{k}/true/judge/{k}"], value, weights, k
        )
        out["signed_distance_to_oracle"] = out["effectiveness"] - out["oracle_effectiveness"]
    for record, name in MEANS.items():
        if f"do/{k}/{record}" in records:
            out[name] = mean_samples(records[f"do/{k}/{record}"], weights)
    out["minimality"] = mean_samples(minimality(records, schema, k), weights)
    for j in untouched(graph, schema.names, k):
        before = records[f"real/judge/{j}"]
        out[f"posterior_drift/{j}"] = mean_samples(drift(before, records[f"do/{k}/judge/{j}"]), weights)
        if f"do/{k}/true/judge/{j}" in records:
            true = records[f"do/{k}/true/judge/{j}"]
            out[f"oracle_posterior_drift/{j}"] = mean_samples(drift(before, true), weights)
    return out


def drift(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Change of a prediction per image `(N,)`: |difference|, or total variation of probabilities `(N, C)`."""
    change = np.abs(after - before)
    return change.sum(1) / 2 if change.ndim == 2 else change


def minimality(records: Mapping[str, np.ndarray], schema: AttributeSchema, k: str) -> np.ndarray:
    """N's latent divergence `(N,)` in the judge's embedding, of the first `MINIMALITY_IMAGES` images that do(k) changed.

    NaN for the others, where no other image has the old or the new value, and without embeddings.
    """
    column = schema.index(k)
    factual, value = records["factual"][:, column], records[f"do/{k}/attributes"][:, column]
    out = np.full(len(factual), np.nan)
    if f"do/{k}/embedding" in records:
        some = slice(0, MINIMALITY_IMAGES)
        latent, changed = records["real/embedding"][some], records[f"do/{k}/embedding"][some]
        out[some] = latent_minimality(
            schema[k].scored_as, latent, changed, factual[some], value[some], distance="l1", name=k
        )
    return np.where(value != factual, out, np.nan)


def means_over_interventions(samples: Samples, schema: AttributeSchema, names: Sequence[str]) -> Samples:
    """Scalars of a whole model, each a mean over what is defined.

    Of discrete attributes, in AUC points (`auc_points`) or probability (`probability`), and of every continuous one
    in its unit:

    - `mean_distance`: mean over k of |effectiveness - real|; `mean_distance_to_oracle`: of |effectiveness - judge on
      the true counterfactuals|;
    - `mean_fooling_gap`: mean over k of |model's classifier - judge|;
    - `mean_posterior_drift`: mean over the cells (k, j) of the matrix; `oracle_mean_posterior_drift`;
    - `mean_abs_amplification_to_oracle`: mean over the cells of |amplification - that of the true counterfactuals|,
      what is left where a perfect image mechanism would not score 0 either;
    - `mean_error`, `mean_error_inside`, `mean_error_outside`: mean over k, grey levels;
    - `mean_two_sample_auc`: mean over k.
    """
    groups: dict[str, list[np.ndarray]] = {}

    def add(name: str, values: np.ndarray) -> None:
        if not np.isnan(values[0]):
            groups.setdefault(name, []).append(values)

    for k in names:
        unit, do = "auc_points" if schema[k].is_discrete else k, f"do/{k}"
        add(f"mean_distance/{unit}", np.abs(samples[f"{do}/signed_distance"]))
        for gap in ("fooling_gap", "signed_distance_to_oracle"):
            if f"{do}/{gap}" in samples:
                name = gap.removeprefix("signed_")
                add(f"mean_{name}/{unit}", np.abs(samples[f"{do}/{gap}"]))
        for name in ("error", "error_inside", "error_outside", "two_sample_auc"):
            if f"{do}/{name}" in samples:
                add(f"mean_{name}", samples[f"{do}/{name}"])
        for j in schema.names:
            for prefix in ("", "oracle_"):
                if f"{do}/{prefix}posterior_drift/{j}" in samples:
                    unit = "probability" if schema[j].is_discrete else j
                    add(f"{prefix}mean_posterior_drift/{unit}", samples[f"{do}/{prefix}posterior_drift/{j}"])
            if f"{do}/oracle_amplification/{j}" in samples:
                unit = "auc_points" if schema[j].is_discrete else j
                excess = samples[f"{do}/amplification/{j}"] - samples[f"{do}/oracle_amplification/{j}"]
                add(f"mean_abs_amplification_to_oracle/{unit}", np.abs(excess))
    return {name: np.mean(group, axis=0) for name, group in groups.items()}


def summarise(
    records: Mapping[str, np.ndarray],
    schema: AttributeSchema,
    graph: CausalGraph,
    patients: Sequence,
    seed: int,
    n_resamples: int,
    critics: Mapping[str, CriticScores] | None = None,
) -> tuple[dict[str, Any], Samples]:
    """All results as nested dictionaries, and the bootstrap samples behind them.

    Numbers with an interval are `[estimate, low, high]` (95 %, bootstrap by patient); None is "not defined", for
    example an AUC where all images have one class.
    """
    samples = bootstrap_samples(records, schema, graph, patients, seed, n_resamples, critics)
    results: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for path, values in samples.items():
        put(results, path, plain(interval(values)))
    for k in interventions(records, schema):
        signed = interval(samples[f"do/{k}/signed_distance"])
        results["do"][k]["distance"] = plain(absolute_interval(signed))
        results["do"][k]["changed_share"] = results["do"][k]["changed_share"][0]
        exposure = records[f"do/{k}/exposure"]
        exposure = exposure[~np.isnan(exposure)]
        median = float(np.median(exposure)) if len(exposure) else math.nan
        results["do"][k]["exposure_share_median"] = plain(median)
    for k, scores in (critics or {}).items():
        results["do"][k]["two_sample"] = describe_scores(scores)
    results["composition_max"] = plain(records["real/composition/1"].max())
    results |= _distribution_distances(records, schema)
    return results, samples


def _distribution_distances(records: Mapping[str, np.ndarray], schema: AttributeSchema) -> dict[str, Any]:
    """Fréchet and kernel distance of counterfactuals to real images in the judge's embedding, without interval.

    `all` pools the interventions' images; the Fréchet distance then compares sets of different sizes, as usual.
    """
    names = [k for k in interventions(records, schema) if f"do/{k}/embedding" in records]
    real = records.get("real/embedding")
    if not names or len(real) < 2:
        return {"fid": None, "kid": None, "feature_extractor": None}
    sets = {k: records[f"do/{k}/embedding"] for k in names}
    sets["all"] = np.concatenate(list(sets.values()))
    return {
        "fid": {k: plain(frechet_distance(x, real)) for k, x in sets.items()},
        "kid": {k: plain(kernel_distance(x, real)) for k, x in sets.items()},
        "feature_extractor": "the judge's pooled embedding",
    }
