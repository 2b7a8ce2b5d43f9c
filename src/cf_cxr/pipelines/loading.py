"""Loads the model of a pipeline, and says in plain words what is wrong with its files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import AutoModel

from ..models.complete_loading import load_complete


class ModelFileError(Exception):
    """A model's files are missing or damaged; the message names the file and the remedy.

    Not an OSError or ValueError on purpose: `transformers.pipeline` retries those in another precision and
    then reports every traceback at once.
    """


class BundledModel(dict):
    """A task's default model in the form that transformers' registry keeps, looked for when it is asked for.

    Args:
        folder: of the model in this package.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(model=(str(folder), "main"))
        self.folder = folder

    def __getitem__(self, key: str) -> Any:
        """As a dictionary's.

        Raises:
            ModelFileError: the folder is not there.
        """
        if key == "model" and not self.folder.is_dir():
            raise ModelFileError(
                f"The bundled model is missing at {self.folder}. Install cf_cxr again, or, if this version comes "
                "without it, give model=: a folder or Hub name of your own."
            )
        return super().__getitem__(key)


class CounterfactualModelLoader:
    """What `transformers.pipeline` calls to load the weights: AutoModel behind a check of the files."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **kwargs: Any):
        """Loads any registered image model.

        Args:
            name_or_path: a local folder or a Hub repository.
            kwargs: as for `AutoModel.from_pretrained`.

        Raises:
            ModelFileError: a folder without weights, a weight file that cannot be read, or weights that are missing or
                do not fit the configuration.
        """
        return load_complete(AutoModel, name_or_path, ModelFileError, **kwargs)
