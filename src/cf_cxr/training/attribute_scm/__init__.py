"""Training of the mechanisms of attributes."""
