"""Training of the causal mechanisms; nothing here is imported by the models."""
