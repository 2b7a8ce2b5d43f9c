"""Critics that tell the evaluation's counterfactuals from its real films, and what they find most suspicious."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ...attributes import AttributeSchema
from ...images.grey_levels import GREY_LEVELS
from ...metrics.two_sample import CriticScores, critic_scores

NUM_SUSPECTS = 2  # pictures per intervention


def read_films(
    records: Mapping[str, np.ndarray],
    schema: AttributeSchema,
    patients: Sequence,
    seed: int,
    progress: bool = False,
) -> dict[str, CriticScores]:
    """Scores of critics by intervened variable, on counterfactuals where its value changed; none without images.

    `rows` of the scores are those of the records, for real films and counterfactuals alike. Sides and folds of
    patients follow from the seed, so that two models on the same images are compared on the same films.
    """
    if "images/real" not in records:
        return {}
    out, patients = {}, np.asarray(patients)
    real = records["images/real"] / np.float32(GREY_LEVELS) - 1
    names = [k for k in schema.names if f"images/do/{k}" in records]
    for k in tqdm(names, desc="Training critics", disable=not progress):
        factual, new = (records[name][:, schema.index(k)] for name in ("factual", f"do/{k}/attributes"))
        changed = np.flatnonzero(new != factual)
        made = records[f"images/do/{k}"][changed] / np.float32(GREY_LEVELS) - 1
        values = (factual, new[changed], patients, patients[changed])
        scores = critic_scores(real, made, *values, kind=schema[k].scored_as, seed=seed)
        rows = scores.rows.copy()
        rows[scores.counterfactual] = changed[rows[scores.counterfactual]]
        out[k] = dataclasses.replace(scores, rows=rows)
    return out


def describe_scores(scores: CriticScores) -> dict[str, Any]:
    """How many films of either kind were used, and what could not be compared and why."""
    return {
        "real": int((~scores.counterfactual).sum()),
        "counterfactual": int(scores.counterfactual.sum()),
        "bins_left_out": scores.bins_left_out,
        "reason": scores.reason or None,
    }


def suspicious_films(
    records: Mapping[str, np.ndarray], critics: Mapping[str, CriticScores]
) -> dict[str, np.ndarray]:
    """The counterfactuals that critics are surest about, most suspicious first: see `plots.suspects_figure`."""
    out = {}
    for k, scores in critics.items():
        fakes = np.flatnonzero(scores.counterfactual)
        worst = fakes[np.argsort(-scores.score[fakes], kind="stable")][:NUM_SUSPECTS]
        if len(worst):
            rows = scores.rows[worst]
            out[f"do/{k}/image"] = records[f"images/do/{k}"][rows]
            out[f"do/{k}/before"] = records["images/real"][rows]
            out[f"do/{k}/attributes"] = records[f"do/{k}/attributes"][rows]
            out[f"do/{k}/places"] = scores.places[worst]
    return out
