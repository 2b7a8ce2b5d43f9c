"""The metrics as modules for `evaluate.load`, one folder each; see `cf_cxr.metrics.load`."""
