"""A chest radiograph simulator with a known causal model: see docs/phantom.md."""

from .chest import ChestPhantom
from .config import PhantomConfig
from .dataset import phantom_dataset
from .factors import FACTORS, BayesPosterior, bayes_posterior
from .noise import NOISE_COLUMNS
from .renderer import PhantomImages
from .scm import phantom_schema

__all__ = [
    "FACTORS", "NOISE_COLUMNS", "BayesPosterior", "ChestPhantom", "PhantomConfig", "PhantomImages", "bayes_posterior",
    "phantom_dataset", "phantom_schema",
]  # fmt: skip
