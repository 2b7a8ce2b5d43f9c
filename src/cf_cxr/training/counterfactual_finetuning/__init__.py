"""Counterfactual fine-tuning of image mechanisms, with hard, soft or matched targets."""
