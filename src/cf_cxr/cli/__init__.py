"""The `cf-cxr` command."""
