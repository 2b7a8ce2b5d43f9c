"""Two-sample AUC as an evaluate module; `cf_cxr.metrics.two_sample` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.two_sample import two_sample_auc


class TwoSampleAUC(base.CXRMetric):
    """How well a small network, trained on films of some patients, tells counterfactuals from real films of other patients
    that have the counterfactuals' new value (C2ST). AUC in [0, 1]; 0.5 is ideal: nobody can tell. A patient with both
    kinds of films is shown with one kind only.

    Args:
        references: real images (N, H, W), in [-1, 1].
        predictions: counterfactual images (K, H, W); K may differ from N, and either may be added alone.
        reference_values: factual values of the real images (N,): class indices, or units ("continuous").
        prediction_values: new values of the intervened attribute (K,).
        reference_patients, prediction_patients: identifiers (N,) and (K,), read as text.
        folds (`int`, 2): of patients. steps (`int`, 120): of training per fold.

    Returns:
        two_sample_auc (with "_interval"), real, counterfactual (numbers of films used), bins_left_out, and reason: why
        the AUC is NaN, else "".
    """

    function = staticmethod(two_sample_auc)
    COLUMNS = {
        **dict.fromkeys(("references", "predictions"), base.IMAGES),
        **dict.fromkeys(("reference_values", "prediction_values"), base.NUMBER),
        **dict.fromkeys(("reference_patients", "prediction_patients"), base.TEXT),
    }
    CONFIGS = base.KINDS
    UNPAIRED = True
    URL = "https://arxiv.org/abs/1610.06545"
    CITATION = """@inproceedings{lopezpaz2017revisiting,
    title={Revisiting classifier two-sample tests},
    author={Lopez-Paz, David and Oquab, Maxime},
    booktitle={ICLR}, year={2017}
}"""
