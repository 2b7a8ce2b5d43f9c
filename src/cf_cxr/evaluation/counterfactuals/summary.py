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
from ...metrics.effectiveness import absolute_interval
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
    weights: np.ndarray,
    critics: Mapping,
) -> Samples:
    """Bootstrap samples of every statistic, by its path in the results; weights `(R, N)` from `patient_weights`.

    AUC in points (0 to 100), mean absolute errors in units, images in grey levels of 0 to 255, likelihoods in bits
    per dimension, calibration errors, shares and the two-sample AUC in [0, 1]. NaN where a statistic is not defined
    (one class only).
    """
    factual = dict(zip(schema.names, records["factual"].T))
    out: Samples = {}

    def mean(path: str, values: np.ndarray) -> None:
        out[path] = mean_samples(values, weights)

    def score(j: str, record: str, value: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        return score_samples(schema[j].scored_as, records[record][rows], value[rows], weights[:, rows], j)

    if not np.isnan(records["real/nll"]).all():
        mean("nelbo_bits_per_dim", (records["real/nll"] + records["real/kl"]) / math.log(2))
    mean("composition", records["real/composition/1"])
    mean("composition_10", records["real/composition/10"])
    for result, who in (("real", "judge"), ("real_model_classifier", "model"), ("bayes", "bayes")):
        for a in schema:
            if (record := f"real/{who}/{a.name}") in records:
                out[f"{result}/{a.name}"] = score(a.name, record, factual[a.name])
                if a.is_discrete and who != "bayes":
                    error = calibration_samples(records[record], factual[a.name], weights)
                    out[f"ece_{who}/{a.name}"] = error
    names = interventions(records, schema)
    for k in names:
        do, value = f"do/{k}", records[f"do/{k}/attributes"][:, schema.index(k)]
        changed = value != factual[k]
        effect = out[f"{do}/effectiveness"] = score(k, f"{do}/judge/{k}", value)
        out[f"{do}/signed_distance"] = effect - out[f"real/{k}"]
        out[f"{do}/distance"] = np.abs(out[f"{do}/signed_distance"])
        nothing = np.full(len(effect), np.nan)
        only = score(k, f"{do}/judge/{k}", value, changed) if changed.any() else nothing
        out[f"{do}/effectiveness_changed_only"] = only
        own = out[f"{do}/effectiveness_model_classifier"] = score(k, f"{do}/model/{k}", value)
        out[f"{do}/fooling_gap"] = own - effect
        if f"{do}/true/judge/{k}" in records:
            true = out[f"{do}/oracle_effectiveness"] = score(k, f"{do}/true/judge/{k}", value)
            out[f"{do}/signed_distance_to_oracle"] = effect - true
        mean(f"{do}/changed_share", changed.astype(float))
        for record, name in MEANS.items():
            if f"{do}/{record}" in records:
                mean(f"{do}/{name}", records[f"{do}/{record}"])
        mean(f"{do}/minimality", np.where(changed, minimality(records, schema, k), np.nan))
        for j in untouched(graph, schema.names, k):
            for name, who in (("posterior_drift", "judge"), ("oracle_posterior_drift", "true/judge")):
                if f"{do}/{who}/{j}" in records:
                    drift = np.abs(records[f"{do}/{who}/{j}"] - records[f"real/judge/{j}"])
                    mean(f"{do}/{name}/{j}", drift.sum(1) / 2 if drift.ndim == 2 else drift)
    for k, scores in critics.items():
        out[f"do/{k}/two_sample_auc"] = two_sample_samples(scores, weights[:, scores.rows])
    real = {j: records[f"real/judge/{j}"] for j in schema.names}
    for prefix, who in (("", "judge"), ("oracle_", "true/judge")):
        if all(f"do/{k}/{who}/{k}" in records for k in names):
            asked = {k: {j: records[f"do/{k}/{who}/{j}"] for j in schema.names} for k in names}
            found = amplification(schema, graph, real, asked, records["factual"], weights)
            out |= {f"{prefix}mean_abs_amplification/{j}": s for j, s in found.mean_abs_samples.items()}
            for k, row in found.samples.items():
                out |= {f"do/{k}/{prefix}amplification/{j}": s for j, s in row.items()}
    return out | means_over_interventions(out, schema, names)


def interventions(records: Mapping[str, np.ndarray], schema: AttributeSchema) -> list[str]:
    """The variables that were intervened on, in the schema's order."""
    return [k for k in schema.names if f"do/{k}/attributes" in records]


def minimality(records: Mapping[str, np.ndarray], schema: AttributeSchema, k: str) -> np.ndarray:
    """N's latent divergence `(N,)` in the judge's embedding, of the first `MINIMALITY_IMAGES` images.

    NaN for the others, where no other image has the old or the new value, and without embeddings.
    """
    some, column = slice(0, MINIMALITY_IMAGES), schema.index(k)
    out = np.full(len(records["factual"]), np.nan)
    if f"do/{k}/embedding" in records:
        latents = (records[f"{where}/embedding"][some] for where in ("real", f"do/{k}"))
        values = (records[name][some, column] for name in ("factual", f"do/{k}/attributes"))
        out[some] = latent_minimality(schema[k].scored_as, *latents, *values, distance="l1", name=k)
    return out


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

    def add(name: str, path: str, minus: str = "", of: str = "", unit: str = "auc_points") -> None:
        """Adds a statistic, or the absolute difference of two, to a mean; per unit of the attribute `of`."""
        if path not in samples or (minus and minus not in samples):
            return
        values = samples[path] - samples[minus] if minus else samples[path]
        if of:
            name, values = f"{name}/{unit if schema[of].is_discrete else of}", np.abs(values)
        if not np.isnan(values[0]):
            groups.setdefault(name, []).append(values)

    for k in names:
        do = f"do/{k}"
        add("mean_distance", f"{do}/signed_distance", of=k)
        add("mean_fooling_gap", f"{do}/fooling_gap", of=k)
        add("mean_distance_to_oracle", f"{do}/signed_distance_to_oracle", of=k)
        for name in ("error", "error_inside", "error_outside", "two_sample_auc"):
            add(f"mean_{name}", f"{do}/{name}")
        for j in schema.names:
            for prefix in ("", "oracle_"):
                drift = f"{do}/{prefix}posterior_drift/{j}"
                add(f"{prefix}mean_posterior_drift", drift, of=j, unit="probability")
            cells = (f"{do}/{prefix}amplification/{j}" for prefix in ("", "oracle_"))
            add("mean_abs_amplification_to_oracle", *cells, of=j)
    return {name: np.mean(group, axis=0) for name, group in groups.items()}


def summarise(
    records: Mapping[str, np.ndarray],
    schema: AttributeSchema,
    graph: CausalGraph,
    patients: Sequence,
    seed: int,
    n_resamples: int,
    critics: Mapping[str, CriticScores] = {},
) -> tuple[dict[str, Any], Samples]:
    """All results as nested dictionaries, and the bootstrap samples behind them.

    Numbers with an interval are `[estimate, low, high]` (95 %, bootstrap by patient); None is "not defined", for
    example an AUC where all images have one class. Fréchet and kernel distance of counterfactuals to real images, in
    the judge's embedding, have no interval; `all` pools the interventions' images.
    """
    weights = patient_weights(patients, n_resamples, seed)
    samples = bootstrap_samples(records, schema, graph, weights, critics)
    results: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for path, values in samples.items():
        put(results, path, interval(values))
    sets = {}
    for k in interventions(records, schema):
        row, exposure = results["do"][k], records[f"do/{k}/exposure"]
        row["distance"] = absolute_interval(row["signed_distance"])
        row["changed_share"] = row["changed_share"][0]
        exposure = exposure[~np.isnan(exposure)]
        row["exposure_share_median"] = np.median(exposure) if len(exposure) else None
        if k in critics:
            row["two_sample"] = describe_scores(critics[k])
        if f"do/{k}/embedding" in records:
            sets[k] = records[f"do/{k}/embedding"]
    results["composition_max"] = records["real/composition/1"].max()
    results |= {"fid": None, "kid": None, "feature_extractor": None}
    if sets and len(records["factual"]) > 1:
        real, sets["all"] = records["real/embedding"], np.concatenate(list(sets.values()))
        results["fid"] = {k: frechet_distance(made, real) for k, made in sets.items()}
        results["kid"] = {k: kernel_distance(made, real) for k, made in sets.items()}
        results["feature_extractor"] = "the judge's pooled embedding"
    return plain(results), samples
