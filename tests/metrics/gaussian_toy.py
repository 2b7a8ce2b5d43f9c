"""A toy whose amplification is known in closed form: one Gaussian feature per class, scored by itself."""

import numpy as np
from scipy.stats import norm

from cf_cxr.attributes import Attribute, AttributeSchema
from cf_cxr.causal_graph import CausalGraph

SCHEMA = AttributeSchema(
    [
        Attribute("age", "continuous", minimum=0, maximum=100, unit="years"),
        Attribute("sex", "binary", categories=("Male", "Female")),
        Attribute("site", "categorical", categories=("A", "B", "C")),
        Attribute("finding", "binary", categories=("No", "Yes")),
    ]
)
GRAPH = CausalGraph({"age": [], "sex": [], "site": [], "finding": ["age"]})


def classes(n: int) -> np.ndarray:
    """0 1 0 1 …"""
    return np.arange(n) % 2


def feature(n: int, separation: float) -> np.ndarray:
    """Evenly spaced quantiles of N(-d'/2, 1) and N(d'/2, 1) in the rows of class 0 and 1: no sampling noise."""
    value = classes(n)
    quantile = norm.ppf((np.arange(n) // 2 + 0.5) / (n // 2))
    return quantile + separation * (value - 0.5)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def auc(separation: float) -> float:
    """Of two unit Gaussians, times 100."""
    return 100 * norm.cdf(separation / np.sqrt(2))
