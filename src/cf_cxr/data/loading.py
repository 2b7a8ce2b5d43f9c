"""`load_cxr`: one call for every source."""

from .parquet import load_parquet


def load_cxr(
    name_or_path,
    *,
    data_dir=None,
    resolution=None,
    split=None,
    seed=42,
    num_proc=None,
    cache_dir=None,
    on_error="raise",
    finding="Effusion",
    **options,
):
    """Radiographs of a source as a DatasetDict."""
    folder = data_dir if name_or_path == "parquet" else name_or_path
    return load_parquet(folder, finding=finding, cache_dir=cache_dir)
