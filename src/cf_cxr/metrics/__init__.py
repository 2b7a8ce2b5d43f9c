"""Metrics of counterfactual images: plain functions of arrays, without models."""
