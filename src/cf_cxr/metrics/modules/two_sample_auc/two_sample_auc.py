"""Two-sample AUC as an evaluate module; `cf_cxr.metrics.two_sample` is the plain function."""

import numpy as np

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.two_sample import STEPS, two_sample_auc


class TwoSampleAUC(base.CXRMetric):
    """See DESCRIPTION."""

    CONFIGS = base.KIND_CONFIGS
    UNPAIRED = True
    URL = "https://arxiv.org/abs/1610.06545"
    CITATION = """@inproceedings{lopezpaz2017revisiting,
    title={Revisiting classifier two-sample tests},
    author={Lopez-Paz, David and Oquab, Maxime},
    booktitle={ICLR},
    year={2017}
}
"""
    DESCRIPTION = """How well a small network, trained on films of some patients, tells counterfactuals from real films
of other patients that have the counterfactuals' new value (C2ST). AUC in [0, 1]; 0.5 is ideal: nobody can tell. A patient
with both kinds of films is shown with one kind only.
"""
    INPUTS = f"""
Args:
    predictions: counterfactual images (K, H, W), in [-1, 1].
    references: real images (N, H, W); N may differ from K, and either may be added alone.
    prediction_values: new values of the intervened attribute (K,): class indices, or units ("continuous").
    reference_values: factual values of the real images (N,).
    prediction_patients, reference_patients: identifiers (K,) and (N,), read as text.
    width (`int`): pixels per row; without it images are square.
    folds (`int`, 2): of patients. steps (`int`, {STEPS}): of training per fold.
{base.INTERVAL_DESCRIPTION}Returns:
    two_sample_auc (with "_interval"), real, counterfactual (numbers of films used), bins_left_out, and reason: why the
    AUC is NaN, else "".
"""

    def columns(self):
        return {
            "predictions": base.pixels(),
            "references": base.pixels(),
            "prediction_values": base.NUMBER,
            "reference_values": base.NUMBER,
            "prediction_patients": base.TEXT,
            "reference_patients": base.TEXT,
        }

    def score(self, data, width=None, folds=2, steps=STEPS, n_resamples=1000, seed=0):
        given = {}
        for side in ("reference", "prediction"):
            values, patients = data[f"{side}_values"], data[f"{side}_patients"]
            given[side] = (
                base.to_masks(f"{side}s", data[f"{side}s"], width),
                values[~np.isnan(values)],  # rows of the longer side have no partner
                [name for name in patients if name],
            )
            if len({len(column) for column in given[side]}) > 1:
                raise ValueError(
                    f"{side}s, {side}_values and {side}_patients must have the same number of rows (NaN and empty names "
                    f"left out), got {', '.join(str(len(column)) for column in given[side])}."
                )
        columns = [column for pair in zip(given["reference"], given["prediction"]) for column in pair]
        options = {"n_resamples": n_resamples, "seed": seed, "folds": folds, "steps": steps}
        found = two_sample_auc(*columns, kind=self.config_name, **options)
        return {**base.with_intervals({"two_sample_auc": found.pop("two_sample_auc")}), **found}
