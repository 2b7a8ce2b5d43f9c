"""The evaluation of explanations, from arguments to results: see `command.main` and `comparison.main`."""
