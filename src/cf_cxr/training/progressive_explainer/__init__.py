"""Training of progressive explainers of a black box."""
