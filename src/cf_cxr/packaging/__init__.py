"""Trained parts become a model folder with a card."""
