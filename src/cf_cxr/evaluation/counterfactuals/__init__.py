"""The evaluation of counterfactuals, from arguments to results: see `command.main` and `comparison.main`."""
