"""How good a model is on held-out patients: one frame for counterfactuals and explanations."""
