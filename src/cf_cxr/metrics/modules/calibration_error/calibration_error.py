"""Calibration error as an evaluate module; `cf_cxr.metrics.calibration` is the plain function."""

from cf_cxr.metrics import evaluation_module as base
from cf_cxr.metrics.calibration import expected_calibration_error


class CalibrationError(base.CXRMetric):
    """Expected calibration error of a classifier: how far its probabilities are from observed frequencies, in bins of
    equal width, between 0 (ideal) and 1. Configurations: binary (probability of class 1 against its frequency),
    categorical (largest probability against the accuracy).

    Args:
        predictions: probability of class 1, or probabilities per class.
        references: class indices; NaN (unknown) is left out.
        n_bins (`int`, 15): number of bins.

    Returns:
        calibration_error.
    """

    function = staticmethod(expected_calibration_error)
    COLUMNS = {"predictions": base.PREDICTION, "references": base.NUMBER}
    CONFIGS = ("binary", "categorical")
    CITATION = """@inproceedings{guo2017calibration,
    title={On calibration of modern neural networks},
    author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
    booktitle={ICML}, year={2017}
}"""
