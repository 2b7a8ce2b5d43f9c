"""Evaluation of a deep SCM on a test split by an independent judge; see `cf_cxr.training.evaluation`."""

from __future__ import annotations

from .evaluation.arguments import EvaluationArguments
from .evaluation.command import main
from .evaluation.identity import SameJudgeError, weights_fingerprint

__all__ = ["EvaluationArguments", "SameJudgeError", "main", "weights_fingerprint"]
