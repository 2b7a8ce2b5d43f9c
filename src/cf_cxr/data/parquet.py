"""Radiographs embedded in parquet files: a folder with `train.parquet`, `validation.parquet`, `test.parquet`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import SPLITS, cxr_features
from .errors import MissingDataError
from .schemas import NO_FINDING, cxr_schema

if TYPE_CHECKING:
    import datasets


def load_parquet(folder: str | Path, *, finding: str = "Effusion", cache_dir=None) -> datasets.DatasetDict:
    """Images as they are stored, with the columns of `cxr_schema("parquet")`."""
    from datasets import Dataset, DatasetDict, Image

    folder = Path(folder)
    files = {split: folder / f"{split}.parquet" for split in SPLITS}
    present = {split: path for split, path in files.items() if path.is_file()}
    if not present:
        raise MissingDataError(f"{folder} has none of {', '.join(f'{s}.parquet' for s in SPLITS)}.")
    schema, _ = cxr_schema("parquet", finding=finding)
    features = cxr_features(schema)
    result = DatasetDict()
    for split, path in present.items():
        stored = Dataset.from_parquet(str(path), cache_dir=cache_dir)
        rows = stored.remove_columns("image").to_pandas()
        columns: dict[str, Any] = {
            "age": rows["age"].astype("float32").tolist(),
            "sex": rows["sex"].tolist(),
            "view": rows["view"].tolist(),
            "finding": [finding_index(labels, finding) for labels in rows["findings"]],
            "image_id": rows["image_id"].astype(str).tolist(),
            "patient_id": rows["patient_id"].astype(str).tolist(),
        }
        table = stored.select_columns("image").cast_column("image", Image(mode="L"))
        for name, values in columns.items():
            table = table.add_column(name, values, feature=features[name])
        result[split] = table
    return result


def finding_index(labels, finding: str) -> int | None:
    """1 if the finding is among the labels, 0 if there is no label at all, else None (something else)."""
    labels = list(labels)
    if finding in labels:
        return 1
    return 0 if not labels or labels == [NO_FINDING] else None
