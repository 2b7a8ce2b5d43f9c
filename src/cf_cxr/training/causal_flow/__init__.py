"""Training of causal flows."""
