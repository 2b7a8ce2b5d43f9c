"""Training of causal HVAEs."""
