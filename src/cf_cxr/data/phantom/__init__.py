"""A chest radiograph simulator with a known causal model: see docs/phantom.md."""

from .chest import ChestPhantom
from .config import PhantomConfig
from .dataset import phantom_dataset
from .factors import FACTORS
from .noise import NOISE_COLUMNS
from .posterior import BayesPosterior, bayes_posterior
from .renderer import PhantomImages
from .scm import graph, phantom_schema, schema

__all__ = [
    "FACTORS",
    "NOISE_COLUMNS",
    "BayesPosterior",
    "ChestPhantom",
    "PhantomConfig",
    "PhantomImages",
    "bayes_posterior",
    "graph",
    "phantom_dataset",
    "phantom_schema",
    "schema",
]
